"""Projectors and predictors of all layers at once.

The MLPs of the layers have one shape, so their weights are stacked and each linear map is one batched product;
each normalisation is one reduction, and under data parallelism one collective, for all layers together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from sdssl.distributed import batch_moments

_EPS = 1e-5


class StackedMLP(nn.Module):
    """The same MLP, with weights of its own, for each of several layers.

    Linear maps without bias; batch norm and ReLU after each hidden one; after the last, batch norm without affine
    parameters or nothing (Chen et al., MoCo v3, ICCV 2021). Statistics are taken for each layer and each view
    alone, over the samples of all ranks. There are no running statistics: heads are thrown away after training.

    Args:
        layers: K, how many layers the input stacks.
        widths: Input, hidden and output widths.
        last_norm: Whether the output is normalised.
        shared: One set of weights for all layers instead of one each; statistics stay apart.
    """

    def __init__(self, layers: int, widths: Sequence[int], *, last_norm: bool = True, shared: bool = False) -> None:
        super().__init__()
        self.layers = layers
        self.widths = tuple(widths)
        self.last_norm = last_norm
        self.sets = 1 if shared else layers
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(self.sets, before, after)) for before, after in pairwise(widths)
        )
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(self.sets, 1, 1, width)) for width in widths[1:-1])
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(self.sets, 1, 1, width)) for width in widths[1:-1])
        for weight in self.weights:
            bound = 1 / math.sqrt(weight.shape[1])  # as `nn.Linear`
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map (K, views, n, d) to (K, views, n, out)."""
        layers, views, samples, _ = inputs.shape
        values = inputs
        for number, weight in enumerate(self.weights):
            rows = values.reshape(self.sets, -1, weight.shape[1])
            values = torch.bmm(rows, weight).reshape(layers, views, samples, weight.shape[2])
            hidden = number < len(self.weights) - 1
            if hidden or self.last_norm:
                values = _normalise(values)
            if hidden:
                values = torch.addcmul(self.shifts[number], values, self.scales[number]).relu()
        return values

    def flops(self) -> int:
        """Floating-point operations of the linear maps for one sample (a multiply-add counts as two)."""
        return 2 * self.layers * sum(a * b for a, b in pairwise(self.widths))


def _normalise(values: torch.Tensor) -> torch.Tensor:
    # Under autocast the products are bf16; moments of a batch are not safe in it.
    wide = values if values.dtype == torch.float64 else values.float()
    mean, variance = batch_moments(wide)
    return (wide - mean) * torch.rsqrt(variance + _EPS)


def lower_width(budget_parameters: float, layers: int, embedding: int, output: int, *, predictor: bool) -> int:
    """The widest hidden width, a multiple of 8, with which heads below the last layer keep to a budget.

    Projectors have three linear maps and predictors two, all of the same hidden width h, so the heads of one layer
    hold d h + h^2 + h o (+ 2 o h) weights and, but for norms, as many multiply-adds a sample.

    Args:
        budget_parameters: Most parameters of all these heads together.
        layers: How many layers below the last learn.
        embedding: d, width of the backbone.
        output: o, width of the projections.
        predictor: Whether there are predictors.

    Returns:
        The width; at least 8, also where the budget does not allow it.
    """
    # d h + h^2 + o h, 4 h of the projector's two norms; 2 o h and 2 h of the predictor.
    linear = embedding + output + 4 + (2 * output + 2 if predictor else 0)
    a_layer = budget_parameters / max(1, layers)
    width = (-linear + math.sqrt(linear * linear + 4 * a_layer)) / 2
    return max(8, int(width) // 8 * 8)
