"""Where a model computes, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

DTYPES = ("fp32", "bf16")


def choose_device(device: str | None) -> torch.device:
    """The device that was asked for; by default CUDA where there is one.

    Raises:
        ConfigurationError: There is no such device here.
    """
    import torch

    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigurationError(
            f"--device {device}: this machine has no such device that torch can use.", "Leave out --device, or use cpu."
        ) from error
    return found


def torch_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype of "fp32" or "bf16".

    Raises:
        ConfigurationError: There is no such dtype, or not on this device.
    """
    import torch

    if dtype not in DTYPES:
        raise ConfigurationError(f"there is no dtype {dtype!r}.", f"Known: {', '.join(DTYPES)}.")
    if dtype == "fp32":
        return torch.float32
    if not bf16_supported(device):
        raise ConfigurationError(f"this machine's {device.type} has no bf16 arithmetic.", "Leave it out, or use fp32.")
    return torch.bfloat16


def bf16_supported(device: torch.device) -> bool:
    """Whether bf16 products run in hardware on `device`."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
