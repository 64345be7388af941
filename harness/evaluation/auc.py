"""The AUC alone, for many rows of weights: what bootstraps of differences and of word scores ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.conformal import checked_scores

Floats = NDArray[np.float64]


class WeightedAUC:
    """Area under the ROC curve of one set of scores, sorted once; a tie between the classes counts half.

    Args:
        scores: (n,) numbers, higher = more likely positive.
        positive: (n,) True for the positive class.

    Raises:
        DataError: If a score is NaN, or there are none.
        ValueError: If the shapes do not fit.
    """

    def __init__(self, scores: ArrayLike, positive: ArrayLike) -> None:
        values, labels = checked_scores(scores), np.asarray(positive, dtype=np.bool_)
        if labels.shape != values.shape:
            raise ValueError(f"{values.shape} scores do not fit {labels.shape} labels.")
        self.size = values.size
        self._order = np.argsort(values, kind="stable")
        ranked = values[self._order]
        self._starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        self._positive = labels[self._order].astype(np.float64)

    def __call__(self, weights: NDArray[Any] | None = None) -> Floats:
        """The AUC for each row of weights.

        Args:
            weights: (B, n), not negative; None for one row of ones.

        Returns:
            (B,) float64, NaN in rows where a class has no weight. Whole weights give the same number to the last bit
            whatever the order of the texts.
        """
        rows = np.ones((1, self.size)) if weights is None else weights
        ordered = np.take(rows, self._order, axis=1).astype(np.float64)
        positive = np.add.reduceat(ordered * self._positive, self._starts, axis=1)
        negative = np.add.reduceat(ordered * (1 - self._positive), self._starts, axis=1)
        below = np.cumsum(negative, axis=1)
        won = np.einsum("bk,bk->b", positive, below - negative / 2)
        pairs = positive.sum(axis=1) * below[:, -1]
        found: Floats = np.divide(won, pairs, out=np.full(len(rows), np.nan), where=pairs > 0)
        return found
