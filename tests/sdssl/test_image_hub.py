from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, HarnessError
from sdssl.image_hub import CIFAR10, CIFAR100
from sdssl.image_stores import memory_images
from sdssl.images import available_splits, load_images

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def part(values: list[int], labels: list[Any], column: str = "img", label: str = "label") -> datasets.Dataset:
    pictures = [{"bytes": b"P5 1 1 255\n" + bytes([value]), "path": None} for value in values]
    features = datasets.Features(
        {column: datasets.Image(), label: datasets.Value("string" if isinstance(labels[0], str) else "int64")}
    )
    return datasets.Dataset.from_dict({column: pictures, label: labels}, features=features)


class Hub:
    """Stands for the Hub: what was asked of it, and what it answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any, commit: str | None = COMMIT) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answer, self.commit = answer, commit
        monkeypatch.setattr(datasets, "load_dataset", self.load)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", self.info)

    def load(self, hub_id: str, config: str | None = None, **options: Any) -> Any:
        self.asked.append((hub_id, config, options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def info(self, hub_id: str, revision: str | None = None) -> Any:
        if self.commit is None:
            raise ConnectionError("no network")
        return type("Info", (), {"sha": self.commit})()


def reds(dataset: Any) -> list[int]:
    return [int(np.asarray(dataset.image(i))[0, 0, 0]) for i in range(len(dataset))]


@pytest.mark.parametrize(("name", "label"), [("cifar10", "label"), ("cifar100", "fine_label")])
def test_registered_names_are_pinned_to_a_commit(monkeypatch: pytest.MonkeyPatch, name: str, label: str) -> None:
    both = datasets.DatasetDict({"train": part([1, 2], [0, 1], label=label), "test": part([3], [1], label=label)})
    hub = Hub(monkeypatch, both)
    loader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    dataset = load_images(name, "test")
    assert reds(dataset) == [3]
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1]
    assert hub.asked == [(loader.hub_id, loader.config, {"revision": loader.revision})]
    assert re.fullmatch("[0-9a-f]{40}", str(loader.revision))
    assert dataset.source["revision"] == loader.revision
    assert dataset.source["id"] == f"uoft-cs/{name}"
    assert available_splits(name) == ["test", "train"]
    with pytest.raises(DataError, match="no split 'validation'"):
        load_images(name, "val")


@pytest.mark.parametrize(
    ("spec", "config", "revision"),
    [
        ("hub:some/birds", None, COMMIT),
        ("hub:some/birds@v1.0", None, COMMIT),
        (f"hub:some/birds@{'f' * 40}", None, "f" * 40),
        ("hub:some/birds:small@main", "small", COMMIT),
    ],
)
def test_a_hub_id_is_loaded_at_the_commit_that_it_records(
    monkeypatch: pytest.MonkeyPatch, spec: str, config: str | None, revision: str
) -> None:
    hub = Hub(monkeypatch, datasets.DatasetDict({"train": part([1, 2], ["b", "a"]), "val": part([9], ["b"])}))
    dataset = load_images(spec, "validation")
    assert (reds(dataset), dataset.name, dataset.split) == ([9], "some/birds", "validation")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [1]  # numbered as in the train split
    assert hub.asked == [("some/birds", config, {"revision": revision})]
    assert dataset.source["revision"] == revision
    with pytest.raises(DataError, match="no split 'test'") as error:
        load_images(spec, "test")
    assert "train, validation" in error.value.hint


def test_without_the_hub_the_commit_is_read_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    train = part([1], [0])
    train.info.download_checksums = {f"hf://datasets/some/birds@{COMMIT}/train.parquet": {}}
    hub = Hub(monkeypatch, datasets.DatasetDict({"train": train}), commit=None)
    assert load_images("hub:some/birds", "train").source["revision"] == COMMIT
    assert hub.asked[0][2] == {"revision": None}


def test_cached_files_are_mapped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    part(list(range(50)), [0] * 50).save_to_disk(str(tmp_path / "train"))
    Hub(monkeypatch, datasets.DatasetDict({"train": datasets.load_from_disk(str(tmp_path / "train"))}))
    dataset = load_images("hub:some/birds", "train")
    assert reds(dataset) == list(range(50))
    assert dataset.image_name(7) == "row 7 of some/birds, split 'train'"
    assert str(tmp_path) not in str(dataset.source)


def test_columns_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, datasets.DatasetDict({"train": part([1], [5], column="photo", label="kind")}))
    dataset = load_images("hub:some/birds", "train", label_column="kind")
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [5]
    with pytest.raises(DataError, match="no column 'picture'"):
        load_images("hub:some/birds", "train", image_column="picture")


def test_what_goes_wrong_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Hub(monkeypatch, ConnectionError("no route to host"))
    with pytest.raises(HarnessError, match=r"'cifar10' \(uoft-cs/cifar10\) cannot be loaded.*no route to host"):
        load_images("cifar10", "train")
    for spec in ("hub:birds", "hub:", "hub:a/b@", "hub:a/b c"):
        with pytest.raises(ConfigurationError, match="names no dataset of the Hub"):
            load_images(spec, "train")
    (tmp_path / "some/birds").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="hides the Hub's dataset"):
        load_images("hub:some/birds", "train")


def test_offline_the_hub_answers_with_an_error_and_not_with_a_traceback() -> None:
    with pytest.raises(HarnessError, match="cannot be loaded"):
        load_images("hub:some/birds", "train")
    with pytest.raises(HarnessError, match="cannot be loaded"):
        available_splits("hub:some/birds")


def test_a_store_of_images_at_hand() -> None:
    store = memory_images([b"ab", b""], "mine")
    assert [store.read(0), store.read(1)] == [b"ab", b""]
    assert store.name(1) == "row 1 of mine"
    assert store.sizes().tolist() == [2, 0]
