"""k-nearest-neighbour classification of features by DINO's rule, exact and blocked.

The rule is that of DINO (Caron et al., ICCV 2021), after Wu et al. (CVPR 2018): the k most similar training rows by
cosine vote for their class with weight exp(similarity / T).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError
from sdssl.geometry import Features, Labels, check_features, check_labels

# Queries at once; rows of the bank whose similarities are held at once; rows of the bank in one matrix product.
# Measured on CPU: with fewer queries a product does too little work on each row of the bank, and larger products
# fall out of the last cache.
_QUERIES = 512
_SEGMENT = 1 << 16
_PRODUCT = 2500


def knn_predict(
    train: Features,
    train_labels: Labels,
    test: Features,
    *,
    ks: Sequence[int],
    temperature: float = 0.07,
    num_classes: int,
    device: str | torch.device = "cpu",
) -> dict[int, NDArray[np.int64]]:
    """Predict the class of every test row for every k, from one exact search at the largest k.

    Memory is bounded by a normalised copy of the bank and about 200 MB, whatever its size. Between classes with equal
    votes the lower class wins. Where several training rows are exactly as similar as the k-th, which of them votes is
    not specified, as in DINO; it is the same every time on the same machine.

    Args:
        train: (n, d) features of the bank, not normalised.
        train_labels: (n,) labels in 0 .. num_classes - 1.
        test: (m, d) features to classify; m may be 0.
        ks: Numbers of neighbours; order and repetition do not matter.
        temperature: T of the vote.
        num_classes: How many classes there are.
        device: Where to compute.

    Returns:
        k -> (m,) predicted classes.

    Raises:
        ConfigurationError: A k below 1 or above n, no k at all, or a temperature that is not above 0.
        DataError: Features that are not finite or do not fit each other, labels that do not fit.
    """
    ordered = sorted({int(k) for k in ks})
    if not ordered or ordered[0] < 1 or not temperature > 0:
        raise ConfigurationError("k-NN needs at least one k of 1 or more and a temperature above 0.")
    check_features(train)
    check_features(test, least=0)
    check_labels(train_labels, len(train), num_classes)
    if train.shape[1] != test.shape[1]:
        raise ConfigurationError(f"the bank has {train.shape[1]} features a row and the queries {test.shape[1]}.")
    if ordered[-1] > len(train):
        raise ConfigurationError(
            f"{ordered[-1]} neighbours are asked for and the bank has {len(train)} rows.",
            "Ask for fewer neighbours, or give more training data.",
        )
    labels = torch.as_tensor(np.asarray(train_labels, dtype=np.int64), device=device)
    predictions: dict[int, list[torch.Tensor]] = {k: [torch.empty(0, dtype=torch.int64)] for k in ordered}
    with torch.no_grad(), _full_precision():
        bank = [_Segment(part, ordered[-1]) for part in torch.split(as_tensor(train, device), _SEGMENT)]
        buffer = torch.empty(_QUERIES * max(segment.width for segment in bank), device=device)
        for block in torch.split(as_tensor(test, device), _QUERIES):
            if len(block) == 0:
                break
            similarities, rows = _nearest(_normalised(block), bank, ordered[-1], buffer)
            for k, predicted in _votes(similarities, labels[rows], ordered, temperature, num_classes):
                predictions[k].append(predicted.cpu())
    return {k: torch.cat(parts).numpy() for k, parts in predictions.items()}


def as_tensor(features: Features, device: str | torch.device) -> torch.Tensor:
    """A float32 tensor of `features` on `device` that shares memory where it can, also with a read-only memory map.

    It must not be written to.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        tensor = torch.from_numpy(np.ascontiguousarray(features))
    return tensor.to(device=device, dtype=torch.float32)


class _Segment:
    """A part of the bank, laid out for fast products, from which the k most similar rows can be taken.

    Args:
        rows: (size, d) features.
        k: How many neighbours are wanted over the whole bank.
    """

    def __init__(self, rows: torch.Tensor, k: int) -> None:
        self.size = len(rows)
        self.k = min(k, self.size)
        # The k largest of n numbers lie in the k groups with the largest maxima, whatever the groups. With groups of
        # g there are n/g maxima and then k g numbers to search: fewest at this g.
        self.group = max(1, math.isqrt(self.size // self.k))
        self.groups = -(-self.size // self.group)
        self.width = self.groups * self.group
        # oneDNN's product is as exact as torch.mm and, measured on an AMD CPU under torch's MKL, twice as fast.
        available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.packed = rows.device.type == "cpu" and available
        parts = (_normalised(part) for part in torch.split(rows, _PRODUCT))
        self.parts = [part.to_mkldnn() if self.packed else part for part in parts]

    def largest(self, queries: torch.Tensor, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities (b, k) of the nearest rows, in no order, and their positions (b, k) in this segment."""
        count = len(queries)
        similarities = buffer[: count * self.width].view(count, self.width)
        similarities[:, self.size :] = -torch.inf
        left = queries.to_mkldnn() if self.packed else queries
        start = 0
        for part in self.parts:
            product = torch.nn.functional.linear(left, part)
            similarities[:, start : start + len(part)] = product.to_dense() if self.packed else product
            start += len(part)
        if self.group == 1:
            top = similarities.topk(self.k, dim=1, sorted=False)
            return top.values, top.indices
        # Column c belongs to group c mod `groups`, so that the maxima are taken over whole cache lines.
        maxima = similarities.view(count, self.group, self.groups).amax(dim=1)
        chosen = maxima.topk(self.k, dim=1, sorted=False).indices
        members = torch.arange(0, self.width, self.groups, device=buffer.device)
        columns = (chosen.unsqueeze(1) + members[:, None]).flatten(start_dim=1)
        top = similarities.gather(1, columns).topk(self.k, dim=1, sorted=False)
        return top.values, columns.gather(1, top.indices)


def _nearest(
    queries: torch.Tensor, bank: Sequence[_Segment], k: int, buffer: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities (b, k) in falling order of normalised queries (b, d), and the bank rows (b, k) they belong to."""
    values, rows, start = [], [], 0
    for segment in bank:
        best, found = segment.largest(queries, buffer)
        values.append(best)
        rows.append(found + start)
        start += segment.size
    top = torch.cat(values, dim=1).topk(k, dim=1)
    return top.values, torch.cat(rows, dim=1).gather(1, top.indices)


def _votes(
    similarities: torch.Tensor, labels: torch.Tensor, ks: Sequence[int], temperature: float, num_classes: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """For each k, rising, the winning classes (b,), from similarities and labels (b, max k) in falling order."""
    # Subtracting the largest changes no vote's share and keeps a small temperature from overflowing.
    weights = torch.exp((similarities - similarities[:, :1]).double() / temperature)
    votes = torch.zeros((len(labels), num_classes), dtype=torch.float64, device=labels.device)
    counted = 0
    for k in ks:
        votes.scatter_add_(1, labels[:, counted:k], weights[:, counted:k])
        counted = k
        yield k, votes.argmax(dim=1)


def _normalised(rows: torch.Tensor) -> torch.Tensor:
    """Rows divided by their L2 norm, in float64 so that no square overflows; a zero row stays zero."""
    exact = rows.double()
    norms = exact.norm(dim=1, keepdim=True)
    return (exact / torch.where(norms > 0, norms, 1.0)).float()


@contextmanager
def _full_precision() -> Iterator[None]:
    """Products of float32 are float32 inside, also where training has allowed faster and coarser ones."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
