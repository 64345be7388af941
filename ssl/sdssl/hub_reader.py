"""Image encoders of transformers, by hub id or local folder, and the one door to every kind of image encoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError
from harness.core.files import read_json
from harness.core.loading import summary, unloadable
from harness.core.tensors import check_tensors
from sdssl.augment import IMAGENET_MEAN, IMAGENET_STD
from sdssl.encoder_files import ENCODER_FACTS, LAYER_NORMS
from sdssl.encoders import Hardware, ImageEncoder, ImageSettings, default_crop
from sdssl.timm_reader import MOST_FACTS, open_run, open_timm, open_timm_folder

# Before a name in timm's own notation.
_HUB, _LOCAL = ("hf_hub:", "hf-hub:"), "local-dir:"
# The Hub's client raises what its network library does, too; all of it derives from OSError or ValueError.
_HUB_ERRORS = (OSError, ValueError)
_NORMS = ("layernorm", "post_layernorm", "norm", "layer_norm")
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def open_image_encoder(
    spec: str,
    *,
    batch_size: int = 128,
    dtype: str = "fp32",
    device: str | None = None,
    image_size: int | None = None,
    untrained: bool = False,
    seed: int = 0,
) -> ImageEncoder:
    """Open an image encoder of any kind.

    Args:
        spec: A run folder of `harness ssl train`; `timm:NAME`; `hf_hub:ID` (timm format on the Hub) or
            `local-dir:FOLDER`, with or without `timm:` before it; a folder or a hub id of transformers or timm format.
        batch_size: Images in one forward.
        dtype: "fp32" or "bf16" (autocast).
        device: A torch device; by default CUDA where there is one.
        image_size: Pixels a side; by default the encoder's own.
        untrained: Random weights by `seed` in place of pretrained ones; for `timm:` only.
        seed: Seed of random weights.

    Raises:
        HarnessError: It cannot be opened, or reads no images; the message says why.
    """
    hardware = Hardware(batch_size, dtype, device)
    if untrained and not spec.startswith("timm:"):
        raise ConfigurationError("--untrained is for timm models.", "Give --encoder timm:NAME.")
    name = spec.removeprefix("timm:")
    if name.startswith(_LOCAL):
        if untrained:
            raise ConfigurationError("--untrained is for timm models by name.", "Give --encoder timm:NAME.")
        spec = name.removeprefix(_LOCAL)
        if not Path(spec).expanduser().is_dir():
            raise MissingFileError(f"there is no encoder folder {spec!r}.", "Write local-dir:FOLDER.")
    elif not untrained and name.startswith(_HUB):
        return _open_hub(name.partition(":")[2], hardware, image_size)
    elif spec.startswith("timm:"):
        return open_timm(name, hardware, image_size, untrained=untrained, seed=seed)
    folder = Path(spec).expanduser()
    if spec.strip() and folder.is_dir():
        return _open_folder(folder, hardware, image_size)
    if not spec.strip() or spec.startswith((".", "/", "~")) or spec.count("/") > 1 or folder.is_file():
        raise MissingFileError(
            f"there is no encoder folder {spec!r}.", "Give a run folder of `harness ssl train`, timm:NAME or a hub id."
        )
    config = _hub_json(spec, "config.json")
    if config is not None and "architecture" in config:
        return _open_hub(spec, hardware, image_size)
    return _open_transformers(spec, spec, hardware, image_size)


def _open_hub(repository: str, hardware: Hardware, image_size: int | None) -> ImageEncoder:
    """A model of the Hub in timm's format, with weights in safetensors.

    Raises:
        ConfigurationError: It cannot be had, or has no such weights.
        HarnessError: It cannot be opened.
    """
    name = f"hf_hub:{repository}"
    try:
        folder = _hub_file(repository, "config.json").parent
        config = read_json(folder / "config.json", most=MOST_FACTS)
        check_tensors(_hub_file(repository, "model.safetensors"))
        published = isinstance(config, dict) and "palimpsest" in config
        if published and isinstance(config["palimpsest"], dict) and config["palimpsest"].get("norm") == "own":
            _hub_file(repository, LAYER_NORMS)
    except _HUB_ERRORS as error:
        raise ConfigurationError(
            f"the weights of timm's {name!r} cannot be loaded: {summary(error)}.",
            "Check the spelling and the network; weights are read from safetensors only, never unpickled.",
        ) from error
    # What we sent is read by what reads a folder: it knows how it was trained, and layers with norms of their own.
    if published:
        return open_timm_folder(folder, config, hardware, image_size, name)
    return open_timm(name, hardware, image_size)


def _open_folder(folder: Path, hardware: Hardware, image_size: int | None) -> ImageEncoder:
    if (folder / ENCODER_FACTS).is_file():
        return open_run(folder, hardware, image_size)
    if not (folder / "config.json").is_file():
        unfinished = (folder / "config.yaml").is_file()
        raise ConfigurationError(
            f"{folder} is not a run folder of `harness ssl train`, and holds no model: it has no {ENCODER_FACTS} "
            "and no config.json.",
            "Its training may not have come far enough to save an encoder." if unfinished else "",
        )
    config = read_json(folder / "config.json", most=MOST_FACTS)
    if isinstance(config, dict) and "architecture" in config:
        return open_timm_folder(folder, config, hardware, image_size)
    return _open_transformers(str(folder), folder.resolve().name, hardware, image_size)


class HubBackbone:
    """A vision model of transformers, read after each block, or each stage where it is no ViT.

    A block's output goes through the model's final norm, as in `TimmBackbone`; where that is missing (a model that
    pools patches first) through the norm behind the pooling. Stages of other models are read as they are.

    Args:
        model: The vision model.
        image_size: Side of the images in pixels.
    """

    def __init__(self, model: Any, image_size: int) -> None:
        self.module: nn.Module = model
        self._model = model
        config = model.config
        self.arch = type(model).__name__
        keep = {key: value for key, value in config.to_dict().items() if isinstance(value, str | int | float | bool)}
        keep.pop("_name_or_path", None)
        keep.pop("transformers_version", None)
        keep.pop("torch_dtype", None)
        keep.pop("dtype", None)
        self.identity: dict[str, Any] = {"arch": self.arch, "config": keep}
        patch = getattr(config, "patch_size", None)
        self.patch: int | None = int(patch[0]) if isinstance(patch, list | tuple) else patch
        self._patches = (image_size // self.patch) ** 2 if self.patch else None
        self.exits: list[nn.Module] = _blocks(model, getattr(config, "num_hidden_layers", None))
        self._options: dict[str, Any] = {}
        # A model without this argument takes any size by itself, or says in its forward that it does not.
        resizable = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        if resizable and _side(config) not in (None, image_size):
            self._options["interpolate_pos_encoding"] = True

    def read(self, pixels: Tensor, layers: Sequence[int] | None) -> dict[tuple[int, str], Tensor]:
        """(b, 3, S, S) -> (layer, pooling) -> (b, d); all layers where `layers` is None."""
        outputs = self._layer_outputs(pixels)
        numbers = range(1, len(outputs) + 1) if layers is None else layers
        plain = all(output.ndim == 3 and output.shape == outputs[0].shape for output in outputs)
        found: dict[tuple[int, str], Tensor] = {}
        for number in numbers:
            output = outputs[number - 1]
            if output.ndim == 4:
                found[number, "avg"] = output.mean(dim=(2, 3))
                continue
            prefix = output.shape[1] - self._patches if plain and self._patches else 0
            if not plain or prefix < 0:
                found[number, "avg"] = output.mean(dim=1)
                continue
            normed = self._norm(output)
            if prefix:
                found[number, "cls"] = self._behind(normed[:, 0])
            found[number, "avg"] = self._behind(normed[:, prefix:].mean(dim=1))
        return found

    def _layer_outputs(self, pixels: Tensor) -> list[Tensor]:
        """What each block says, before any norm: `hidden_states` holds some models' last layer after it."""
        kept: list[Tensor] = []

        def keep(_module: nn.Module, _given: Any, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple | list) else output)

        hooks = [block.register_forward_hook(keep) for block in self.exits]
        try:
            said = self._model(pixels, output_hidden_states=not self.exits, **self._options)
        finally:
            for hook in hooks:
                hook.remove()
        states = getattr(said, "hidden_states", None)
        outputs = kept if self.exits else list(states or ())[1:]
        if not outputs or any(not isinstance(o, Tensor) or o.ndim not in (3, 4) for o in outputs):
            raise ValueError("it does not give its hidden states as tokens or maps")
        return outputs

    def _norm(self, tokens: Tensor) -> Tensor:
        norm = _final_norm(self._model)
        return tokens if norm is None else norm(tokens)

    def _behind(self, pooled: Tensor) -> Tensor:
        if _final_norm(self._model) is not None:
            return pooled
        norm = getattr(getattr(self._model, "pooler", None), "layernorm", None)
        return pooled if norm is None else norm(pooled)


