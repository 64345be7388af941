"""A published encoder is the one that was trained, for timm and for us; its card; hostile folders."""

from __future__ import annotations

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from harness.core.compat import prepare_torchvision

prepare_torchvision()

import timm  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError  # noqa: E402
from harness.core.files import read_json  # noqa: E402
from sdssl.hub_reader import open_image_encoder  # noqa: E402
from sdssl.publishing import stage_encoder  # noqa: E402
from sdssl.training import train  # noqa: E402

HOSTILE = 'evil`\n---\n<script>alert(1)</script> **bold** "quoted" [a](http://b) |'
KINDS: dict[str, dict[str, Any]] = {
    # MoCo v3's frozen patch embedding and sine-cosine positions, all layers distilled.
    "mocov3": {},
    "baseline": {"objective": "simclr", "self_distill": False, "freeze_patch_embedding": False},
    "own norms": {"norm": "own", "layers": (1, 3)},
    "tagged": {"arch": "vit_tiny_patch16_224.augreg_in21k", "objective": "byol"},
    "two prefix tokens": {"arch": "deit_tiny_distilled_patch16_224"},
    "pools patches": {"arch": "vit_base_patch16_siglip_224"},
    "relative positions": {"arch": "beit_base_patch16_224"},
    "rotary positions": {"arch": "eva02_tiny_patch14_224"},
    "layer scale and registers": {"arch": "vit_small_patch14_reg4_dinov2"},
}


@pytest.fixture(scope="session")
def trained(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`(kind)` -> the run folder of a tiny encoder of that kind, trained once."""
    root = tmp_path_factory.mktemp("encoders")

    def make(kind: str) -> Path:
        folder = root / kind.replace(" ", "-")
        if not folder.exists():
            from dataclasses import replace

            changes = dict(KINDS[kind])
            arch = changes.pop("arch", "vit_tiny_patch16_224")
            settings = replace(tiny.settings(epochs=1, warmup=1.0, **changes), arch=arch)  # no alarm in two steps
            train(settings, tiny.images(32), folder, tiny.options(knn_every=1))
        return folder

    return make


def pictures(n: int, size: int = 8) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(n)]


def told_by_hooks(model: Any, batch: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    """The output of each block as timm's own forward makes it, (n, tokens, d)."""
    kept: list[np.ndarray[Any, Any]] = []
    handles = [
        block.register_forward_hook(lambda _m, _g, output: kept.append(output.detach().clone()))
        for block in model.blocks
    ]
    with torch.inference_mode():
        model(batch)
    for handle in handles:
        handle.remove()
    return kept


@pytest.mark.parametrize("kind", KINDS)
def test_timm_and_we_read_the_same_in_every_layer(kind: str, trained: Any, tmp_path: Path) -> None:
    run = trained(kind)
    names = stage_encoder(run, tmp_path / "staged")
    own_norms = ["layer_norms.safetensors"] if kind == "own norms" else []
    assert names == ["README.md", "config.json", *own_norms, "model.safetensors"]
    model = timm.create_model(f"local-dir:{tmp_path / 'staged'}", pretrained=True).eval()
    from timm.data import create_transform, resolve_model_data_config

    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    images = pictures(4, 13)
    batch = torch.stack([transform(image) for image in images])
    ours, again = (open_image_encoder(str(folder)) for folder in (run, tmp_path / "staged"))
    if kind != "tagged":  # a tag names weights of timm's own, which these are not
        assert again.hash == ours.hash  # whatever was read of the run is in the cache for what was fetched
    layers = list(range(1, ours.num_layers + 1))
    found, found_again = ours.read(images, layers), again.read(images, layers)
    assert found.keys() == found_again.keys()
    norms = load_file(run / "layer_norms.safetensors") if own_norms else {}
    prefix = model.num_prefix_tokens
    for layer, tokens in enumerate(told_by_hooks(model, batch), 1):
        norm = model.norm
        if f"{layer}.weight" in norms:
            norm = nn.LayerNorm(tokens.shape[-1], eps=1e-6)
            norm.load_state_dict({part: norms[f"{layer}.{part}"] for part in ("weight", "bias")})
        with torch.no_grad():
            normed = norm(tokens)
            behind = model.fc_norm if isinstance(model.norm, nn.Identity) else nn.Identity()
            expected = {"cls": behind(normed[:, 0]), "avg": behind(normed[:, prefix:].mean(dim=1))}
        for pooling in ours.poolings:
            np.testing.assert_allclose(found[layer, pooling], expected[pooling].numpy(), atol=2e-5)
            np.testing.assert_array_equal(found[layer, pooling], found_again[layer, pooling])
    with torch.inference_mode():
        last = model(batch).numpy()
    pooled = {"token": "cls", "avg": "avg"}[model.global_pool]
    if kind == "two prefix tokens":
        return  # timm gives the mean of both tokens out, which is no layer's reading of ours
    np.testing.assert_allclose(found[ours.num_layers, pooled], last, atol=2e-5)


@pytest.fixture(scope="session")
def cached_hub(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the Hub's own client that holds `someone/mocov3` and `someone/own`: what it downloads lies so."""
    root = tmp_path_factory.mktemp("hub")
    for kind, name in (("mocov3", "mocov3"), ("own norms", "own")):
        repository = root / f"models--someone--{name}"
        stage_encoder(trained(kind), repository / "snapshots" / ("0" * 40), repo=f"someone/{name}")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
    return root


@pytest.mark.parametrize("spec", ["hf_hub:{}", "hf-hub:{}", "timm:hf_hub:{}", "timm:hf-hub:{}", "{}"])
@pytest.mark.parametrize(("name", "kind"), [("mocov3", "mocov3"), ("own", "own norms")])
def test_hub_specs_give_the_trained_encoder(
    spec: str, name: str, kind: str, cached_hub: Path, trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached_hub))
    encoder = open_image_encoder(spec.format(f"someone/{name}"))
    run = open_image_encoder(str(trained(kind)))
    assert encoder.name == f"hf_hub:someone/{name}"
    assert (encoder.hash, encoder.arch) == (run.hash, run.arch)
    assert {key: encoder.facts[key] for key in run.facts} == {**run.facts}


def test_timm_itself_opens_the_hub_id(cached_hub: Path, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached_hub))
    state = timm.create_model("hf_hub:someone/mocov3", pretrained=True).state_dict()
    for name, value in load_file(trained("mocov3") / "encoder.safetensors").items():
        assert torch.equal(state[name], value)
    headed = timm.create_model("hf_hub:someone/mocov3", pretrained=True, num_classes=5)
    assert headed(torch.zeros(1, 3, 8, 8)).shape == (1, 5)


