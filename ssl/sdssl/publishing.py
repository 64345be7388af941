"""From the run folder of a trained encoder to the folder that a push sends: timm's hub format, and a model card.

What is written is read back by timm itself and compared before it is called staged: `timm.create_model("hf_hub:...")`
gives the encoder that was trained, bit by bit, or the encoder is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.core.cards import render_card, repository
from harness.core.compat import load_timm
from harness.core.errors import ConfigurationError, UnknownNameError
from harness.core.files import hash_file, read_json, write_json, write_text
from harness.core.loading import is_hub_id, summary
from harness.core.runs import read_run
from harness.core.staging import empty_folder
from sdssl.checkpoint import save_tensors
from sdssl.encoder_files import ENCODER_FACTS, ENCODER_WEIGHTS, LAYER_NORMS
from sdssl.encoders import Hardware, ImageEncoder
from sdssl.evaluation_run import COMMAND, RESULTS_FILE
from sdssl.model_files import read_tensors
from sdssl.objectives.base import OBJECTIVES
from sdssl.timm_reader import open_run
from sdssl.watch import METRICS, read_metrics

CARD, CONFIG, WEIGHTS = "README.md", "config.json", "model.safetensors"
_K = 20


def stage_encoder(run: Path, staging: Path, *, repo: str | None = None, evaluations: Sequence[Path] = ()) -> list[str]:
    """Write what may leave of a trained encoder into an empty folder, which timm and `open_image_encoder` read.

    Args:
        run: A finished run folder of `harness ssl train`.
        staging: An empty folder, or one to be made.
        repo: `ORG/NAME`, for the commands on the card.
        evaluations: Run folders of `harness eval ssl` on this encoder, whose k-NN readings the card tells.

    Returns:
        The names of the files, sorted.

    Raises:
        ConfigurationError: It is no such run, the folder is not empty, or timm cannot express the encoder.
        HarnessError: The run is damaged.
    """
    run, staging = Path(run), Path(staging)
    repo = repository(repo)
    read_run(run, "ssl train")
    encoder = open_run(run, Hardware(device="cpu"), None)
    facts = read_json(run / ENCODER_FACTS)
    tables = [table for folder in evaluations for table in _tables(Path(folder), encoder)]
    state = read_tensors(run / ENCODER_WEIGHTS)
    with empty_folder(staging):
        save_tensors(staging / WEIGHTS, state)
        if facts.get("norm") == "own":
            save_tensors(staging / LAYER_NORMS, read_tensors(run / LAYER_NORMS))
        weights_hash = hash_file(staging / WEIGHTS)
        write_json(staging / CONFIG, _config(encoder, facts, weights_hash))
        _check(staging, state, facts["arch"])
        card = _card(run, encoder, facts, tables, weights_hash, repo)
        write_text(staging / CARD, card)
    return sorted(path.name for path in staging.iterdir())


def _config(encoder: ImageEncoder, facts: Mapping[str, Any], weights_hash: str) -> dict[str, Any]:
    """What timm reads; of `palimpsest` it takes no notice."""
    image = encoder.image
    size = [3, image.image_size, image.image_size]
    width = _width(encoder)
    arguments = {key: value for key, value in facts["arguments"].items() if key != "num_classes"}
    trained = {key: value for key, value in encoder.facts.items() if value is not None and key != "arguments"}
    return {
        "architecture": facts["arch"].partition(".")[0],
        "num_classes": 0,
        "num_features": width,
        "global_pool": arguments.get("global_pool", "token"),
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": size,
            "fixed_input_size": True,
            "mean": list(image.mean),
            "std": list(image.std),
            "interpolation": image.interpolation,
            "crop_pct": image.crop_fraction,
            "crop_mode": "center",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "palimpsest": {**trained, "weights_hash": weights_hash},
    }


def _width(encoder: ImageEncoder) -> int:
    return int(encoder.backbone.module["model"].num_features)  # type: ignore[index]


def _check(staging: Path, state: Mapping[str, torch.Tensor], arch: str) -> None:
    """Have timm itself load what was staged, and compare.

    Raises:
        ConfigurationError: It makes another encoder of it; the architecture is named.
    """
    timm = load_timm()
    try:
        with torch.random.fork_rng(devices=[]):
            loaded = timm.create_model(f"local-dir:{staging}", pretrained=True).state_dict()
    except Exception as error:  # timm raises whatever its layers do
        raise ConfigurationError(f"timm cannot load {arch!r} from its own format: {summary(error)}.") from error
    other = sorted(
        name
        for name in {*state, *loaded}
        if name not in state or name not in loaded or not torch.equal(state[name], loaded[name])
    )
    if other:
        raise ConfigurationError(
            f"timm's own format cannot express this {arch!r}: {len(other)} of its tensors come back as others "
            f"({', '.join(other[:3])})."
        )


def _tables(folder: Path, encoder: ImageEncoder) -> list[dict[str, Any]]:
    """The k-NN readings of an evaluation run, at the class token where there is one.

    Raises:
        ConfigurationError: It is no such run, or of another encoder.
    """
    read_run(folder, COMMAND)
    tables = []
    for row in read_json(folder / RESULTS_FILE)["rows"]:
        if row["protocol"]["encoder"]["hash"] != encoder.hash:
            raise ConfigurationError(f"the evaluation in {folder} is of another encoder ({row['encoder']}).")
        readings = [reading for reading in row["readings"] if reading["protocol"] == f"knn-{_K}"]
        poolings = {reading["pooling"] for reading in readings}
        if not poolings:
            continue
        pooling = "cls" if "cls" in poolings else min(poolings)
        own = sorted((r for r in readings if r["pooling"] == pooling), key=lambda r: int(r["layer"]))
        tables.append(
            {
                "k": _K,
                "pooling": pooling,
                "dataset": row["eval_dataset"],
                "n_train": row["n_train"],
                "n_test": row["n_test"],
                "rows": [
                    (r["layer"], *(f"{100 * r['top1'][key]:.1f}" for key in ("value", "low", "high"))) for r in own
                ],
            }
        )
    return tables


def _card(
    run: Path,
    encoder: ImageEncoder,
    facts: Mapping[str, Any],
    tables: Sequence[Mapping[str, Any]],
    weights_hash: str,
    repo: str,
) -> str:
    name = str(facts.get("objective"))
    try:
        paper = OBJECTIVES.get(name).info.paper
    except (UnknownNameError, AttributeError):  # of another package that is not here, or does not say it
        paper = None
    online = [line["online_knn"] for line in read_metrics(run / METRICS) if line.get("online_knn") is not None]
    last = online[-1] if online else None
    header = {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "license": "unknown",
        "tags": [
            *("timm", "image-feature-extraction", "self-supervised-learning", "palimpsest", name),
            *(["self-distillation"] if facts.get("self_distill") else []),
        ],
        "datasets": [facts["dataset_id"]] if is_hub_id(facts.get("dataset_id")) else None,
    }
    told = ("dataset", "dataset_hash", "train_images", "epochs", "steps", "batch_size", "seed", "norm", "self_distill")
    return render_card(
        "sdssl",
        "encoder_card.md.j2",
        header,
        name=repo.partition("/")[2] if repo != "ORG/NAME" else encoder.name,
        repo=repo,
        arch=encoder.arch,
        width=_width(encoder),
        depth=encoder.num_layers,
        image_size=encoder.image.image_size,
        objective=name,
        paper=paper,
        active_layers=", ".join(map(str, facts.get("active_layers", ()))),
        settings=facts.get("settings"),
        weights_hash=weights_hash,
        tables=tables,
        online=None if last is None else f"{100 * last:.1f}",
        **{key: facts.get(key) for key in told},
    )
