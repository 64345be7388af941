"""Representations go through the store once, and bad requests for layers and poolings are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core import features
from harness.core.errors import ConfigurationError, DataError
from harness.core.features import FeatureStore
from sdssl.layer_reading import LAST4, LayerData, read_split, resolve_layers, resolve_poolings, stored_arrays


class Reader:
    """Says `item * layer` in two or three dimensions; -1 cannot be read. It counts what it reads."""

    name, arch, hash, unit, device = "toy", "toy", "h", "image", "cpu"
    num_layers = 5
    poolings: tuple[str, ...] = ("cls", "avg")

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.settings: dict[str, Any] = {"dtype": "fp32"}
        self.forward_seconds = 0.0
        self.seen: list[list[int]] = []

    def read(self, items: Sequence[int], layers: Sequence[int]) -> dict[tuple[int, str], Any]:
        self.seen.append(list(items))
        self.forward_seconds += 0.5 * len(items)
        values = np.array([np.nan if item < 0 else item for item in items], np.float32)
        return {
            (layer, pooling): np.outer(values * layer, np.ones(width)).astype(np.float32)
            for layer in layers
            for pooling, width in (("cls", 2), ("avg", 3))
        }

    def read_pairs(self, items: Sequence[int], layers: Sequence[int], seed: int) -> None:
        return None

    def flops(self, layer: int) -> int:
        return 100 * layer


def toy_data(train: Sequence[int], test: Sequence[int], classes: int = 2, **changes: Any) -> LayerData:
    given: dict[str, Any] = {
        "name": "toy",
        "unit": "image",
        "train_items": list(train),
        "train_labels": np.arange(len(train)) % classes,
        "test_items": list(test),
        "test_labels": np.arange(len(test)) % classes,
        "label_names": None,
        "num_classes": classes,
        "hashes": {"train": "a", "test": "b"},
        "item_name": lambda split, position: f"{split}/{position}.png",
        "facts": {},
    }
    return LayerData(**{**given, **changes})


def test_one_pass_for_all_layers_and_poolings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 4)
    reader, data, store = Reader(), toy_data(range(10), range(3)), FeatureStore(tmp_path)
    arrays = stored_arrays([1, 5], ["cls", "avg"], 5)
    found = read_split(reader, data, "train", arrays, store)
    assert reader.seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    np.testing.assert_array_equal(found.read(5, "cls"), np.outer(5 * np.arange(10), [1, 1]))
    np.testing.assert_array_equal(found.read(1, "avg"), np.outer(np.arange(10), [1, 1, 1]))
    assert found.read(1, "avg").dtype == np.float32
    assert (found.forward_seconds, found.rows, found.corrupt) == (5.0, 10, [])
    again = read_split(reader, data, "train", arrays, store)
    assert len(reader.seen) == 3  # reused
    assert again.forward_seconds == 5.0
    read_split(reader, data, "test", arrays, store)
    assert reader.seen[3:] == [[0, 1, 2]]


@pytest.mark.parametrize("change", ["hash", "settings", "data", "layers", "poolings"])
def test_whatever_decides_is_in_the_key(tmp_path: Path, change: str) -> None:
    reader, data, store = Reader(), toy_data(range(4), range(4)), FeatureStore(tmp_path)
    arrays = [(5, "cls")]
    read_split(reader, data, "train", arrays, store)
    if change == "hash":
        reader.hash = "other"
    elif change == "settings":
        reader.settings = {"dtype": "bf16"}
    elif change == "data":
        data = toy_data(range(4), range(4), hashes={"train": "c", "test": "b"})
    else:
        arrays = [(4, "cls")] if change == "layers" else [(5, "avg")]
    read_split(reader, data, "train", arrays, store)
    assert len(reader.seen) == 2


def test_unreadable_items_are_left_out_and_named(tmp_path: Path) -> None:
    data = toy_data([7, -1, 5, -1], [1], train_labels=np.array([0, 1, 0, 1]))
    found = read_split(Reader(), data, "train", [(2, "cls")], FeatureStore(tmp_path))
    assert found.corrupt == ["train/1.png", "train/3.png"]
    assert found.labels.tolist() == [0, 0]
    assert found.positions.tolist() == [0, 2]
    assert found.read(2, "cls")[:, 0].tolist() == [14, 10]
    assert found.rows == 4
    with pytest.raises(DataError, match="none of the 2 train images"):
        read_split(Reader(), toy_data([-1, -1], [1]), "train", [(2, "cls")], FeatureStore(tmp_path / "b"))


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", [1, 2, 3, 4, 5]), ("-1", [5]), ("5,1, 1,-1", [1, 5]), ("-5,-4", [1, 2])],
)
def test_layers(text: str, layers: list[int]) -> None:
    assert resolve_layers(text, 5, "toy") == layers


@pytest.mark.parametrize("text", ["0", "6", "-6", "1,9"])
def test_unknown_layers(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"no layer (0|6|-6|9)\.") as found:
        resolve_layers(text, 5, "toy")
    assert "1 to 5" in found.value.hint


@pytest.mark.parametrize("text", ["", "last", "1;2", "1.5"])
def test_no_list_of_layers(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a list of layers"):
        resolve_layers(text, 5, "toy")


def test_poolings() -> None:
    reader = Reader()
    assert resolve_poolings(None, reader) == ["cls", "avg", LAST4]
    assert resolve_poolings("avg,cls,avg", reader) == ["avg", "cls"]
    with pytest.raises(ConfigurationError, match="'max'"):
        resolve_poolings("max", reader)
    reader.poolings = ("avg",)
    assert resolve_poolings(None, reader) == ["avg"]
    with pytest.raises(ConfigurationError, match="cls-last4"):
        resolve_poolings(LAST4, reader)
    shallow = Reader()
    shallow.num_layers = 3
    assert resolve_poolings(None, shallow) == ["cls", "avg"]


def test_the_last_four_class_tokens_are_stored_too() -> None:
    assert stored_arrays([5], ["avg", LAST4], 5) == [(2, "cls"), (3, "cls"), (4, "cls"), (5, "avg"), (5, "cls")]
    assert stored_arrays([1], ["cls"], 5) == [(1, "cls")]


def test_data_that_cannot_be_read_on() -> None:
    toy_data(range(4), range(4)).check()
    with pytest.raises(DataError, match="fewer than two classes"):
        toy_data(range(4), range(4), classes=1).check()
    with pytest.raises(DataError, match=r"2 classes of the test images .* \(dog, fox\)"):
        toy_data(
            range(4),
            range(4),
            test_labels=np.array([0, 1, 2, 3]),
            label_names=["ant", "cat", "dog", "fox"],
        ).check()
    with pytest.raises(DataError, match="has no images"):
        toy_data(range(4), []).check()
