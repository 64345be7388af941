"""What an objective is, and the names they go by."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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


def what_is_wrong(name: str, found: Any) -> str:
    """What keeps another package's object from being the objective `name`; empty for nothing."""
    return next(_faults(name, found), "")


def _faults(name: str, found: Any) -> Iterator[str]:
    # Only the first is asked for: what comes after it may not make sense.
    if not (isinstance(found, type) and issubclass(found, Objective)):
        yield f"{found!r} is no class derived from sdssl.objectives.base.Objective"
    if found.forward is Objective.forward:
        yield "it does not define forward"
    info: Any = getattr(found, "info", None)
    if not isinstance(info, ObjectiveInfo):
        yield "it has no `info`, an sdssl.objectives.base.ObjectiveInfo"
    for field in ("teacher", "predictor", "last_norm", "negatives"):
        if not isinstance(getattr(info, field), bool):
            yield f"its info.{field} is {getattr(info, field)!r}, neither True nor False"
    for field in ("alpha", "learning_rate"):
        number = getattr(info, field)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            yield f"its info.{field} is {number!r}, no number from 0 on"
    try:
        inspect.signature(found).bind(*((0.2,) if info.negatives else ()))
    except TypeError:
        given = "a temperature alone, for its info says `negatives`" if info.negatives else "nothing"
        yield f"it cannot be made from {given}"


OBJECTIVES: Registry[type[Objective]] = Registry("objective", what_is_wrong)
OBJECTIVES.add("simclr", "sdssl.objectives.simclr:SimCLR", "contrast of two views, no teacher (Chen et al., ICML 2020)")
OBJECTIVES.add("byol", "sdssl.objectives.byol:BYOL", "predict the teacher's view, no negatives (Grill et al., 2020)")
OBJECTIVES.add("mocov3", "sdssl.objectives.mocov3:MoCoV3", "contrast with the teacher's views (Chen et al., ICCV 2021)")
