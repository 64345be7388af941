"""Self-distillation: how strongly the layers below the last learn from it, and the one-pass form of the loss."""

from __future__ import annotations

import math
from typing import Any

import torch

ALPHA_SCHEDULES = ("cosine", "linear", "constant")


def alpha_at(step: int, steps: int, maximum: float, schedule: str = "cosine") -> float:
    """The weight of the intermediate loss at a step (Jang et al., WACV 2023): alpha / 2 (1 - cos(pi t / T)).

    Args:
        step: t, optimiser steps done.
        steps: T, optimiser steps in all.
        maximum: Its value at the end.
        schedule: "cosine" as the paper, "linear" or "constant".
    """
    share = step / max(1, steps)
    if schedule == "cosine":
        return maximum / 2 * (1 - math.cos(math.pi * share))
    return maximum * share if schedule == "linear" else maximum


def layer_weights(layers: int, alpha: float) -> list[float]:
    """w_l, the weight of each layer's loss on backbone and projector: alpha / (K - 1) below the last, then 1.

    Args:
        layers: K, how many layers learn, the last among them.
        alpha: Weight of the mean over the layers below the last.
    """
    return [alpha / (layers - 1) for _ in range(layers - 1)] + [1.0]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(factors)
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factors,) = context.saved_tensors
        return gradient * factors.to(gradient.dtype), None


def scale_gradient(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """The values as they are; their gradient times the factors.

    With it a predictor q runs once where the loss asks for it twice. The paper adds to w f(q(z)) the term
    f(q(sg z)), which trains the predictor alone. Weighting f(q(z)) by 1 + w and the gradient that enters z by
    w / (1 + w) gives both gradients exactly: the predictor gets 1 + w, everything before it w.

    Args:
        values: (K, ...) projections of K layers.
        factors: (K,) or anything that broadcasts against `values`.
    """
    return _ScaleGradient.apply(values, factors)  # type: ignore[no-any-return, no-untyped-call]
