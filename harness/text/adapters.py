"""Low-rank adapters: a fine-tuned model as what training changed of its encoder.

Training changes the last bits of all weights with the number of threads and with the processor, so that a fully tuned
model cannot be made again elsewhere; and it is too large to go with a set. An adapter (LoRA; Hu et al., ICLR 2022) of
a small encoder has a few MB. Its factors are kept in half precision and merged in a fixed order: the model has the
same weights, and the same hash, on every machine.

Folders are those of the library `peft`, which trains; loading does without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, DataError, HarnessError, VictimError
from harness.core.files import read_json, write_json
from harness.core.loading import summary
from harness.core.tensors import check_tensors
from harness.text.starting_points import pretrained_classifier

# The first tells a folder of an adapter from one of a whole model.
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
# How the name of a factor ends while `peft` trains it.
_IN_TRAINING = ".default.weight"
# Other ways of merging that a configuration of peft may ask for.
_OTHER_WAYS = (
    *("alpha_pattern", "rank_pattern", "fan_in_fan_out", "lora_bias", "use_bdlora", "use_dora", "use_qalora"),
    *("use_rslora", "megatron_config", "layer_replication", "arrow_config", "kasa_config", "velora_config"),
)
_MERGE = "Merge it into its encoder with peft, and use the whole model."


def with_adapter(model: Any, rank: int, whole: Sequence[str]) -> Any:
    """Let training move linear layers of a model through factors only, and some tensors as they are.

    Args:
        model: A model of transformers with an encoder inside; it is changed in place. Layers outside the encoder get
            no factors.
        rank: Columns of a factor.
        whole: Names of the tensors that are trained as they are.

    Returns:
        The model inside one of `peft`.

    Raises:
        HarnessError: The library `peft` is not installed.
        ConfigurationError: The model has layers that are linear but not `torch.nn.Linear`.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise HarnessError("the package peft is not installed.", 'Run: pip install "palimpsest[adapters]"') from error
    if any(type(part).__name__ == "Conv1D" for part in model.modules()):
        raise ConfigurationError(
            "the encoder has layers of GPT-2's kind, which take no adapter here.", "Train all weights."
        )
    outside = {name for name, _ in model.named_children() if name != model.base_model_prefix}
    apart = rf"({'|'.join(map(re.escape, sorted(outside | _modules(whole))))})(\..*)?"
    own = dict(model.named_parameters())
    tuned = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", exclude_modules=apart)
    )
    for name in whole:
        own[name].requires_grad_(True)
    return tuned


def save_adapter(model: Any, folder: Path, encoder: str, *, task: str | None = None) -> None:
    """Write what was trained, matrices in half precision, and how it is to be merged.

    Args:
        model: What `with_adapter` changed, trained.
        folder: Where to.
        encoder: What was tuned, as it will be looked for.
        task: What `peft` calls the task.
    """
    import torch
    from safetensors.torch import save_file

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    factors = {name for name in trained if name.endswith(_IN_TRAINING)}
    tensors = {}
    for name, value in sorted(trained.items()):
        kept = value.detach().cpu().to(torch.float16 if value.ndim > 1 else torch.float32)
        tensors[_PREFIX + name.replace(_IN_TRAINING, ".weight")] = kept.contiguous()
    save_file(tensors, folder / ADAPTER_WEIGHTS, {"format": "pt"})
    (rank,) = {len(trained[name]) for name in factors if ".lora_A." in name}
    told = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": encoder,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": sorted({name.partition(".lora_")[0] for name in factors}),
        "modules_to_save": sorted(_modules(set(trained) - factors)),
        "inference_mode": True,
    }
    write_json(folder / ADAPTER_CONFIG, told)


def _modules(tensors: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[0] for name in tensors}


