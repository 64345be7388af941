"""`ImageDataset`, the one form that every image dataset takes: encoded images, decoded when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.core.errors import ConfigurationError, DataError
from sdssl.image_decoding import CorruptImageError, decode_image
from sdssl.image_stores import HASHED_CONTENT, ImageStore

_NO_IMAGE = (2**64 - 1).to_bytes(8, "little")


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images from one split of one dataset. Two are the same data where `hash` is equal.

    It travels to the worker processes of a `DataLoader`, by fork and by pickle.

    Attributes:
        name: The registry name, the Hub's id, or the folder's name or file's stem.
        split: "train", "validation" or "test", or another name that the source has.
        labels: (n,) int64, class numbers from 0, or None where the images have no classes.
        label_names: The class names where the source knows them.
        source: Where the images come from, JSON-able and without absolute paths. Its entry "hash_of" is "content", or
            "names and sizes" where the source holds more than 4 GiB.
        store: The encoded images of the whole split.
        rows: (n,) int64, row numbers in the store.
    """

    name: str
    split: str
    labels: NDArray[np.int64] | None
    label_names: list[str] | None
    source: dict[str, Any]
    store: ImageStore
    rows: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.rows):
            raise ValueError("labels and rows differ in length")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the encoded images in order, and the labels; names of classes and rows do not count.

        Where the whole source holds more than 4 GiB (`source["hash_of"]` says so), names and sizes stand for the
        content: reading it all would take longer than much of the work that the hash is for. A changed file of the same
        name and size is then not noticed.
        """
        digest = hashlib.sha256()
        by_content = self.source.get("hash_of") == "content"
        sizes = None if by_content else self.store.sizes()
        for row in self.rows.tolist():
            encoded = self.store.read(row) if sizes is None else f"{self.store.name(row)}\0{sizes[row]}".encode()
            digest.update(_NO_IMAGE if encoded is None else len(encoded).to_bytes(8, "little"))
            digest.update(encoded or b"")
        digest.update(b"no labels" if self.labels is None else self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    @property
    def num_classes(self) -> int:
        """The number of class names, or the highest label + 1 where there are none; 0 without labels."""
        if self.label_names is not None:
            return len(self.label_names)
        return 0 if self.labels is None else int(self.labels.max(initial=-1)) + 1

    def image(self, index: int) -> Image.Image:
        """Decode the image at `index` (0 to n - 1).

        Returns:
            A picture in mode "RGB"; `sdssl.image_decoding` says what becomes of other modes.

        Raises:
            CorruptImageError: It cannot be decoded.
        """
        return decode_image(self.store.read(int(self.rows[index])), self.image_name(index))

    def image_name(self, index: int) -> str:
        """What messages call the image at `index`: a path below the folder, or a row of a file."""
        return self.store.name(int(self.rows[index]))

    def take(self, positions: Sequence[int] | NDArray[Any]) -> ImageDataset:
        """The images at `positions` (integers, or a mask of n booleans), in that order."""
        chosen = np.asarray(positions)
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return replace(self, rows=self.rows[chosen], labels=None if self.labels is None else self.labels[chosen])

    def sample(self, limit: int | None, seed: int) -> ImageDataset:
        """At most `limit` images, drawn without replacement by `seed`, in their original order.

        Raises:
            ConfigurationError: The limit is below 1.
        """
        if limit is not None and limit < 1:
            raise ConfigurationError(f"a sample of {limit} images is not possible.", "Give a limit of 1 or more.")
        if limit is None or limit >= len(self):
            return self
        drawn = np.random.default_rng(seed).choice(len(self), size=limit, replace=False)
        return self.take(np.sort(drawn))


def make_dataset(
    *,
    name: str,
    split: str,
    store: ImageStore,
    labels: NDArray[np.int64] | None,
    label_names: list[str] | None,
    source: dict[str, Any],
) -> ImageDataset:
    """All images of a store as a dataset; `source` is completed by what its hash covers."""
    hash_of = "content" if int(store.sizes().sum()) <= HASHED_CONTENT else "names and sizes"
    rows = np.arange(len(store), dtype=np.int64)
    return ImageDataset(name, split, labels, label_names, {**source, "hash_of": hash_of}, store, rows)


def usable(dataset: ImageDataset, index: int) -> tuple[Image.Image, int, list[str]]:
    """The image at `index`, or in place of a corrupt one the next that can be decoded, from the end on to the start.

    Args:
        dataset: At least one image.
        index: 0 to n - 1.

    Returns:
        The picture, the index it has, and the names of the corrupt images met before it.

    Raises:
        DataError: No image of the dataset can be decoded.
    """
    corrupt: list[str] = []
    first_reason = ""
    for step in range(len(dataset)):
        at = (index + step) % len(dataset)
        try:
            return dataset.image(at), at, corrupt
        except CorruptImageError as error:
            corrupt.append(error.name)
            first_reason = first_reason or error.reason
    if not corrupt:
        raise DataError(f"{dataset.name}, split {dataset.split!r}, is empty.")
    raise DataError(
        f"none of the {len(dataset)} images of {dataset.name}, split {dataset.split!r}, can be decoded "
        f"({corrupt[0]}: {first_reason}).",
        "Check that these files are images.",
    )
