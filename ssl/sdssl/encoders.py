"""Image encoders as layer readers: what is common to a timm model and one of transformers.

A backbone turns a batch of pixels into one vector a layer and pooling; the encoder around it decodes, transforms and
batches images, with threads that decode ahead of the forward, and counts time and operations.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.devices import choose_device, torch_dtype
from harness.core.errors import ConfigurationError, DataError
from harness.core.files import canonical_json
from harness.core.flops import flops_at_exits
from harness.core.weights import hash_weights
from sdssl.augment import augmentation_for, reading_transform, two_views
from sdssl.images import CorruptImageError, ImageDataset
from sdssl.layer_reading import Features

# Batches that are decoded ahead of the forward.
_AHEAD = 3
_UNCROPPED = 96  # pixels


class Network(Protocol):
    """A network that says something after each of its layers.

    Attributes:
        module: The network, in evaluation mode.
        arch: Its architecture's name.
        identity: JSON-able facts beside the weights that decide its outputs.
        exits: The module that ends each layer, in order.
        patch: Side of a patch in pixels; None where the input has no patches.
    """

    module: nn.Module
    arch: str
    identity: dict[str, Any]
    exits: list[nn.Module]
    patch: int | None

    def read(self, pixels: Tensor, layers: Sequence[int] | None) -> dict[tuple[int, str], Tensor]:
        """(b, 3, S, S) -> (layer, pooling) -> (b, d); all layers where `layers` is None."""


@dataclass(frozen=True)
class ImageSettings:
    """How an image becomes the encoder's input: shorter side resized, centre crop, normalised."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_fraction: float = 1.0
    interpolation: str = "bicubic"


def default_crop(image_size: int) -> float:
    """The centre crop's share where nothing says it: 0.875 as for ImageNet, all of a small image."""
    return 0.875 if image_size > _UNCROPPED else 1.0


class ImageItems(Sequence[Any]):
    """The images of a dataset as items: decoded when they are asked for, sliced without being decoded."""

    def __init__(self, dataset: ImageDataset, positions: range | NDArray[np.int64] | None = None) -> None:
        self.dataset = dataset
        self.positions = range(len(dataset)) if positions is None else positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ImageItems: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return ImageItems(self.dataset, self.positions[index])
        return self.dataset.image(int(self.positions[index]))

    def take(self, positions: NDArray[np.int64]) -> ImageItems:
        """The items at `positions`."""
        return ImageItems(self.dataset, np.asarray(self.positions)[positions])


@dataclass(frozen=True)
class Hardware:
    """Where and how forwards run."""

    batch_size: int = 128
    dtype: str = "fp32"
    device: str | None = None
    workers: int = field(default_factory=lambda: min(16, os.cpu_count() or 1))