def load_adapter(folder: Path) -> tuple[Any, Any]:
    """A classifier with an adapter merged into its encoder.

    Args:
        folder: With `adapter_config.json` and `adapter_model.safetensors`, of `save_adapter` or of `peft`; the names of
            the classes are in `config.json` where there is one.

    Returns:
        (model, tokenizer); the tokenizer is the encoder's.

    Raises:
        MissingFileError: The folder or its encoder is not there.
        VictimError: It is no plain LoRA of a classifier, or does not fit its encoder.
    """
    settings, tensors = read_adapter(folder)
    # The last matrix of the head has a row a class; all others that are trained as a whole have more.
    matrices = [value for name, value in tensors.items() if value.ndim == 2 and not _FACTOR.fullmatch(name)]
    if not (classes := min(map(len, matrices), default=0)):
        raise VictimError(f"the adapter {folder} has no trained classification head.")
    model, tokenizer, new = pretrained_classifier(settings["base_model_name_or_path"], _names(folder, classes))
    if missing := sorted(set(new) - set(tensors)):
        raise VictimError(f"the adapter {folder} lacks tensors that its encoder has not either: {', '.join(missing)}.")
    merge(model, tensors, settings["lora_alpha"] / settings["r"], str(folder))
    return model, tokenizer


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """An adapter's configuration, and its tensors by their names in the model.

    Raises:
        MissingFileError: A file is not there.
        VictimError: It is no plain LoRA.
        DataError: Its weights are no sound safetensors file.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    _check(folder, settings)
    return settings, _read(folder / ADAPTER_WEIGHTS)


def merge(model: Any, tensors: Mapping[str, Any], scale: float, name: str) -> None:
    """Add the products of factors to a model's weights, and put whole tensors in place of its own.

    Products are summed one column after the other in double precision: each operation is rounded as IEEE 754 says, so
    the sum does not depend on the processor. A matrix product is added up in an order of its library's choice.

    Args:
        model: Changed in place.
        tensors: Names in the model -> whole tensors, MODULE.lora_A.weight (rank, in) and MODULE.lora_B.weight
            (out, rank).
        scale: What the products are multiplied with.
        name: How errors call the adapter.

    Raises:
        VictimError: A tensor that the model does not have, or of another shape; a factor without the other, or of a
            layer that is not linear; a number that is none.
    """
    import torch

    own, parts = dict(model.named_parameters()), dict(model.named_modules())
    factors = {(found["module"], found["factor"]) for key in tensors if (found := _FACTOR.fullmatch(key))}
    whole = {key: tensor for key, tensor in tensors.items() if not _FACTOR.fullmatch(key)}
    with torch.no_grad():
        for module in sorted({module for module, _ in factors}):
            weight = own.get(f"{module}.weight") if isinstance(parts.get(module), torch.nn.Linear) else None
            a, b = (tensors.get(f"{module}.lora_{factor}.weight") for factor in "AB")
            if weight is None or a is None or b is None or not _fit(weight, a, b):
                raise VictimError(f"the adapter {name} does not fit its encoder at {module}.")
            change = torch.zeros(weight.shape, dtype=torch.float64)
            for column, row in zip(b.double().T, a.double(), strict=True):
                change += column[:, None] * row[None, :]
            weight.copy_(weight.double() + scale * change)
        for key, tensor in whole.items():
            if key not in own or own[key].shape != tensor.shape:
                raise VictimError(f"the adapter {name} does not fit its encoder at {key}.")
            own[key].copy_(tensor)
    if not all(bool(torch.isfinite(value).all()) for value in own.values()):
        raise VictimError(f"the adapter {name} has weights that are no numbers.")


def _fit(weight: Any, a: Any, b: Any) -> bool:
    return a.ndim == b.ndim == 2 and (*b.shape, *a.shape) == (weight.shape[0], len(a), len(a), *weight.shape[1:])


def _check(folder: Path, settings: Any) -> None:
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else None
        raise VictimError(f"the adapter {folder} is no LoRA but {kind!r}.", _MERGE)
    if other := [way for way in _OTHER_WAYS if settings.get(way)]:
        raise VictimError(
            f"the adapter {folder} is merged in a way that is not known here: {', '.join(other)}.", _MERGE
        )
    rank, alpha, base = (settings.get(key) for key in ("r", "lora_alpha", "base_model_name_or_path"))
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float) and isinstance(base, str) and base):
        raise VictimError(f"{folder / ADAPTER_CONFIG} does not say r, lora_alpha and base_model_name_or_path.")


def _read(path: Path) -> dict[str, Any]:
    """The tensors by their names in the model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_tensors(path)
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path} is not a sound safetensors file: {summary(error)}.") from error
    return {name.removeprefix(_PREFIX): tensor for name, tensor in found.items()}


def _names(folder: Path, classes: int) -> list[str]:
    known = read_json(folder / "config.json").get("id2label", {}) if (folder / "config.json").is_file() else {}
    return [str(known.get(str(index), f"LABEL_{index}")) for index in range(classes)]
