"""Several processes as one: what a loss and a normalisation need to be exact under data parallelism.

`DistributedDataParallel` averages gradients over ranks. For that average to be the gradient of the loss over the
whole batch, whatever one rank computes from the samples of another must send its gradient back there: `gather`
does, by summing over ranks in its backward pass. (A gather that keeps only the local gradient is a known fault of
published SimCLR code.) Everything here is the identity where there is one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist

from harness.core.devices import choose_device
from harness.core.errors import ConfigurationError


@dataclass(frozen=True)
class World:
    """This process among the others.

    Attributes:
        rank: Number of this process over all machines; 0 writes the files.
        size: How many processes there are.
        device: Where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0


@contextmanager
def join_world(device: str | None = None) -> Iterator[World]:
    """Joins the processes that `torchrun` started, and leaves them again; alone where it did not.

    Args:
        device: "cpu" or "cuda"; by default CUDA where there is one.

    Raises:
        ConfigurationError: The device is not there, or more processes than GPUs were started on this machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = choose_device(device)
    if place.type == "cuda" and size > 1:
        if local >= torch.cuda.device_count():
            raise ConfigurationError(
                f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}.",
                "Start as many processes as there are GPUs, or use --device cpu.",
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, place)
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        gathered = values.new_empty((dist.get_world_size(), *values.shape))
        dist.all_gather(list(gathered.unbind()), values.contiguous())
        return gathered

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        # Every rank used every rank's values, so each has a share of the gradient.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def gather(values: torch.Tensor) -> torch.Tensor:
    """The values of all ranks, with the gradient of all ranks.

    Args:
        values: A tensor of the same shape on every rank.

    Returns:
        (ranks, *shape), the same on every rank.
    """
    if not dist.is_initialized():
        return values.unsqueeze(0)
    return _Gather.apply(values)  # type: ignore[no-any-return, no-untyped-call]


def rank() -> int:
    """The number of this process; 0 where it is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def highest(value: int, device: torch.device) -> int:
    """The highest value of any rank; all ranks must ask."""
    if not dist.is_initialized():
        return value
    found = torch.tensor(value, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return int(found.item())


def batch_moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance over the samples of all ranks, with gradients across ranks.

    PyTorch's `SyncBatchNorm` refuses CPU tensors; this is the same statistic from a differentiable gather of each
    rank's moments (one collective forward, one backward, whatever the number of layers stacked in `values`).

    Args:
        values: (..., n, channels); n is the same on every rank.

    Returns:
        Two tensors (..., 1, channels).
    """
    variance, mean = torch.var_mean(values, dim=-2, correction=0, keepdim=True)
    if not dist.is_initialized():
        return mean, variance
    means, variances = gather(torch.stack([mean, variance])).unbind(1)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)