def test_local_dir_with_and_without_timm(trained: Any, tmp_path: Path) -> None:
    stage_encoder(trained("mocov3"), tmp_path / "staged")
    hashes = {open_image_encoder(f"{prefix}local-dir:{tmp_path / 'staged'}").hash for prefix in ("", "timm:")}
    assert hashes == {open_image_encoder(str(trained("mocov3"))).hash}
    with pytest.raises(MissingFileError, match="no encoder folder"):
        open_image_encoder(f"timm:local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(ConfigurationError, match="--untrained"):
        open_image_encoder(f"timm:local-dir:{tmp_path / 'staged'}", untrained=True)


def test_a_hub_model_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--someone--pickled" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (tmp_path / "models--someone--pickled" / "refs").mkdir()
    (tmp_path / "models--someone--pickled" / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps({"architecture": "resnet10t", "num_classes": 0}))
    torch.save(timm.create_model("resnet10t", num_classes=0).state_dict(), snapshot / "pytorch_model.bin")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match="cannot be loaded") as caught:
        open_image_encoder("hf_hub:someone/pickled")
    assert "safetensors only" in caught.value.hint


def test_the_card_says_how_it_was_trained(trained: Any, tmp_path: Path) -> None:
    run = trained("own norms")
    stage_encoder(run, tmp_path / "staged", repo="someone/own")
    card = (tmp_path / "staged" / "README.md").read_text()
    header = ModelCard(card).data.to_dict()
    assert header["library_name"] == "timm"
    assert {"mocov3", "self-distillation", "palimpsest"} <= set(header["tags"])
    facts = read_json(run / "encoder.json")
    for told in (
        *("hf_hub:someone/own", "Chen, Xie and He", "WACV 2023", "32 images of `digits`", facts["dataset_hash"]),
        *("1 epochs, 2 steps of 16 images, seed 3", "Layers that learned: 1, 3", "AdamW", "weight decay 0.1"),
        *("timm knows one final norm", "freezes them anew", "# `own`"),
    ):
        assert told in card
    assert "None" not in card.replace("None is stated", "").replace("[None]", "")
    assert re.search(r"\n{4,}|[ \t]\n", card) is None
    plain = tmp_path / "plain"
    stage_encoder(trained("baseline"), plain)
    card = (plain / "README.md").read_text()
    assert "without self-distillation" in card
    assert "freezes them anew" not in card
    assert "timm knows one final norm" not in card


