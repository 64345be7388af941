"""Encoded texts as batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def padded_batches(
    tokenizer: Any, encodings: Mapping[str, Any], batch_size: int
) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Batches of encoded texts, the longest first, each padded to its own longest text.

    Args:
        tokenizer: What encoded them.
        encodings: What it said of n texts, without padding.
        batch_size: Texts in one batch.

    Yields:
        The positions of a batch's texts among the n, and the batch as PyTorch tensors.
    """
    order = np.argsort([-len(ids) for ids in encodings["input_ids"]], kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield (
            rows,
            tokenizer.pad({key: [encodings[key][row] for row in rows] for key in encodings}, return_tensors="pt"),
        )
