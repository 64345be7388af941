"""Representations of every asked layer from one pass over the items, kept in the feature store.

Evaluation needs little of an encoder and nothing of what it reads: images and texts differ in their `LayerReader`
and nowhere else. An item that cannot be read, such as a corrupt image, becomes a row of NaN; it is left out of every
figure, counted, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.core.features import Arrays, FeatureStore, OpenFeatures

Features = dict[tuple[int, str], NDArray[np.float32]]
LAST4 = "cls-last4"
_SHOWN = 5


class LayerReader(Protocol):
    """What evaluation needs of an encoder, whether it reads images or texts.

    Attributes:
        name: What rows and tables call it: a run's folder name, `timm:NAME`, a hub id; never a path.
        arch: Its architecture.
        hash: SHA-256 of the weights and settings that decide what it says.
        num_layers: L; layers are numbered from 1 to L.
        poolings: Ways to make one vector of a layer, among "cls" and "avg"; the first is the encoder's own.
        facts: objective, self_distill, train_dataset, seed (None where unknown), and more for the protocol.
        settings: Input size, dtype, transform: part of the feature store's key, JSON-able.
        unit: What an item is called: "image" or "text".
        device: The torch device of its forwards; readings are computed there too.
        forward_seconds: Wall time of all forwards so far, reading and decoding not counted.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def arch(self) -> str: ...  # noqa: D102
    @property
    def hash(self) -> str: ...  # noqa: D102
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def poolings(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def facts(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def settings(self) -> Mapping[str, Any]: ...  # noqa: D102
    @property
    def unit(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> Any: ...  # noqa: D102
    @property
    def forward_seconds(self) -> float: ...  # noqa: D102

    def read(self, items: Sequence[Any], layers: Sequence[int]) -> Features:
        """Run the encoder once over n items: (layer, pooling) -> (n, d) float32; NaN for unreadable items."""

    def read_pairs(self, items: Sequence[Any], layers: Sequence[int], seed: int) -> tuple[Features, Features] | None:
        """Read two augmented views of each item; None where items have no augmentation."""

    def flops(self, layer: int) -> int | None:
        """Operations of one item up to a layer, a multiply-add as two; None where they cannot be counted."""


@dataclass(frozen=True)
class LayerData:
    """Labelled items to fit readings on and to score them on.

    Attributes:
        name: The dataset's name.
        unit: "image" or "text".
        train_items: n items as the reader takes them, sliceable.
        train_labels: (n,) int64.
        test_items: m items.
        test_labels: (m,) int64.
        label_names: Class names, where they are known.
        num_classes: C; labels are below it.
        hashes: Split ("train", "test") -> SHA-256 of items and labels.
        item_name: (split, position) -> the item's name for messages.
        facts: JSON-able: source, splits, columns.
    """

    name: str
    unit: str
    train_items: Sequence[Any]
    train_labels: NDArray[np.int64]
    test_items: Sequence[Any]
    test_labels: NDArray[np.int64]
    label_names: Sequence[str] | None
    num_classes: int
    hashes: Mapping[str, str]
    item_name: Callable[[str, int], str]
    facts: Mapping[str, Any]

    def check(self) -> None:
        """Refuse data that no reading can be fitted on or scored on.

        Raises:
            DataError: Fewer than two classes, classes in the test split that training items lack, or no items.
        """
        if not len(self.train_labels) or not len(self.test_labels):
            raise DataError(f"{self.name!r} has no {self.unit}s to read.")
        known = np.unique(self.train_labels)
        if len(known) < 2:
            raise DataError(
                f"the {len(self.train_labels)} training {self.unit}s of {self.name!r} hold fewer than two classes.",
                "Raise --train-limit, or check the labels.",
            )
        unseen = sorted(set(np.unique(self.test_labels).tolist()) - set(known.tolist()))
        if unseen:
            shown = ", ".join(self.label_names[i] if self.label_names else str(i) for i in unseen[:_SHOWN])
            raise DataError(
                f"{len(unseen)} classes of the test {self.unit}s of {self.name!r} have no training {self.unit}s "
                f"({shown}{', ...' if len(unseen) > _SHOWN else ''}).",
                "Raise --train-limit, or check that both splits have the same classes.",
            )


@dataclass(frozen=True)
class SplitFeatures:
    """Representations of one split, read from disk one array at a time.

    Attributes:
        labels: (n,) int64, of readable items.
        positions: (n,) int64, where they stand among the split's items.
        corrupt: Names of the unreadable items.
        forward_seconds: What the forwards cost, whenever that was.
        rows: How many items there are, unreadable ones counted.
    """

    labels: NDArray[np.int64]
    positions: NDArray[np.int64]
    corrupt: list[str]
    forward_seconds: float
    rows: int
    _stored: OpenFeatures

    def read(self, layer: int, pooling: str) -> NDArray[np.float32]:
        """(n, d) float32 representations of the readable items."""
        values: NDArray[np.float32] = self._stored.read(_array(layer, pooling))
        return values if len(values) == len(self.positions) else values[self.positions]


def resolve_layers(text: str, num_layers: int, name: str) -> list[int]:
    """Layer numbers from `all` or a list such as `1,6,-1`, negative ones counted from the end; sorted.

    Raises:
        ConfigurationError: It is no such list, or the encoder has no such layer.
    """
    if text.strip() == "all":
        return list(range(1, num_layers + 1))
    found = set()
    for part in text.split(","):
        try:
            number = int(part)
        except ValueError:
            raise ConfigurationError(
                f"--layers {text!r} is not a list of layers.", "Give all, or numbers such as 1,6,12 or -1."
            ) from None
        layer = number + num_layers + 1 if number < 0 else number
        if not 1 <= layer <= num_layers:
            raise ConfigurationError(
                f"the encoder {name!r} has no layer {number}.", f"Layers are 1 to {num_layers}, or -1 for the last."
            )
        found.add(layer)
    return sorted(found)


def resolve_poolings(text: str | None, reader: LayerReader) -> list[str]:
    """Poolings from a list such as `cls,avg,cls-last4`; by default all that the encoder has.

    Raises:
        ConfigurationError: The encoder has no such pooling.
    """
    known = list(reader.poolings)
    if "cls" in known and reader.num_layers >= 4:
        known.append(LAST4)
    if text is None:
        return known
    asked = list(dict.fromkeys(part.strip() for part in text.split(",")))
    for pooling in asked:
        if pooling not in known:
            raise ConfigurationError(
                f"the encoder {reader.name!r} cannot be read by the pooling {pooling!r}.",
                f"It has: {', '.join(known)}.",
            )
    return asked


def stored_arrays(layers: Sequence[int], poolings: Sequence[str], num_layers: int) -> list[tuple[int, str]]:
    """Which (layer, pooling) the store has to hold: those asked for, and the class tokens of the last four."""
    wanted = {(layer, pooling) for layer in layers for pooling in poolings if pooling != LAST4}
    if LAST4 in poolings:
        wanted |= {(layer, "cls") for layer in range(num_layers - 3, num_layers + 1)}
    return sorted(wanted)


def read_split(
    reader: LayerReader, data: LayerData, split: str, arrays: Sequence[tuple[int, str]], store: FeatureStore
) -> SplitFeatures:
    """Read one split through the feature store: one forward an item for all arrays together.

    Args:
        reader: The encoder.
        data: What it reads.
        split: "train" or "test".
        arrays: (layer, pooling) of what is kept.
        store: Where it is kept, float32, in shards.

    Raises:
        DataError: No item of the split can be read.
    """
    items, labels = (data.train_items, data.train_labels) if split == "train" else (data.test_items, data.test_labels)
    layers = sorted({layer for layer, _ in arrays})
    key = {
        "weights": reader.hash,
        "data": data.hashes[split],
        "layers": layers,
        "poolings": sorted(_array(*array) for array in arrays),
        "settings": dict(reader.settings),
    }

    def compute(start: int, stop: int) -> tuple[Arrays, float, int]:
        before = reader.forward_seconds
        found = reader.read(items[start:stop], layers)
        kept: Arrays = {_array(*array): found[array] for array in arrays}
        kept["readable"] = np.logical_not(np.isnan(found[arrays[0]]).any(axis=1))
        return kept, reader.forward_seconds - before, 0

    stored = store.open(key, len(items), compute, what=f"reading {data.name} {split}", unit=data.unit)
    readable = stored.read("readable").astype(bool)
    positions = np.flatnonzero(readable)
    if not len(positions):
        raise DataError(
            f"none of the {len(items)} {split} {data.unit}s of {data.name!r} can be read "
            f"({data.item_name(split, 0)} is the first)."
        )
    corrupt = [data.item_name(split, int(position)) for position in np.flatnonzero(~readable)]
    return SplitFeatures(labels[positions], positions, corrupt, stored.seconds, len(items), stored)


def _array(layer: int, pooling: str) -> str:
    return f"layer.{layer:03d}.{pooling}"
