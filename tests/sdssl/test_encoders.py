"""Encoders say at every layer what an independent read of the model with hooks says, in one forward."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from harness.core.compat import prepare_torchvision

prepare_torchvision()

import timm  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import nn  # noqa: E402

from harness.core.devices import choose_device  # noqa: E402
from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError  # noqa: E402
from sdssl.encoders import ImageEncoder  # noqa: E402
from sdssl.hub_reader import open_image_encoder  # noqa: E402
from sdssl.images import CorruptImageError  # noqa: E402

ARGUMENTS = {"img_size": 16, "patch_size": 4, "depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def images(n: int, size: int = 16, seed: int = 0) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    return [Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(n)]


def pixels(pictures: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalised by hand, for pictures that have the encoder's size."""
    array = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float64) / 255
    return torch.tensor(((array - mean) / std).transpose(0, 3, 1, 2), dtype=torch.float32)


def randomise(model: nn.Module, seed: int = 0) -> Any:
    """Wide weights, so that layers differ, and norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name and name.endswith("weight") else 0.15 * noise)
    return model.eval()


def save_run(folder: Path, *, norm: str = "shared", seed: int = 0, **changes: Any) -> Any:
    """A run folder as training leaves it; returns its model and the norms of the lower layers."""
    folder.mkdir(parents=True)
    model = randomise(timm.create_model("vit_tiny_patch16_224", **ARGUMENTS), seed)
    save_file(model.state_dict(), folder / "encoder.safetensors")
    generator = torch.Generator().manual_seed(seed + 1)
    norms = {f"{layer}.{part}": torch.randn(48, generator=generator) for layer in (1, 2) for part in ("weight", "bias")}
    if norm == "own":
        save_file(norms, folder / "layer_norms.safetensors")
    facts = {
        "arch": "vit_tiny_patch16_224",
        "arguments": ARGUMENTS,
        "image_size": 16,
        "mean": MEAN,
        "std": STD,
        "num_layers": 3,
        "norm": norm,
        "objective": "mocov3",
        "self_distill": True,
        "dataset": "digits",
        "seed": 5,
        "epochs": 2,
        **changes,
    }
    (folder / "encoder.json").write_text(json.dumps(facts))
    return model, norms


def hooked(model: Any, blocks: Sequence[nn.Module], batch: torch.Tensor) -> list[NDArray[np.float64]]:
    """What each block says, (n, tokens, d) float64, kept by hooks while the model runs as its authors wrote it."""
    kept: list[NDArray[np.float64]] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).double().numpy())

    handles = [block.register_forward_hook(keep) for block in blocks]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    return kept


def layer_norm(tokens: NDArray[np.float64], norm: nn.Module) -> NDArray[np.float64]:
    weight, bias = (p.detach().double().numpy() for p in (norm.weight, norm.bias))
    centred = tokens - tokens.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + norm.eps) * weight + bias


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("runs") / "mocov3-sd"
    return folder, save_run(folder)[0]


def test_a_run_says_what_hooks_say(run: tuple[Path, Any]) -> None:
    folder, model = run
    encoder = open_image_encoder(str(folder), batch_size=5)
    pictures = images(12)
    found = encoder.read(pictures, [1, 2, 3])
    for layer, tokens in enumerate(hooked(model, model.blocks, pixels(pictures, MEAN, STD)), 1):
        normed = layer_norm(tokens, model.norm)
        np.testing.assert_allclose(found[layer, "cls"], normed[:, 0], atol=2e-5)
        np.testing.assert_allclose(found[layer, "avg"], normed[:, 1:].mean(axis=1), atol=2e-5)
        assert found[layer, "cls"].dtype == np.float32
    assert encoder.poolings == ("cls", "avg")
    assert (encoder.name, encoder.num_layers) == ("mocov3-sd", 3)
    assert encoder.arch == "vit_tiny_patch16_224, 16 px, patch 4, depth 3, width 48, 3 heads"
    facts = {key: encoder.facts[key] for key in ("objective", "self_distill", "train_dataset", "seed", "epochs")}
    assert facts == {"objective": "mocov3", "self_distill": True, "train_dataset": "digits", "seed": 5, "epochs": 2}


def test_layers_with_norms_of_their_own(tmp_path: Path) -> None:
    model, norms = save_run(tmp_path / "run", norm="own")
    pictures = images(4)
    found = open_image_encoder(str(tmp_path / "run")).read(pictures, [1, 2, 3])
    for layer, tokens in enumerate(hooked(model, model.blocks, pixels(pictures, MEAN, STD)), 1):
        norm = nn.LayerNorm(48, eps=model.norm.eps)
        if layer < 3:
            norm.load_state_dict({part: norms[f"{layer}.{part}"] for part in ("weight", "bias")})
        else:
            norm = model.norm
        np.testing.assert_allclose(found[layer, "cls"], layer_norm(tokens, norm)[:, 0], atol=2e-5)


def test_some_layers_are_those_layers(run: tuple[Path, Any]) -> None:
    encoder = open_image_encoder(str(run[0]))
    every, some = encoder.read(images(3), [1, 2, 3]), encoder.read(images(3), [1, 3])
    assert {layer for layer, _ in some} == {1, 3}
    for key, values in some.items():
        np.testing.assert_allclose(values, every[key], atol=1e-6)


def test_one_forward_for_all_layers(run: tuple[Path, Any]) -> None:
    encoder = open_image_encoder(str(run[0]), batch_size=4)
    seen: list[int] = []
    encoder.backbone._model.patch_embed.register_forward_hook(lambda _m, given, _o: seen.append(len(given[0])))
    encoder.read(images(10), [1, 2, 3])
    assert seen == [4, 4, 2]
    assert encoder.forward_seconds > 0


@pytest.mark.parametrize(
    ("name", "options", "poolings"),
    [
        ("vit_tiny_patch16_224", {}, ("cls", "avg")),
        ("vit_tiny_patch16_224", {"reg_tokens": 3}, ("cls", "avg")),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, ("avg",)),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "reg_tokens": 2}, ("avg",)),
        ("deit_tiny_distilled_patch16_224", {}, ("cls", "avg")),
    ],
)
def test_prefix_tokens_are_no_patches(
    tmp_path: Path, name: str, options: dict[str, Any], poolings: tuple[str, ...]
) -> None:
    model = randomise(timm.create_model(name, **ARGUMENTS, **options))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": name, "model_args": {**ARGUMENTS, **options}}
    config["pretrained_cfg"] = {"mean": MEAN, "std": STD, "crop_pct": 1.0, "input_size": [3, 16, 16]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    encoder = open_image_encoder(str(tmp_path))
    assert encoder.poolings == poolings
    pictures = images(4)
    found = encoder.read(pictures, [1, 2, 3])
    prefix = model.num_prefix_tokens
    for layer, tokens in enumerate(hooked(model, model.blocks, pixels(pictures, MEAN, STD)), 1):
        behind = isinstance(model.norm, nn.Identity)
        normed = tokens if behind else layer_norm(tokens, model.norm)
        average = normed[:, prefix:].mean(axis=1)
        np.testing.assert_allclose(
            found[layer, "avg"], layer_norm(average, model.fc_norm) if behind else average, atol=2e-5
        )
        if "cls" in poolings:
            np.testing.assert_allclose(found[layer, "cls"], normed[:, 0], atol=2e-5)


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_efficientnet"])
def test_stages_of_other_models_are_averaged(name: str) -> None:
    encoder = open_image_encoder(f"timm:{name}", untrained=True, seed=3, image_size=32)
    assert encoder.poolings == ("avg",)
    assert encoder.name == f"timm:{name} (untrained, seed 3)"
    assert encoder.facts.get("objective") is None
    torch.manual_seed(3)
    model = timm.create_model(name, num_classes=0).eval()
    pictures = images(3, 37)
    found = encoder.read(pictures, range(1, encoder.num_layers + 1))
    batch = torch.stack([encoder.transform(picture) for picture in pictures])
    assert batch.shape == (3, 3, 32, 32)
    stages = [model.get_submodule(entry["module"]) for entry in model.feature_info]
    outputs = hooked(model, stages, batch)
    assert encoder.num_layers == len(outputs)
    for layer, values in enumerate(outputs, 1):
        np.testing.assert_allclose(found[layer, "avg"], values.mean(axis=(2, 3)), rtol=1e-4, atol=1e-5)
    costs = [encoder.flops(layer) or 0 for layer in range(1, encoder.num_layers + 1)]
    assert costs == sorted(costs)
    assert costs[0] > 0


def test_operations_of_a_vit_by_hand(run: tuple[Path, Any]) -> None:
    encoder = open_image_encoder(str(run[0]))
    tokens, width = 17, 48
    stem = 2 * 16 * (3 * 4 * 4) * width
    block = 2 * tokens * width * width * (3 + 1 + 8) + 2 * (2 * tokens * tokens * width)
    assert [encoder.flops(layer) for layer in (1, 2, 3)] == [stem + n * block for n in (1, 2, 3)]


def test_another_size_and_an_untrained_seed() -> None:
    small = {"untrained": True, "image_size": 64}
    one, same, other = (open_image_encoder("timm:test_vit", seed=seed, **small) for seed in (0, 0, 1))
    assert one.image.image_size == 64
    assert one.hash == same.hash != other.hash
    assert open_image_encoder("timm:test_vit", untrained=True, image_size=32).hash != one.hash
    assert one.read(images(2, 80), [6])[6, "cls"].shape == (2, 64)


def test_random_state_is_left_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    open_image_encoder("timm:resnet10t", untrained=True, image_size=32)
    assert torch.equal(before, torch.get_rng_state())


def _transformers_model(kind: str) -> tuple[Any, Callable[[Any], tuple[Any, nn.Module, int]]]:
    """A small random model, and where it keeps its blocks and final norm, and how many tokens are no patches."""
    import transformers as hf

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"image_size": 16, "patch_size": 4}
    short = {key: value for key, value in sizes.items() if key != "intermediate_size"} | {"mlp_ratio": 2}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 99}
    makers: dict[str, Callable[[], Any]] = {
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**sizes)),
        "deit": lambda: hf.DeiTModel(hf.DeiTConfig(**sizes)),
        "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**short)),
        "registers": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**short, num_register_tokens=3)),
        "beit": lambda: hf.BeitModel(hf.BeitConfig(**sizes, use_mean_pooling=False)),
        "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=sizes, projection_dim=8)),
        "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**sizes)),
    }
    prefix = {"deit": 2, "registers": 4, "siglip": 0}.get(kind, 1)
    if kind in ("clip", "siglip"):
        return makers[kind](), lambda m: (m.vision_model.encoder.layers, m.vision_model.post_layernorm, prefix)
    return makers[kind](), lambda m: (m.encoder.layer, m.layernorm, prefix)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "registers", "beit", "clip", "siglip"])
def test_a_model_of_transformers_says_what_hooks_say(tmp_path: Path, kind: str) -> None:
    made, where = _transformers_model(kind)
    model = randomise(made)
    model.save_pretrained(tmp_path / kind, safe_serialization=True)
    settings = {"image_mean": MEAN, "image_std": STD, "size": {"height": 16, "width": 16}, "resample": 2}
    (tmp_path / kind / "preprocessor_config.json").write_text(json.dumps(settings))
    encoder = open_image_encoder(str(tmp_path / kind), batch_size=3)
    pictures = images(5)
    blocks, norm, prefix = where(model)
    tower = getattr(model, "vision_model", model)
    kept = hooked(tower, blocks, pixels(pictures, MEAN, STD))
    found = encoder.read(pictures, [1, 2, 3])
    assert encoder.poolings == (("cls", "avg") if prefix else ("avg",))
    for layer, tokens in enumerate(kept, 1):
        normed = layer_norm(tokens, norm)
        np.testing.assert_allclose(found[layer, "avg"], normed[:, prefix:].mean(axis=1), atol=1e-4)
        if prefix:
            np.testing.assert_allclose(found[layer, "cls"], normed[:, 0], atol=1e-4)
    assert encoder.name == kind
    assert 0 < (encoder.flops(1) or 0) < (encoder.flops(2) or 0) < (encoder.flops(3) or 0)


def test_a_convolutional_model_of_transformers(tmp_path: Path) -> None:
    import transformers

    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = randomise(transformers.ResNetModel(config))
    model.save_pretrained(tmp_path / "net", safe_serialization=True)
    encoder = open_image_encoder(str(tmp_path / "net"), image_size=32)
    pictures = images(2, 32)
    batch = torch.stack([encoder.transform(picture) for picture in pictures])
    with torch.no_grad():
        states = model(batch, output_hidden_states=True).hidden_states[1:]
    found = encoder.read(pictures, [1, 2])
    assert encoder.poolings == ("avg",)
    for layer, state in enumerate(states, 1):
        np.testing.assert_allclose(found[layer, "avg"], state.mean(dim=(2, 3)).numpy(), rtol=1e-4, atol=1e-4)


class Broken(list[Image.Image]):
    """Pictures of which some cannot be decoded."""

    def __getitem__(self, index: Any) -> Any:
        if index in (0, 3, 4):
            raise CorruptImageError(f"{index}.png", "it is cut short")
        return super().__getitem__(index)


def test_corrupt_images_are_rows_of_nan(run: tuple[Path, Any]) -> None:
    encoder = open_image_encoder(str(run[0]), batch_size=2)
    pictures = images(7)
    whole, holed = encoder.read(pictures, [2, 3]), encoder.read(Broken(pictures), [2, 3])
    for key, values in holed.items():
        assert np.flatnonzero(np.isnan(values).all(axis=1)).tolist() == [0, 3, 4]
        kept = [1, 2, 5, 6]
        np.testing.assert_allclose(values[kept], whole[key][kept], atol=1e-6)
    first, second = encoder.read_pairs(Broken(pictures), [3], seed=0)
    assert np.isnan(first[3, "cls"]).any(axis=1).sum() == np.isnan(second[3, "cls"]).any(axis=1).sum() == 3
    nothing = encoder.read(Broken(pictures[:1]), [3])
    assert np.isnan(nothing[3, "avg"]).all()
    assert nothing[3, "avg"].shape == (1, 48)


def test_pairs_are_two_views_by_seed(run: tuple[Path, Any]) -> None:
    encoder = open_image_encoder(str(run[0]))
    pictures = images(4, 20)
    first, second = encoder.read_pairs(pictures, [3], seed=7)
    again, _ = encoder.read_pairs(pictures, [3], seed=7)
    other, _ = encoder.read_pairs(pictures, [3], seed=8)
    np.testing.assert_array_equal(first[3, "cls"], again[3, "cls"])
    assert not np.allclose(first[3, "cls"], second[3, "cls"])
    assert not np.allclose(first[3, "cls"], other[3, "cls"])


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    save_run(tmp_path / "run")
    state = load_file(tmp_path / "run" / "encoder.safetensors")
    state["blocks.1.mlp.fc1.weight"][0] = float("nan")
    save_file(state, tmp_path / "run" / "encoder.safetensors")
    with pytest.raises(DataError, match=r"layer 2 .* not a finite number"):
        open_image_encoder(str(tmp_path / "run")).read(images(2), [1, 2, 3])


def test_bf16_is_near(run: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # Without the hardware for it PyTorch emulates it, too slowly to be offered.
    monkeypatch.setattr("harness.core.devices.bf16_supported", lambda device: True)
    exact = open_image_encoder(str(run[0])).read(images(3), [3])[3, "avg"]
    rough = open_image_encoder(str(run[0]), dtype="bf16")
    assert rough.settings["dtype"] == "bf16"
    values = rough.read(images(3), [3])[3, "avg"]
    assert values.dtype == np.float32
    assert not np.array_equal(values, exact)
    np.testing.assert_allclose(values, exact, atol=0.1)


def _without(path: Path, key: str) -> None:
    state = load_file(path)
    state.pop(key)
    save_file(state, path)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "damaged", "absent", "facts", "norms"])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "run"
    save_run(folder, norm="own" if fault == "norms" else "shared")
    path = folder / "encoder.safetensors"
    state = load_file(path)
    kind, said = DataError, ""
    if fault == "missing":
        _without(path, "blocks.2.attn.qkv.weight")
        said = r"1 missing \(blocks\.2\.attn\.qkv\.weight\)"
    elif fault == "unknown":
        save_file({**state, "blocks.3.norm1.weight": torch.zeros(48)}, path)
        said = r"1 unknown \(blocks\.3\.norm1\.weight\)"
    elif fault == "shape":
        save_file({**state, "patch_embed.proj.weight": torch.zeros(48, 3, 2, 2)}, path)
        said = r"patch_embed\.proj\.weight is \[48, 3, 2, 2\], expected \[48, 3, 4, 4\]"
    elif fault == "damaged":
        path.write_bytes(b"\0" * 40)
        said = "not a sound safetensors file"
    elif fault == "absent":
        path.unlink()
        kind, said = MissingFileError, "there is no file"
    elif fault == "facts":
        (folder / "encoder.json").write_text('{"arch": "vit_tiny_patch16_224"}')
        said = "lacks arguments, image_size, mean, std"
    else:
        _without(folder / "layer_norms.safetensors", "2.bias")
        said = r"layer_norms\.safetensors .*2\.bias"
    with pytest.raises(kind, match=said):
        open_image_encoder(str(folder))


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("timm:vit_smal_patch16_224", {"untrained": True}, "no timm model named"),
        ("timm:resnet10t", {}, "cannot be loaded"),
        ("no-one/no-model", {}, "neither a folder nor loadable"),
        ("hf_hub:no-one/no-model", {}, "cannot be loaded"),
        ("./nowhere", {}, "there is no encoder folder"),
        ("", {}, "there is no encoder folder"),
        ("timm:test_vit", {"untrained": True, "image_size": 50}, "a patch of 16 pixels does not divide"),
        ("timm:test_vit", {"untrained": True, "dtype": "fp8"}, "no dtype 'fp8'"),
        ("timm:test_vit", {"untrained": True, "device": "abacus"}, "--device abacus"),
        ("no-one/no-model", {"untrained": True}, "--untrained is for timm"),
    ],
)
def test_what_cannot_be_opened(spec: str, options: dict[str, Any], said: str) -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(HarnessError, match=said):
        open_image_encoder(spec, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_where_one_was_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="--device cuda"):
        choose_device("cuda")


def test_folders_that_hold_no_image_encoder(tmp_path: Path, tiny_victim_folder: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a run folder of `harness ssl train`"):
        open_image_encoder(str(tmp_path))
    with pytest.raises(ConfigurationError, match="reads no images"):
        open_image_encoder(str(tiny_victim_folder()))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    made, _ = _transformers_model("vit")
    made.save_pretrained(tmp_path, safe_serialization=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match="safetensors"):
        open_image_encoder(str(tmp_path))


def test_the_hash_covers_what_decides(tmp_path: Path) -> None:
    save_run(tmp_path / "a")
    save_run(tmp_path / "b")
    save_run(tmp_path / "c", seed=1)
    save_run(tmp_path / "d", mean=[0.1, 0.1, 0.1])
    save_run(tmp_path / "e", norm="own")
    hashes = [open_image_encoder(str(tmp_path / name)).hash for name in "abcde"]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
    assert isinstance(open_image_encoder(str(tmp_path / "a"), batch_size=1), ImageEncoder)
