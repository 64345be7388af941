"""What an objective is, and the names they go by."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from harness.core.registry import Registry


@dataclass(frozen=True)
class ObjectiveInfo:
    """What an objective needs and what its paper sets.

    Attributes:
        paper: Where it was published.
        teacher: Whether targets come from a moving average of the student; else they are its own projections.
        predictor: Whether students predict targets through a further MLP.
        last_norm: Whether projector and predictor end in a batch norm.
        negatives: Whether other images are contrasted, so that targets are gathered over ranks.
        alpha: Final weight of the intermediate loss (Jang et al., WACV 2023).
        learning_rate: Learning rate at a batch of 256 (Jang et al., WACV 2023).
    """

    paper: str
    teacher: bool
    predictor: bool
    last_norm: bool
    negatives: bool
    alpha: float
    learning_rate: float = 1.5e-4


class Objective(nn.Module):
    """A loss for each layer, from what the layers say of two views and the targets they should meet."""

    info: ObjectiveInfo

    @abstractmethod
    def forward(self, outputs: torch.Tensor, targets: torch.Tensor, offset: int = 0) -> torch.Tensor:
        """Losses of K layers, each the sum over both directions (view 1 to 2, and 2 to 1).

        Args:
            outputs: (K, 2, n, d) predictions, or projections where there is no predictor; the last layer last.
            targets: (2, m, d) of both views: the teacher's projections, or the last layer's own. With several
                processes m = n x ranks for an objective with negatives.
            offset: Where the targets of these n samples begin among the m.

        Returns:
            (K,) losses.
        """


OBJECTIVES: Registry[type[Objective]] = Registry("objective")
OBJECTIVES.add("simclr", "sdssl.objectives.simclr:SimCLR", "contrast of two views, no teacher (Chen et al., ICML 2020)")
OBJECTIVES.add("byol", "sdssl.objectives.byol:BYOL", "predict the teacher's view, no negatives (Grill et al., 2020)")
OBJECTIVES.add("mocov3", "sdssl.objectives.mocov3:MoCoV3", "contrast with the teacher's views (Chen et al., ICCV 2021)")
