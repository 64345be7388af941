"""Which images make which batch, the same on any number of processes, and their two views.

Everything is a function of the seed, the epoch and the image: the order of an epoch is a permutation drawn from
(seed, epoch), a view's randomness from (seed, epoch, image, view). So no worker, no number of processes and no
interruption changes a batch, and the state to resume from is the number of the step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from harness.core.errors import ConfigurationError, DataError
from sdssl.augment import View
from sdssl.images import ImageDataset, usable

Key = tuple[int, int]  # epoch, position in the data set


@dataclass(frozen=True)
class BatchPlan:
    """The images of each optimiser step.

    Attributes:
        images: How many images there are.
        batch_size: Images in one optimiser step, over all processes and parts.
        accumulate: Parts a batch is computed in, one after the other.
        seed: Seed of the order.
    """

    images: int
    batch_size: int
    accumulate: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < 2 * self.accumulate:
            raise ConfigurationError(
                f"a batch of {self.batch_size} in {self.accumulate} parts leaves fewer than two images a part.",
                "Raise --batch-size or lower --accumulate.",
            )
        if self.images < self.batch_size:
            raise DataError(
                f"{self.images} images are too few for a batch of {self.batch_size}.",
                "Lower --batch-size, or give more images.",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch; images that fill no batch wait for another epoch's order."""
        return self.images // self.batch_size

    def check_world(self, size: int) -> None:
        """Refuse a number of processes that cannot share the batches evenly.

        Raises:
            ConfigurationError: It does not divide them.
        """
        if self.batch_size % (size * self.accumulate) or self.batch_size // (size * self.accumulate) < 2:
            raise ConfigurationError(
                f"a batch of {self.batch_size} in {self.accumulate} parts cannot be shared evenly by {size} processes.",
                "Choose a --batch-size that is a multiple of processes x --accumulate, with two images each.",
            )

    def parts(self, first_step: int, last_step: int, rank: int, size: int) -> Iterator[list[Key]]:
        """What one process reads, a list a part, from optimiser step `first_step` to before `last_step`."""
        part = self.batch_size // self.accumulate
        share = part // size
        for step in range(first_step, last_step):
            epoch, place = divmod(step, self.steps_per_epoch)
            if step == first_step or place == 0:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
            for number in range(self.accumulate):
                start = place * self.batch_size + number * part + rank * share
                yield [(epoch, int(index)) for index in order[start : start + share]]


@dataclass(frozen=True)
class ViewBatch:
    """Two views of the images of one part, on one process.

    Attributes:
        views: (2, n, 3, S, S) float32.
        corrupt: Names of images that could not be decoded; the next good ones took their places.
    """

    views: torch.Tensor
    corrupt: tuple[str, ...]


class _Pairs(Dataset[tuple[torch.Tensor, list[str]]]):
    def __init__(self, dataset: ImageDataset, views: Sequence[View], seed: int) -> None:
        self.dataset, self.views, self.seed = dataset, tuple(views), seed

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, list[str]]:
        epoch, index = key
        image, used, corrupt = usable(self.dataset, index)
        seeds = (view_seed(self.seed, epoch, used, number) for number in range(len(self.views)))
        return torch.stack([view(image, seed) for view, seed in zip(self.views, seeds, strict=True)]), corrupt


def view_seed(seed: int, epoch: int, index: int, view: int) -> int:
    """The seed of one view of one image in one epoch, 64 bits."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}/{view}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def view_batches(
    dataset: ImageDataset,
    views: Sequence[View],
    plan: BatchPlan,
    steps: tuple[int, int],
    *,
    rank: int = 0,
    size: int = 1,
    workers: int = 0,
    pin: bool = False,
) -> Iterator[ViewBatch]:
    """The parts that one process computes, in order.

    Args:
        dataset: The images.
        views: The two augmentations.
        plan: Which images make which batch.
        steps: First optimiser step, and the step before which to stop.
        rank: This process.
        size: How many processes there are.
        workers: Processes that read ahead; 0 reads in this one.
        pin: Whether to put batches into pinned memory, for a GPU.
    """
    loader = DataLoader(
        _Pairs(dataset, views, plan.seed),
        batch_sampler=plan.parts(*steps, rank, size),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
    )
    for views_of_part, corrupt in loader:
        yield ViewBatch(views_of_part, tuple(corrupt))


def _collate(items: Sequence[tuple[torch.Tensor, list[str]]]) -> tuple[torch.Tensor, list[str]]:
    return torch.stack([views for views, _ in items], dim=1), [name for _, names in items for name in names]
