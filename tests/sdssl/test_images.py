from __future__ import annotations

import io
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset

from harness.core.errors import ConfigurationError, DataError, MissingFileError, UnknownNameError
from sdssl.image_dataset import make_dataset
from sdssl.image_stores import memory_images
from sdssl.images import (
    IMAGE_DATASETS,
    CorruptImageError,
    ImageDataset,
    available_splits,
    load_images,
    usable,
)


def grey(value: int) -> bytes:
    return b"P5 1 1 255\n" + bytes([value])


def made(cells: list[bytes], labels: list[int] | None = None) -> ImageDataset:
    return make_dataset(
        name="made",
        split="train",
        store=memory_images(cells, "made"),
        labels=None if labels is None else np.array(labels, dtype=np.int64),
        label_names=None,
        source={"kind": "test"},
    )


def reds(dataset: ImageDataset) -> list[int]:
    return [int(np.asarray(dataset.image(i))[0, 0, 0]) for i in range(len(dataset))]


def test_the_digits_are_scikit_learns() -> None:
    bunch = load_digits()
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    assert available_splits("digits") == ["test", "train"]
    for dataset, start in ((train, 0), (test, 1437)):
        assert dataset.labels is not None
        assert (dataset.labels == bunch.target[start : start + len(dataset)]).all()
        assert np.bincount(dataset.labels).min() >= 30
        assert (dataset.num_classes, dataset.label_names) == (10, list("0123456789"))
        for index in (0, 5, len(dataset) - 1):
            image = dataset.image(index)
            assert (image.mode, image.size) == ("RGB", (8, 8))
            expected = np.floor(bunch.images[start + index] * 255 / 16 + 0.5)
            assert (np.asarray(image) == expected[:, :, None]).all()
    # The data and its split never change: rows of leaderboards name these hashes.
    assert train.hash.startswith("f224568c")
    assert test.hash != train.hash
    with pytest.raises(DataError, match="no split 'validation'"):
        load_images("digits", "val")


def test_names_paths_and_what_is_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"digits", "cifar10", "cifar100"} <= set(IMAGE_DATASETS.names())
    with pytest.raises(UnknownNameError, match="no image dataset named 'digit'") as error:
        load_images("digit", "train")
    assert "digits" in error.value.hint
    with pytest.raises(ConfigurationError, match="no columns"):
        load_images("digits", "train", label_column="label")
    for spec in ("./digits", "some/digits", "~/no-such-digits", "gone.parquet"):
        with pytest.raises(MissingFileError):
            load_images(spec, "train")
    # A name wins over a folder, unless a dot says otherwise.
    (tmp_path / "digits/a").mkdir(parents=True)
    Image.new("RGB", (1, 1)).save(tmp_path / "digits/a/1.png")
    monkeypatch.chdir(tmp_path)
    assert len(load_images("digits", "train")) == 1437
    assert len(load_images("./digits", "train")) == 1
    with pytest.raises(ConfigurationError, match="no columns"):
        load_images("./digits", "train", image_column="image")
    assert load_images(".", "train").name == tmp_path.name


def test_take_and_sample() -> None:
    dataset = made([grey(v) for v in range(50)], [v % 3 for v in range(50)])
    part = dataset.take([7, 3, 3])
    assert reds(part) == [7, 3, 3]
    assert part.labels is not None
    assert part.labels.tolist() == [1, 0, 0]
    assert part.image_name(0) == "row 7 of made"
    assert reds(part.take(np.array([False, True, True]))) == [3, 3]
    assert part.store is dataset.store
    drawn = dataset.sample(20, seed=1)
    assert reds(drawn) == sorted(set(reds(drawn)))
    assert len(drawn) == 20
    assert reds(drawn) == reds(dataset.sample(20, seed=1)) != reds(dataset.sample(20, seed=2))
    assert dataset.sample(None, 0) is dataset.sample(50, 0) is dataset
    with pytest.raises(ConfigurationError):
        dataset.sample(0, 0)


def test_hash_follows_content_labels_and_order() -> None:
    cells = [grey(1), grey(2)]
    hashes = [
        made(cells, [0, 1]).hash,
        made(cells, [0, 0]).hash,
        made(cells).hash,
        made(cells[::-1], [0, 1]).hash,
        made([cells[0] + cells[1]], [0]).hash,
        made([*cells, grey(1)], [0, 1, 0]).hash,
    ]
    assert len(set(hashes)) == 6
    assert made([grey(9), *cells], [5, 0, 1]).take([1, 2]).hash == hashes[0]


def test_usable_goes_on_to_the_next_good_image() -> None:
    dataset = made([b"bad", grey(1), b"", b"bad", grey(4), b"bad"])
    assert [usable(dataset, i)[1:] for i in range(6)] == [
        (1, ["row 0 of made"]),
        (1, []),
        (4, ["row 2 of made", "row 3 of made"]),
        (4, ["row 3 of made"]),
        (4, []),
        (1, ["row 5 of made", "row 0 of made"]),
    ]
    assert np.asarray(usable(dataset, 2)[0])[0, 0, 0] == 4
    # Positions and not rows are what `usable` counts.
    assert usable(dataset.take([4, 3]), 1)[1:] == (0, ["row 3 of made"])
    with pytest.raises(DataError, match=r"none of the 2 images .*row 0 of made") as error:
        usable(dataset.take([0, 2]), 0)
    assert not isinstance(error.value, CorruptImageError)


class Reds(Dataset[Any]):
    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(int(np.asarray(self.dataset.image(index))[0, 0, 0]))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_it_works_in_worker_processes() -> None:
    dataset = made([grey(v) for v in range(40)], [0] * 40)
    loader = DataLoader(Reds(dataset), batch_size=5, num_workers=2, multiprocessing_context="fork")
    assert torch.cat(list(loader)).tolist() == list(range(40))


def test_it_survives_pickling() -> None:
    dataset = made([grey(v) for v in range(40)], list(range(40))).take(range(10, 20))
    copy = pickle.loads(pickle.dumps(dataset))
    assert reds(copy) == list(range(10, 20))
    assert copy.hash == dataset.hash
    assert copy.image_name(0) == "row 10 of made"


@pytest.mark.parametrize(
    ("name", "sizes", "classes", "side"),
    [("cifar10_jpeg", (50000, 10000), 10, 32), ("tiny_imagenet_30", (15000, 1500), 30, 64)],
)
def test_real_images(shared_data: Path, name: str, sizes: tuple[int, int], classes: int, side: int) -> None:
    folder = shared_data / "images" / name
    assert available_splits(str(folder)) == ["test", "train"]
    assert len(load_images(str(folder), "train")) == sizes[0]
    test = load_images(str(folder), "test")
    assert len(test) == sizes[1]
    assert test.num_classes == classes
    rows = pq.read_table(folder / "test.parquet")
    assert test.labels is not None
    assert test.labels.tolist() == rows["label"].to_pylist()
    for index in np.random.default_rng(0).integers(0, len(test), 20).tolist():
        picture = Image.open(io.BytesIO(rows["image"][index].as_py()["bytes"])).convert("RGB")
        assert picture.size == (side, side)
        assert test.image(index).tobytes() == picture.tobytes()