def test_the_cards_python_runs(trained: Any, cached_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cached_hub))
    card = next((cached_hub / "models--someone--mocov3" / "snapshots").iterdir()) / "README.md"
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(code, "card", "exec"), found)
    assert found["features"].shape == (1, 24)
    assert len(found["layers"]) == 3


def test_only_figures_that_a_run_holds_are_told(trained: Any, tmp_path: Path, main: Any) -> None:
    run, staged = trained("mocov3"), tmp_path / "staged"
    read = ("eval", "ssl", "--encoder", run, "--data", "digits", "--protocol", "knn", "--train-limit", 60)
    assert main(*read, "--test-limit", 30, "--out", tmp_path / "layers") == 0
    stage_encoder(run, staged, evaluations=[tmp_path / "layers"])
    card = (staged / "README.md").read_text()
    (row,) = read_json(tmp_path / "layers" / "results.json")["rows"]
    readings = [r for r in row["readings"] if (r["protocol"], r["pooling"]) == ("knn-20", "cls")]
    assert len(readings) == 3
    for reading in readings:
        assert f"| {reading['layer']} | {100 * reading['top1']['value']:.1f} |" in card
    assert "on `digits`, 60 images to look among and 30 to classify" in card
    with pytest.raises(ConfigurationError, match="is of another encoder"):
        stage_encoder(trained("baseline"), tmp_path / "other", evaluations=[tmp_path / "layers"])
    assert not (tmp_path / "other").exists()


def test_hostile_names_stay_text_on_the_card(trained: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained("baseline"), tmp_path / "run"))
    facts = read_json(run / "encoder.json")
    (run / "encoder.json").write_text(json.dumps({**facts, "dataset": HOSTILE, "objective": HOSTILE}))
    stage_encoder(run, tmp_path / "staged")
    card = (tmp_path / "staged" / "README.md").read_text()
    header, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert HOSTILE in yaml.safe_load(header)["tags"]
    html = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False}).render(body)
    assert "<script" not in html
    assert "<strong>" not in html
    assert 'href="http://b"' not in html
    assert html.count("<hr") == 0


def test_nothing_of_the_machine_leaves(trained: Any, tmp_path: Path) -> None:
    run = trained("mocov3")
    stage_encoder(run, tmp_path / "staged")
    manifest = read_json(run / "manifest.json")
    told = b"".join(path.read_bytes() for path in (tmp_path / "staged").iterdir())
    secrets = [str(run.parent), str(tmp_path), manifest["hardware"]["machine"], manifest["finished"], "wall_seconds"]
    assert [secret for secret in secrets if secret.encode() in told] == []


