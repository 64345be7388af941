"""timm models as layer readers: our own training runs, pretrained or untrained ones, and local folders of weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.core.compat import load_timm
from harness.core.errors import ConfigurationError, DataError, HarnessError, UnknownNameError
from harness.core.files import hash_file, read_json
from sdssl.backbone import check_state
from sdssl.encoder_files import ENCODER_FACTS, ENCODER_WEIGHTS, LAYER_NORMS
from sdssl.encoders import Hardware, ImageEncoder, ImageSettings, default_crop
from sdssl.model_files import check_arguments, check_name, read_tensors, timm_model, vit_of

_FACTS = ("objective", "self_distill", "train_dataset", "seed")
# What a row keeps of how our own encoder was trained.
_TRAINING = (
    *("dataset_hash", "train_images", "epochs", "steps", "batch_size", "preset", "norm", "arguments", "settings"),
    "active_layers",
    "weights_hash",
)
_SIZES = {
    "img_size": "{} px",
    "patch_size": "patch {}",
    "depth": "depth {}",
    "embed_dim": "width {}",
    "num_heads": "{} heads",
}
MOST_FACTS = 2**24  # bytes
_LARGEST = 2**16
_NEEDED = ("arch", "arguments", "image_size", "mean", "std")
_INPUT = ("mean", "std", "crop_pct", "interpolation", "input_size")
_HEADS = ("head", "fc", "classifier", "head_dist", "last_linear", "fc_norm", "head_drop")


class TimmBackbone:
    """A timm model, read after each block (a ViT) or each stage (anything else).

    A ViT's layer l is `norm(block l's output)`, by the model's final norm or a norm of the layer's own: its class
    token is "cls", the mean over its patch tokens "avg"; register tokens belong to neither. A model that keeps its
    final norm behind the pooling (`fc_norm`) has it applied to the pooled vector. A stage of anything else is read as
    it is, averaged over positions.

    Args:
        model: The model, without a head.
        arch: Its name in timm.
        arguments: What it was made with.
        layer_norms: Layer -> (weight, bias), of layers that have a norm of their own.
    """

    def __init__(
        self,
        model: Any,
        arch: str,
        arguments: Mapping[str, Any],
        layer_norms: Mapping[int, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        if not hasattr(model, "forward_intermediates"):
            raise ConfigurationError(
                f"timm's {arch!r} does not give its intermediate layers.", "Choose a model with forward_intermediates."
            )
        # One module of both, so that hash and device cover the norms too.
        self.module: nn.Module = nn.ModuleDict({"model": model, "norms": nn.ModuleDict()})
        self.arch = arch
        taken = inspect.signature(model.forward_intermediates).parameters
        self.is_vit = "return_prefix_tokens" in taken and hasattr(model, "blocks")
        self.identity: dict[str, Any] = {
            "arch": arch,
            "arguments": json.loads(json.dumps(dict(arguments), default=str)),
        }
        self._model = model
        self._norms = self._own_norms(layer_norms or {})
        self.patch: int | None = _patch(model)
        self.exits: list[nn.Module] = list(model.blocks) if self.is_vit else _stages(model)

    def _own_norms(self, given: Mapping[int, tuple[Tensor, Tensor]]) -> Mapping[int, nn.Module]:
        norms: dict[int, nn.Module] = {}
        for layer, (weight, bias) in given.items():
            norm = nn.LayerNorm(len(weight), eps=getattr(self._model.norm, "eps", 1e-6))
            norm.load_state_dict({"weight": weight, "bias": bias})
            norms[layer] = norm
            self.module["norms"][str(layer)] = norm  # type: ignore[index]
        return norms

    def read(self, pixels: Tensor, layers: Sequence[int] | None) -> dict[tuple[int, str], Tensor]:
        """(b, 3, S, S) -> (layer, pooling) -> (b, d); all layers where `layers` is None."""
        indices = None if layers is None else [layer - 1 for layer in layers]
        options: dict[str, Any] = {"indices": indices, "intermediates_only": True}
        if indices is not None and "stop_early" in inspect.signature(self._model.forward_intermediates).parameters:
            options["stop_early"] = True
        if not self.is_vit:
            maps = self._model.forward_intermediates(pixels, output_fmt="NCHW", **options)
            numbers = layers or range(1, len(maps) + 1)
            return {(n, "avg"): values.mean(dim=(2, 3)) for n, values in zip(numbers, maps, strict=True)}
        tokens = self._model.forward_intermediates(
            pixels, output_fmt="NLC", return_prefix_tokens=True, norm=False, **options
        )
        numbers = layers or range(1, len(tokens) + 1)
        found: dict[tuple[int, str], Tensor] = {}
        has_class = getattr(self._model, "cls_token", None) is not None
        for number, output in zip(numbers, tokens, strict=True):
            patches, prefix = output if isinstance(output, tuple | list) else (output, None)
            norm = self._norms.get(number, self._model.norm)
            if prefix is not None and prefix.shape[1] and has_class:
                found[number, "cls"] = self._behind(norm(prefix[:, 0]))
            found[number, "avg"] = self._behind(norm(patches).mean(dim=1))
        return found

    def _behind(self, pooled: Tensor) -> Tensor:
        norm = getattr(self._model, "fc_norm", None)
        if isinstance(self._model.norm, nn.Identity) and norm is not None:
            return functional.layer_norm(pooled, *_norm_arguments(norm)) if isinstance(norm, nn.LayerNorm) else pooled
        return pooled


def open_run(folder: Path, hardware: Hardware, image_size: int | None) -> ImageEncoder:
    """The encoder of a run folder of `harness ssl train`.

    Raises:
        DataError: Its description is damaged, or its weights don't fit it.
        MissingFileError: A file is not there.
    """
    facts = _facts_of(folder)
    weights = folder / ENCODER_WEIGHTS
    tensors = read_tensors(weights)
    if facts.get("weights_hash") not in (None, hash_file(weights)):
        raise DataError(
            f"{weights} is not what {ENCODER_FACTS} describes: its hash differs.", "Restore the file, or train again."
        )
    arguments = check_arguments(facts["arguments"], folder / ENCODER_FACTS)
    model = vit_of(facts["arch"], arguments, tensors, f"{ENCODER_WEIGHTS} of {folder}")
    norms = _layer_norms(folder, model, facts) if facts.get("norm") == "own" else {}
    size = facts["image_size"]
    if image_size is not None and image_size != size:
        _resize(model, image_size, folder.name)
        size = image_size
    known = {**facts, "train_dataset": facts.get("dataset")}
    image = ImageSettings(
        size, tuple(facts["mean"]), tuple(facts["std"]), facts.get("crop_fraction", default_crop(size))
    )
    backbone = TimmBackbone(model, facts["arch"], facts["arguments"], norms)
    backbone.arch = _described(facts["arch"], facts["arguments"])
    return ImageEncoder(
        folder.resolve().name,
        backbone,
        image,
        {**{key: known.get(key) for key in _FACTS}, **{key: facts[key] for key in _TRAINING if key in facts}},
        hardware,
    )


def _facts_of(folder: Path) -> dict[str, Any]:
    facts: Any = read_json(folder / ENCODER_FACTS, most=MOST_FACTS)
    missing = [key for key in _NEEDED if key not in facts] if isinstance(facts, dict) else list(_NEEDED)
    if missing:
        raise DataError(f"{folder / ENCODER_FACTS} does not describe an encoder: it lacks {', '.join(missing)}.")
    sound = {
        "arch": isinstance(facts["arch"], str),
        "arguments": isinstance(facts["arguments"], dict),
        "image_size": type(facts["image_size"]) is int and 0 < facts["image_size"] <= _LARGEST,
        **{key: _is_colour(facts[key]) for key in ("mean", "std")},
        "active_layers": _are_layers(facts.get("active_layers", [])),
        "crop_fraction": _is_number(facts.get("crop_fraction", 1)) and 0 < facts.get("crop_fraction", 1) <= 1,
    }
    if wrong := [key for key, holds in sound.items() if not holds]:
        raise DataError(f"{folder / ENCODER_FACTS} is damaged: {wrong[0]} is {str(facts[wrong[0]])[:60]!r}.")
    return dict(facts)


def _described(arch: str, arguments: Mapping[str, Any]) -> str:
    """An architecture by its name in timm and the sizes that are not its own."""
    sizes = [words.format(arguments[key]) for key, words in _SIZES.items() if key in arguments]
    return ", ".join([arch, *sizes])


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_number(part) for part in value)


def _are_layers(value: Any) -> bool:
    return isinstance(value, list) and all(type(layer) is int for layer in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _LARGEST


def open_timm(
    name: str, hardware: Hardware, image_size: int | None, *, untrained: bool = False, seed: int = 0
) -> ImageEncoder:
    """A timm model by name, with its pretrained weights or, untrained, initialised by `seed`.

    Args:
        name: A timm name such as `vit_small_patch14_dinov2.lvd142m`, or `hf_hub:` and a hub id.
        hardware: Where forwards run.
        image_size: Pixels a side; by default the model's own.
        untrained: Whether to leave the weights at random.
        seed: Seed of random weights.

    Raises:
        UnknownNameError: timm has no such model.
        ConfigurationError: It has no pretrained weights, or the Hub cannot be reached.
    """
    timm = load_timm()

    from_hub = name.startswith(("hf_hub:", "hf-hub:"))
    if not from_hub and not timm.is_model(name.partition(".")[0]):
        raise UnknownNameError("timm model", name, timm.list_models())
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = timm.create_model(name, pretrained=not untrained, num_classes=0)
    except Exception as error:  # the hub's client, timm and torch raise errors of their own
        raise ConfigurationError(
            f"the weights of timm's {name!r} cannot be loaded: {_reason(error)}.",
            "Check the spelling, its tag and the network; --untrained reads the model with random weights.",
        ) from error
    shown = name if from_hub else f"timm:{name}"
    if untrained:
        shown += f" (untrained, seed {seed})"
    return _encoder(shown, model, name.partition(".")[0], {}, image_size, hardware, {"untrained": untrained})


def open_timm_folder(
    folder: Path, config: Mapping[str, Any], hardware: Hardware, image_size: int | None, name: str = ""
) -> ImageEncoder:
    """A local folder in timm's hub format: config.json with an architecture, and model.safetensors.

    Args:
        folder: The folder.
        config: Its config.json. One that `harness ssl push` sent says in its entry `palimpsest` how it was trained.
        hardware: Where forwards run.
        image_size: Pixels a side; by default the model's own.
        name: What rows call it; by default the folder's name.

    Raises:
        DataError: The weights don't fit the architecture, or the description is damaged.
        MissingFileError: There are no weights in safetensors.
    """
    path = folder / "config.json"
    arch = check_name(config.get("architecture"), f"the architecture in {path}")
    arguments = {**check_arguments(config.get("model_args", {}), path), "num_classes": 0}
    settings = _input_of(config.get("pretrained_cfg", config), path)
    tensors = read_tensors(folder / "model.safetensors")
    with torch.device("meta"):
        probe = timm_model(arch, arguments, settings, str(folder))
    own = set(probe.state_dict())
    # A head belongs to what the weights were trained for, not to the encoder.
    state = {key: value for key, value in tensors.items() if key in own or key.partition(".")[0] not in _HEADS}
    check_state(probe, state, f"model.safetensors of {folder}")
    model = timm_model(arch, arguments, settings, str(folder))
    model.load_state_dict(state)
    trained = _trained(config, path)
    norms = _layer_norms(folder, model, trained) if trained.get("norm") == "own" else {}
    encoder = _encoder(
        name or folder.resolve().name,
        model,
        arch,
        arguments,
        image_size,
        hardware,
        {**{key: trained.get(key) for key in _FACTS}, **trained},
        norms,
    )
    if trained:
        encoder.arch = _described(arch, arguments)
    return encoder


def _input_of(config: Any, path: Path) -> dict[str, Any]:
    """What images a model takes, as the `pretrained_cfg` of a config.json says it."""
    found = {key: value for key, value in config.items() if key in _INPUT} if isinstance(config, dict) else None
    if found is None:
        raise DataError(f"{path} is damaged: its pretrained_cfg is no object.")
    size = found.get("input_size", [3, 1, 1])
    sound = {
        **{key: _is_colour(found.get(key, [0.5] * 3)) for key in ("mean", "std")},
        "crop_pct": _is_number(found.get("crop_pct", 1.0)) and 0 < found.get("crop_pct", 1.0) <= 1,
        "interpolation": isinstance(found.get("interpolation", ""), str),
        "input_size": isinstance(size, list) and len(size) == 3 and all(_is_number(part) for part in size),
    }
    if wrong := [key for key, holds in sound.items() if not holds]:
        raise DataError(f"{path} is damaged: {wrong[0]} is {str(found[wrong[0]])[:60]}.")
    return found


def _trained(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """How an encoder of `harness ssl train` was trained; nothing for others."""
    found = config.get("palimpsest", {})
    kinds: dict[str, tuple[type, ...]] = {
        "objective": (str,),
        "self_distill": (bool,),
        "train_dataset": (str,),
        "seed": (int,),
        "norm": (str,),
        "active_layers": (list,),
    }
    if (
        not isinstance(found, dict)
        or any(type(found[key]) not in allowed for key, allowed in kinds.items() if key in found)
        or not _are_layers(found.get("active_layers", []))
    ):
        raise DataError(f"{path} is damaged: its entry palimpsest does not say how an encoder was trained.")
    trained = {key: value for key, value in found.items() if key in (*_FACTS, *_TRAINING)}
    return {**trained, "arguments": {"num_classes": 0, **config.get("model_args", {})}} if trained else {}


def _encoder(
    name: str,
    model: Any,
    arch: str,
    arguments: Mapping[str, Any],
    image_size: int | None,
    hardware: Hardware,
    facts: Mapping[str, Any],
    norms: Mapping[int, tuple[Tensor, Tensor]] | None = None,
) -> ImageEncoder:
    from timm.data.config import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    size = int(config["input_size"][-1])
    if image_size is not None and image_size != size:
        _resize(model, image_size, name)
        size = image_size
    image = ImageSettings(
        size,
        tuple(float(value) for value in config["mean"]),
        tuple(float(value) for value in config["std"]),
        float(config["crop_pct"]),
        str(config["interpolation"]) if config["interpolation"] != "random" else "bicubic",
    )
    backbone = TimmBackbone(model, arch, arguments, norms)
    return ImageEncoder(name, backbone, image, facts, hardware)


def _resize(model: Any, image_size: int, name: str) -> None:
    """Make a model with positions take another image size; a convolutional one takes any."""
    patch = _patch(model)
    if patch is not None and image_size % patch:
        return  # refused with the right hint when the encoder is made
    if not hasattr(model, "set_input_size"):
        return
    try:
        model.set_input_size(img_size=(image_size, image_size))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigurationError(
            f"the encoder {name!r} does not take images of {image_size} pixels: {_reason(error)}."
        ) from error


def _patch(model: Any) -> int | None:
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    return int(patch[0]) if isinstance(patch, tuple | list) else patch


def _stages(model: Any) -> list[nn.Module]:
    """The modules that timm's feature description names; empty where it names none that exist."""
    try:
        return [model.get_submodule(entry["module"]) for entry in model.feature_info]
    except (AttributeError, KeyError, TypeError):
        return []


def _layer_norms(folder: Path, model: Any, facts: Mapping[str, Any]) -> dict[int, tuple[Tensor, Tensor]]:
    """The norms of the layers that learnt with one of their own; the others are read with the final norm."""
    state = read_tensors(folder / LAYER_NORMS)
    width, depth = model.norm.weight.shape, len(model.blocks)
    layers = [layer for layer in facts.get("active_layers", range(1, depth)) if layer < depth]
    expected = {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    wrong = sorted(expected ^ state.keys()) or sorted(key for key in expected if state[key].shape != width)
    if wrong:
        raise DataError(
            f"{LAYER_NORMS} of {folder} does not fit {ENCODER_FACTS}: {len(wrong)} missing, unknown or of another "
            f"shape ({', '.join(wrong[:3])})."
        )
    return {layer: (state[f"{layer}.weight"], state[f"{layer}.bias"]) for layer in layers}


def _norm_arguments(norm: nn.LayerNorm) -> tuple[Any, ...]:
    return tuple(norm.normalized_shape), norm.weight, norm.bias, norm.eps


def _reason(error: Exception) -> str:
    if isinstance(error, HarnessError):
        return error.message.rstrip(".")
    return " ".join(str(error).split())[:200].rstrip(".: ") or type(error).__name__