class ImageEncoder:
    """A backbone with its input transform: a `LayerReader` of images.

    Args:
        name: What rows and tables call it, never a path.
        backbone: The network.
        image: How an image becomes its input.
        facts: objective, self_distill, train_dataset, seed; None where unknown.
        hardware: Batch size, dtype, device, decoding threads.

    Raises:
        ConfigurationError: No such dtype or device, or an image size that the network does not take.
    """

    unit = "image"

    def __init__(
        self, name: str, backbone: Network, image: ImageSettings, facts: Mapping[str, Any], hardware: Hardware
    ) -> None:
        self.name = name
        self.arch = backbone.arch
        self.backbone = backbone
        self.image = image
        self.facts = facts
        self.device = choose_device(hardware.device)
        self._dtype = torch_dtype(hardware.dtype, self.device)
        self._hardware = hardware
        self.settings: Mapping[str, Any] = {
            "image_size": image.image_size,
            "mean": list(image.mean),
            "std": list(image.std),
            "crop_fraction": image.crop_fraction,
            "interpolation": image.interpolation,
            "dtype": hardware.dtype,
        }
        identity = {**backbone.identity, **self.settings, "dtype": ""}
        self.hash = hash_weights(canonical_json(identity), backbone.module)
        self.forward_seconds = 0.0
        backbone.module.to(self.device).eval().requires_grad_(False)
        self._probe()

    def _probe(self) -> None:
        """One blank image through the network says which layers and poolings there are, and what each costs."""
        size, patch = self.image.image_size, self.backbone.patch
        if patch is not None and size % patch:
            raise ConfigurationError(
                f"a patch of {patch} pixels does not divide an image of {size} pixels ({self.name}).",
                f"Use --image-size {max(1, round(size / patch)) * patch}.",
            )
        blank = torch.zeros(1, 3, size, size, device=self.device)
        found: dict[tuple[int, str], Tensor] = {}
        try:
            self._flops = flops_at_exits(lambda: found.update(self.backbone.read(blank, None)), self.backbone.exits)
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigurationError(
                f"the encoder {self.name!r} does not take images of {size} pixels: {reason}.", "Choose --image-size."
            ) from error
        self.num_layers = max(layer for layer, _ in found)
        # Only what every layer has can be compared over layers.
        self.poolings = tuple(
            pooling
            for pooling in ("cls", "avg")
            if all((layer, pooling) in found for layer in range(1, self.num_layers + 1))
        )
        if len(self._flops) != self.num_layers:
            self._flops = [None] * self.num_layers

    @cached_property
    def transform(self) -> Callable[[Any], Tensor]:
        """PIL image -> (3, S, S) float32."""
        image = self.image
        return reading_transform(
            image.image_size,
            image.mean,
            image.std,
            crop_fraction=image.crop_fraction,
            interpolation=image.interpolation,
        )

    def flops(self, layer: int) -> int | None:
        """Operations of one image up to `layer`, a multiply-add as two; None where they could not be counted."""
        return self._flops[layer - 1]

    def read(self, items: Sequence[Any], layers: Sequence[int]) -> Features:
        """Run the encoder once over n images.

        Args:
            items: n PIL images, or a sequence that decodes them on access, such as `ImageItems`.
            layers: Layer numbers, from 1.

        Returns:
            (layer, pooling) -> (n, d) float32; a corrupt image gives a row of NaN.

        Raises:
            DataError: The encoder says something that is not finite.
        """
        return self._read(len(items), lambda i: self.transform(items[i]), layers)

    def read_pairs(self, items: Sequence[Any], layers: Sequence[int], seed: int) -> tuple[Features, Features]:
        """Read two augmented views of each image (the recipe of pre-training), a function of `seed` alone."""
        size = self.image.image_size
        views = two_views(augmentation_for(size), size, self.image.mean, self.image.std)
        seeds = np.random.default_rng(seed).integers(0, 2**62, size=(2, len(items)))
        first, second = (
            self._read(len(items), lambda i, v=view, s=drawn: v(items[i], int(s[i])), layers)  # type: ignore[misc]
            for view, drawn in zip(views, seeds, strict=True)
        )
        return first, second

    def _read(self, rows: int, load: Callable[[int], Tensor], layers: Sequence[int]) -> Features:
        found: Features = {}
        for start, pixels, readable in self._batches(rows, load):
            for (layer, pooling), values in self._forward(pixels, layers).items():
                if pooling not in self.poolings:
                    continue
                if (layer, pooling) not in found:
                    found[layer, pooling] = np.full((rows, values.shape[1]), np.nan, np.float32)
                if not np.isfinite(values).all():
                    raise DataError(
                        f"layer {layer} of the encoder {self.name!r} says something that is not a finite number.",
                        "Its weights are damaged, or its training diverged.",
                    )
                found[layer, pooling][start + np.flatnonzero(readable)] = values
        if not found:  # nothing was readable
            blank = self._forward(torch.zeros(1, 3, self.image.image_size, self.image.image_size), layers)
            found = {key: np.full((rows, value.shape[1]), np.nan, np.float32) for key, value in blank.items()}
        return found

    def _batches(self, rows: int, load: Callable[[int], Tensor]) -> Iterator[tuple[int, Tensor, NDArray[np.bool_]]]:
        """Batches of readable images with the row they begin at and a mask of which rows are in them."""

        def attempt(index: int) -> Tensor | None:
            try:
                return load(index)
            except CorruptImageError:
                return None

        size = self._hardware.batch_size
        with ThreadPoolExecutor(self._hardware.workers) as pool:
            starts = iter(range(0, rows, size))
            waiting: deque[tuple[int, list[Future[Tensor | None]]]] = deque()
            while True:
                for start in islice(starts, _AHEAD - len(waiting)):
                    waiting.append((start, [pool.submit(attempt, i) for i in range(start, min(start + size, rows))]))
                if not waiting:
                    return
                start, futures = waiting.popleft()
                images = [future.result() for future in futures]
                kept = [image for image in images if image is not None]
                if kept:
                    yield start, torch.stack(kept), np.array([image is not None for image in images])

    def _forward(self, pixels: Tensor, layers: Sequence[int]) -> dict[tuple[int, str], NDArray[np.float32]]:
        started = time.perf_counter()
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16),
        ):
            found = self.backbone.read(pixels.to(self.device, non_blocking=True), layers)
            # Copying to the CPU waits for the device, so the clock reads the whole forward.
            values = {key: value.float().cpu().numpy() for key, value in found.items()}
        self.forward_seconds += time.perf_counter() - started
        return values
