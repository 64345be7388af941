"""SimCLR: find the other view of an image among all views of all images."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from sdssl.objectives.base import Objective, ObjectiveInfo


class SimCLR(Objective):
    """NT-Xent (Chen et al., ICML 2020), summed over both directions.

    The last layer is contrasted with its own projections. A layer below it looks for the last layer's projection
    of the other view, without sending a gradient there; the last layer's projection of the same view is masked
    (Jang et al., WACV 2023).

    Args:
        temperature: tau.
    """

    info = ObjectiveInfo(
        paper="Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020",
        teacher=False,
        predictor=False,
        last_norm=True,
        negatives=True,
        alpha=0.8,
        learning_rate=1.3e-4,
    )

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor, offset: int = 0) -> torch.Tensor:
        """See `Objective.forward`; here `targets` are the last layer's projections, with their gradient."""
        layers, _, samples, _ = outputs.shape
        anchors = F.normalize(outputs, dim=-1).flatten(1, 2)  # (K, 2n, d)
        keys = F.normalize(targets, dim=-1)
        total = keys.shape[1]
        keys = keys.flatten(0, 1)  # (2m, d)
        logits = torch.cat([anchors[:-1] @ keys.detach().T, anchors[-1:] @ keys.T]) / self.temperature
        own = torch.arange(samples, device=logits.device) + offset
        same, other = torch.cat([own, own + total]), torch.cat([own + total, own])
        logits = logits.scatter(2, same.view(1, -1, 1).expand(layers, -1, 1), float("-inf"))
        loss = F.cross_entropy(logits.flatten(0, 1), other.repeat(layers), reduction="none")
        return loss.view(layers, 2, samples).mean(2).sum(1)
