"""MoCo v3: find the teacher's projection of the other view among those of all images."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from sdssl.objectives.base import Objective, ObjectiveInfo


class MoCoV3(Objective):
    """2 tau CE(cos(q, T) / tau) over both directions (Chen, Xie and He, ICCV 2021).

    Args:
        temperature: tau.
    """

    info = ObjectiveInfo(
        paper="Chen, Xie and He, An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021",
        teacher=True,
        predictor=True,
        last_norm=True,
        negatives=True,
        alpha=1.0,
    )

    def __init__(self, temperature: float = 0.2) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor, offset: int = 0) -> torch.Tensor:
        """See `Objective.forward`."""
        layers, _, samples, _ = outputs.shape
        queries = F.normalize(outputs, dim=-1)
        keys = F.normalize(targets.detach(), dim=-1).flip(0)  # each view looks for the other
        logits = torch.einsum("kvnd,vmd->kvnm", queries, keys) / self.temperature
        positives = torch.arange(samples, device=logits.device) + offset
        loss = F.cross_entropy(logits.flatten(0, 2), positives.repeat(2 * layers), reduction="none")
        return 2 * self.temperature * loss.view(layers, 2, samples).mean(2).sum(1)
