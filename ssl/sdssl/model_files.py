"""Model files that somebody else may have written: checked, so that nothing is allocated for what they merely claim."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.compat import load_timm
from harness.core.errors import ConfigurationError, DataError, UnknownNameError
from harness.core.loading import summary
from harness.core.tensors import check_tensors
from sdssl.backbone import check_state, create_vit

# What an argument that is a number may be: pixels, widths, blocks, heads.
_LARGEST = 16_384
_DEEPEST = 256
# These decide where weights come from and how a model runs, not what it is.
_NOT_OF_A_MODEL = (
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "features_only"),
    *("scriptable", "exportable", "no_jit", "device", "dtype", "model_name"),
)


def check_arguments(arguments: Any, path: Path) -> dict[str, Any]:
    """Arguments of `timm.create_model` out of a file, where they can only say what a model is.

    Args:
        arguments: What the file says.
        path: The file, named in the error.

    Raises:
        DataError: They are no such arguments; the first that is none is named.
    """
    if not isinstance(arguments, dict):
        raise DataError(f"{path} is damaged: the arguments of its model are {_shown(arguments)}.")
    for name, value in arguments.items():
        most = _DEEPEST if name == "depth" else _LARGEST
        if name in _NOT_OF_A_MODEL or name.startswith("_") or not _is_plain(value, most):
            raise DataError(f"{path} is damaged: its model cannot have {_shown(name)} = {_shown(value)}.")
    return dict(arguments)


def _is_plain(value: Any, most: int) -> bool:
    if isinstance(value, list):
        return len(value) <= _DEEPEST and all(not isinstance(part, list) and _is_plain(part, most) for part in value)
    if isinstance(value, float):
        return abs(value) <= most  # neither NaN nor infinity
    return value is None or isinstance(value, bool | str) or (isinstance(value, int) and abs(value) <= most)


def vit_of(arch: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor], what: str) -> Any:
    """A ViT with a state that must be exactly its own; the state is compared before the model takes memory.

    Raises:
        HarnessError: There is no such ViT, or the state is another's.
    """
    with torch.device("meta"):
        check_state(create_vit(arch, arguments), state, what)
    vit = create_vit(arch, arguments)
    vit.load_state_dict(state)
    return vit


def timm_model(arch: str, arguments: Mapping[str, Any], settings: Mapping[str, Any], what: str) -> nn.Module:
    """Any model of timm without weights; on torch's device `meta` it takes no memory.

    Args:
        arch: Its name.
        arguments: Of `timm.create_model`, checked.
        settings: What its images must be, as timm's `pretrained_cfg` says it.
        what: Named in the error.

    Raises:
        UnknownNameError: timm has no such model.
        DataError: timm cannot make it with these arguments.
    """
    timm = load_timm()
    if not timm.is_model(arch):
        raise UnknownNameError("timm model", arch, timm.list_models())
    try:
        model: nn.Module = timm.create_model(
            arch, pretrained=False, pretrained_cfg_overlay=dict(settings), **{**arguments, "num_classes": 0}
        )
    except Exception as error:  # timm raises whatever its layers do
        raise DataError(f"timm cannot make the model of {what}: {summary(error)}.") from error
    return model


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file.

    Raises:
        MissingFileError: There is no such file.
        DataError: It is no sound safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_tensors(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise DataError(f"{path} is not a sound safetensors file: {summary(error)}.") from error


def check_name(value: Any, what: str) -> str:
    """A name out of a file.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} is {_shown(value)}, which is no name.")
    return value


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**15 else "a number of many digits"
    return text if len(text) <= 60 else text[:57] + "..."