def _open_transformers(source: str, name: str, hardware: Hardware, image_size: int | None) -> ImageEncoder:
    prepare_torchvision()
    import transformers
    from transformers import AutoConfig, AutoModel

    verbosity = transformers.logging.get_verbosity()
    # What a checkpoint holds beyond the encoder, such as a head, is left out on purpose.
    transformers.logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        vision = getattr(config, "vision_config", config)
        if not reads_images(config):
            raise ConfigurationError(
                f"the encoder {name!r} ({config.model_type}) reads no images.", "Give a text dataset as --data."
            )
        model, loading = AutoModel.from_pretrained(
            source, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except ConfigurationError:
        raise
    except Exception as error:  # transformers and safetensors raise errors of their own
        raise ConfigurationError(
            *unloadable(
                "encoder",
                "encoder",
                source,
                error,
                "Check the spelling and the network; timm models are written timm:NAME.",
            )
        ) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    # Which part of a text-and-image model, and a pooler that was never trained, must not matter.
    model = getattr(model, "vision_model", model)
    lacking = [key for key in loading["missing_keys"] if "pooler" not in key]
    if lacking:
        raise DataError(
            f"the weights of {name!r} lack {len(lacking)} of the encoder's tensors ({', '.join(sorted(lacking)[:3])})."
        )
    if hasattr(model.config, "mask_ratio"):
        model.config.mask_ratio = 0.0  # a masked autoencoder sees all patches when it is read
    image = _image_settings(source, vision, image_size)
    return ImageEncoder(name, HubBackbone(model, image.image_size), image, {}, hardware)


def reads_images(config: Any) -> bool:
    """Whether a configuration of transformers is of a model that takes pixels."""
    return any(hasattr(config, key) for key in ("vision_config", "num_channels", "image_size"))


def _image_settings(source: str, config: Any, image_size: int | None) -> ImageSettings:
    """From preprocessor_config.json, and ImageNet's constants where there is none."""
    folder = Path(source)
    name = "preprocessor_config.json"
    if folder.is_dir():
        found = read_json(folder / name) if (folder / name).is_file() else {}
    else:
        found = _hub_json(source, name) or {}
    crop, resized = (_pixels(found.get(key)) for key in ("crop_size", "size"))
    side = image_size or _side(config) or crop or resized or 224
    fraction = crop / resized if crop and resized and found.get("do_center_crop", True) else default_crop(side)
    if not crop and resized:
        fraction = 1.0
    mean, std = found.get("image_mean") or IMAGENET_MEAN, found.get("image_std") or IMAGENET_STD
    if found.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    resampling = _RESAMPLING.get(found.get("resample", 3), "bicubic")
    return ImageSettings(side, tuple(mean), tuple(std), min(1.0, fraction), resampling)


def _pixels(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return int(size) if isinstance(size, int | float) else None


def _side(config: Any) -> int | None:
    size = getattr(config, "image_size", None)
    return int(size[0]) if isinstance(size, list | tuple) else size


def _final_norm(model: Any) -> nn.Module | None:
    for name in _NORMS:
        norm = getattr(model, name, None)
        if isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity):
            return norm
    return None


def _blocks(model: nn.Module, count: int | None) -> list[nn.Module]:
    """The list of blocks: the first module list with as many entries as the model has layers."""
    for _, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def _hub_file(repository: str, name: str) -> Path:
    """A file of a repository of the Hub, `ORG/NAME` or `ORG/NAME@REVISION`, from the cache where it is."""
    from huggingface_hub import hf_hub_download

    hub_id, _, revision = repository.partition("@")
    return Path(hf_hub_download(hub_id, name, revision=revision or None))


def _hub_json(repository: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a repository of the Hub; None where it cannot be had."""
    try:
        found = read_json(_hub_file(repository, name))
    except (*_HUB_ERRORS, HarnessError):
        return None
    return found if isinstance(found, dict) else None