def test_what_timm_makes_something_else_of_is_refused(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = timm.create_model

    def other(name: str, **options: Any) -> Any:
        model = create(name, **options)
        if name.startswith("local-dir:"):
            nn.init.zeros_(model.pos_embed)
        return model

    monkeypatch.setattr(timm, "create_model", other)
    with pytest.raises(ConfigurationError, match=r"cannot express this .* \(pos_embed\)"):
        stage_encoder(trained("mocov3"), tmp_path / "staged")
    assert not (tmp_path / "staged").exists()


def test_what_is_no_finished_training_is_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not a run folder"):
        stage_encoder(tmp_path, tmp_path / "staged")
    run = Path(shutil.copytree(trained("mocov3"), tmp_path / "run"))
    (run / "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match="is not finished"):
        stage_encoder(run, tmp_path / "staged")
    with pytest.raises(ConfigurationError, match="no repository"):
        stage_encoder(trained("mocov3"), tmp_path / "staged", repo="../x")
    assert not (tmp_path / "staged").exists()


@pytest.fixture
def staged(trained: Any, tmp_path: Path) -> Path:
    stage_encoder(trained("own norms"), tmp_path / "fetched")
    return tmp_path / "fetched"


HEADERS = {
    "a header longer than the file": struct.pack("<Q", 2**62) + b"{}",
    "a header of 17 MB": struct.pack("<Q", 17 * 2**20) + b" " * (17 * 2**20),
    "nothing": b"",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.",
    "a header nested deeply": struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995,
}


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("name", ["model.safetensors", "layer_norms.safetensors"])
def test_weights_that_are_no_safetensors_are_refused(kind: str, name: str, staged: Path) -> None:
    (staged / name).write_bytes(HEADERS[kind])
    with pytest.raises(DataError, match=f"{name} is not a sound safetensors file"):
        open_image_encoder(str(staged))


@pytest.mark.parametrize("name", ["model.safetensors", "layer_norms.safetensors"])
@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "nan"])
def test_weights_of_something_else_are_refused(name: str, change: str, staged: Path) -> None:
    state = load_file(staged / name)
    key = sorted(state)[0]
    if change == "missing":
        state.pop(key)
    elif change == "unknown":
        state["../../x"] = torch.zeros(3)
    elif change == "shape":
        state[key] = state[key][..., :-1].contiguous()
    else:
        state[key] = torch.full_like(state[key], torch.nan)
    save_file(state, staged / name)
    with pytest.raises(DataError) as caught:
        open_image_encoder(str(staged)).read(pictures(1), [1, 2, 3])
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("file", ["config.json", "encoder.json"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"embed_dim": 2**40},
        {"embed_dim": 16_384, "depth": 256, "num_heads": 2},
        {"depth": 10**9},
        {"img_size": 10**9},
        {"img_size": [[8], 8]},
        {"checkpoint_path": "/etc/passwd"},
        {"pretrained": True},
        {"pretrained_cfg": {"url": "http://127.0.0.1/x"}},
        {"pretrained_cfg_overlay": {"file": "/etc/passwd"}},
        {"features_only": True},
        {"block_fn": {"a": 1}},
        {"embed_dim": float("nan")},
        {"evil": 1},
        {"__class__": "x"},
        [],
        None,
    ],
    ids=str,
)
def test_arguments_that_no_model_has_are_refused(file: str, arguments: Any, staged: Path, trained: Any) -> None:
    folder = staged
    if file == "encoder.json":
        folder = Path(shutil.copytree(trained("own norms"), staged.parent / "run"))
    facts = read_json(folder / file)
    key = {"config.json": "model_args", "encoder.json": "arguments"}[file]
    facts[key] = {**facts[key], **arguments} if isinstance(arguments, dict) else arguments
    (folder / file).write_text(json.dumps(facts))
    with pytest.raises(HarnessError) as caught:
        open_image_encoder(str(folder))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "../../etc/passwd"},
        {"architecture": ["vit_tiny_patch16_224"]},
        {"architecture": "vit_7b_patch16_dinov3"},
        {"architecture": "local-dir:/etc"},
        {"pretrained_cfg": []},
        {"pretrained_cfg": {"mean": "x"}},
        {"pretrained_cfg": {"mean": [0.5, 0.5, 10**400]}},
        {"pretrained_cfg": {"crop_pct": "1"}},
        {"pretrained_cfg": {"crop_pct": 0}},
        {"pretrained_cfg": {"input_size": [3, 10**9, 10**9]}},
        {"pretrained_cfg": {"interpolation": 3}},
        {"palimpsest": []},
        {"palimpsest": {"norm": "own", "active_layers": [{}]}},
        {"palimpsest": {"norm": "own", "active_layers": [1, 2, 3, 4]}},
        {"palimpsest": {"objective": {"a": 1}}},
        {"palimpsest": {"seed": "0"}},
    ],
    ids=str,
)
def test_a_config_that_describes_no_encoder_is_refused(changes: dict[str, Any], staged: Path) -> None:
    config = read_json(staged / "config.json")
    (staged / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(HarnessError) as caught:
        open_image_encoder(str(staged))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["{", "[" * 100_000 + "]" * 100_000, "3", "[]", " " * (2**24) + "{}", "\x00"])
@pytest.mark.parametrize("file", ["config.json", "encoder.json"])
def test_json_that_is_none_is_refused(file: str, text: str, staged: Path) -> None:
    (staged / file).write_text(text)
    with pytest.raises(HarnessError):
        open_image_encoder(str(staged))
