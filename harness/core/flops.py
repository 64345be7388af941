"""Floating-point operations of a model up to each of its exits, counted in one forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def flops_at_exits(forward: Callable[[], Any], exits: Sequence[torch.nn.Module]) -> list[int | None]:
    """Counts what a forward has cost each time one of `exits` is done, as if it stopped there.

    PyTorch's counter knows matrix products, convolutions and fused attention, a multiply-add as two; norms and
    activations are not counted. Its fused attention kernel for the CPU is unknown to the counter, so attention runs as
    plain products here.

    Args:
        forward: Runs the model once, on one item.
        exits: Modules inside it, each of which runs once.

    Returns:
        Operations from the input to the end of each exit; None for one that did not run.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    found: list[int | None] = [None] * len(exits)

    def keep(position: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            found[position] = int(counter.get_total_flops())

        return hook

    hooks = [module.register_forward_hook(keep(position)) for position, module in enumerate(exits)]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            forward()
    finally:
        for handle in hooks:
            handle.remove()
    return found
