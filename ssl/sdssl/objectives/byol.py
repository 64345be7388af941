"""BYOL: predict the teacher's projection of the other view."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from sdssl.objectives.base import Objective, ObjectiveInfo


class BYOL(Objective):
    """2 - 2 cos(q, T) over both directions (Grill et al., NeurIPS 2020)."""

    info = ObjectiveInfo(
        paper="Grill et al., Bootstrap Your Own Latent, NeurIPS 2020",
        teacher=True,
        predictor=True,
        last_norm=False,
        negatives=False,
        alpha=0.8,
    )

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor, offset: int = 0) -> torch.Tensor:
        """See `Objective.forward`."""
        own = targets.detach()[:, offset : offset + outputs.shape[2]].flip(0)
        cosines = F.cosine_similarity(outputs, own.unsqueeze(0), dim=-1)
        return (2 - 2 * cosines).mean(2).sum(1)
