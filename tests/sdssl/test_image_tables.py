from __future__ import annotations

import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.core.errors import DataError, MissingFileError
from sdssl import image_tables
from sdssl.images import CorruptImageError, ImageDataset, available_splits, load_images


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value % 256, value // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, cells: Sequence[Any], column: str = "image", **others: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: cells, **others}), path, row_group_size=3)
    return path


def structs(values: Sequence[int]) -> list[dict[str, Any]]:
    return [{"bytes": png(value), "path": f"{value}.png"} for value in values]


def values(dataset: ImageDataset) -> list[int]:
    """The numbers that `png` made the pictures of."""
    firsts = [np.asarray(dataset.image(i))[0, 0].tolist() for i in range(len(dataset))]
    assert all(blue == 7 for _, _, blue in firsts)
    return [red + 256 * green for red, green, _ in firsts]


def labels(dataset: ImageDataset) -> list[int]:
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int64
    return dataset.labels.tolist()


@pytest.mark.parametrize("below", ["", "data"])
def test_a_folder_of_parquet_files(tmp_path: Path, below: str) -> None:
    folder = tmp_path / "birds"
    # Written out of order.
    write(folder / below / "train-00001-of-00002.parquet", structs(range(5, 12)), label=[1] * 7)
    write(folder / below / "train-00000-of-00002.parquet", structs(range(5)), label=[0, 1, 2, 1, 0])
    write(folder / below / "val.parquet", [png(300)], column="img", labels=pa.array([2], pa.int8()))
    assert available_splits(str(folder)) == ["train", "validation"]
    train = load_images(str(folder), "train")
    assert values(train) == list(range(12))
    assert labels(train) == [0, 1, 2, 1, 0, *[1] * 7]
    assert (train.name, train.split, train.label_names, train.num_classes) == ("birds", "train", None, 3)
    assert train.image_name(0) == "row 0 of train-00000-of-00002.parquet"
    assert train.image_name(6) == "row 1 of train-00001-of-00002.parquet"
    assert train.source["files"] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert str(tmp_path) not in str(train.source)
    validation = load_images(str(folder), "dev")
    assert values(validation) == [300]
    assert labels(validation) == [2]
    with pytest.raises(DataError, match="no split 'test'"):
        load_images(str(folder), "test")


def test_shards_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in range(11):
        write(tmp_path / f"train-{number}-of-11.parquet", structs([number]))
    assert values(load_images(str(tmp_path), "train")) == list(range(11))


def test_one_file_is_the_split_in_its_name(tmp_path: Path) -> None:
    for name, split in (("test.parquet", "test"), ("photos.parquet", "train")):
        path = write(tmp_path / name, structs([4, 5]))
        assert available_splits(str(path)) == [split]
        dataset = load_images(str(path), split)
        assert values(dataset) == [4, 5]
        assert dataset.labels is None
        assert dataset.name == path.stem
    with pytest.raises(DataError, match="no split 'train'"):
        load_images(str(tmp_path / "test.parquet"), "train")
    with pytest.raises(DataError, match="no splits"):
        load_images(str(tmp_path / "photos.parquet"), "test")


def saved(rows: Sequence[int], names: Sequence[str] | None = None) -> datasets.Dataset:
    features = datasets.Features(
        {"pic": datasets.Image(), "label": datasets.ClassLabel(names=names) if names else datasets.Value("int64")}
    )
    cells = {"pic": structs(rows), "label": [row % 2 for row in rows]}
    return datasets.Dataset.from_dict(cells, features=features)


def test_what_datasets_saved(tmp_path: Path) -> None:
    both = datasets.DatasetDict(
        {"train": saved(range(7), ["even", "odd"]), "validation": saved([300], ["even", "odd"])}
    )
    both.save_to_disk(str(tmp_path / "both"), num_shards={"train": 3, "validation": 1})
    assert available_splits(str(tmp_path / "both")) == ["train", "validation"]
    train = load_images(str(tmp_path / "both"), "train")
    assert values(train) == list(range(7))  # the column "pic" is known by what `datasets` noted
    assert labels(train) == [0, 1] * 3 + [0]
    assert train.label_names == ["even", "odd"]
    assert train.image_name(3) == "row 0 of data-00001-of-00003.arrow"
    assert values(load_images(str(tmp_path / "both"), "val")) == [300]
    saved(range(3)).save_to_disk(str(tmp_path / "one"))
    assert values(load_images(str(tmp_path / "one"), "train")) == [0, 1, 2]
    with pytest.raises(DataError, match="no splits"):
        load_images(str(tmp_path / "one"), "test")
    for file in (tmp_path / "one").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="not a readable Arrow file"):
        load_images(str(tmp_path / "one"), "train")


def test_class_names_of_the_schema_and_of_strings(tmp_path: Path) -> None:
    saved([1, 2], ["even", "odd"]).to_parquet(str(tmp_path / "a/train.parquet"))
    noted = load_images(str(tmp_path / "a"), "train", image_column="pic")
    assert noted.label_names == ["even", "odd"]
    assert labels(noted) == [1, 0]
    write(tmp_path / "b/train.parquet", structs(range(3)), label=["dog", "ant", "cat"])
    write(tmp_path / "b/test.parquet", structs(range(2)), label=["dog", "dog"])
    assert labels(load_images(str(tmp_path / "b"), "test")) == [2, 2]
    assert load_images(str(tmp_path / "b"), "test").label_names == ["ant", "cat", "dog"]
    write(tmp_path / "b/test.parquet", structs(range(2)), label=["dog", "emu"])
    with pytest.raises(DataError, match="train split lacks: emu"):
        load_images(str(tmp_path / "b"), "test")


def test_columns_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", structs([1, 2]), column="photo", fine_label=[3, 4], coarse=[0, 1])
    with pytest.raises(DataError, match=r"no image column \(image or img\); its columns are 'photo'") as error:
        load_images(str(path), "train")
    assert "--image-column" in error.value.hint
    assert labels(load_images(str(path), "train", image_column="photo")) == [3, 4]
    assert labels(load_images(str(path), "train", image_column="photo", label_column="coarse")) == [0, 1]
    with pytest.raises(DataError, match="no column 'kind'"):
        load_images(str(path), "train", image_column="photo", label_column="kind")
    with pytest.raises(DataError, match="holds int64 in column 'coarse', not encoded images"):
        load_images(str(path), "train", image_column="coarse")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([0, None], "1 missing labels in column 'label' .first at row 1"),
        ([0, -1], "below zero"),
        ([0.0, 0.5], "not a whole number"),
        ([0, 2**40], "too large"),
        ([[0], [1]], "not a whole number"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, cells: list[Any], message: str) -> None:
    path = write(tmp_path / "train.parquet", structs([1, 2]), label=cells)
    with pytest.raises(DataError, match=message):
        load_images(str(path), "train")


def test_labels_beyond_the_class_names_are_refused(tmp_path: Path) -> None:
    table = saved([1, 2], ["even", "odd"]).data.table
    table = table.set_column(1, "label", pa.array([0, 2], pa.int64())).replace_schema_metadata(table.schema.metadata)
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="beyond its 2 class names"):
        load_images(str(tmp_path), "train")


@pytest.mark.parametrize("cells", [[-1, -1], [None, None]])
def test_a_split_without_any_label_is_unlabelled(tmp_path: Path, cells: list[Any]) -> None:
    path = write(tmp_path / "train.parquet", structs([1, 2]), label=pa.array(cells, pa.int64()))
    dataset = load_images(str(path), "train")
    assert dataset.labels is None
    assert dataset.num_classes == 0


def test_a_row_without_an_image_is_corrupt_and_a_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/9.png").write_bytes(png(9))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        {"bytes": png(1), "path": None},
        None,
        {"bytes": None, "path": "pictures/9.png"},
        {"bytes": None, "path": "pictures/gone.png"},
        {"bytes": b"broken", "path": "x.png"},
    ]
    path = write(tmp_path / "train.parquet", pa.array(cells, kind))
    dataset = load_images(str(path), "train")
    assert values(dataset.take([0, 2])) == [1, 9]
    for row in (1, 3, 4):
        with pytest.raises(CorruptImageError, match=f"row {row} of train.parquet"):
            dataset.image(row)
    assert len({dataset.take([row]).hash for row in (0, 1, 2, 4)}) == 4


def test_broken_tables(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load_images(str(tmp_path), "train")
    with pytest.raises(MissingFileError):
        load_images(str(tmp_path / "gone.parquet"), "train")
    write(tmp_path / "train.parquet", pa.array([], pa.binary()))
    with pytest.raises(DataError, match="is empty"):
        load_images(str(tmp_path), "train")
    write(tmp_path / "b/train-00000-of-00002.parquet", structs([1]))
    with pytest.raises(DataError, match="lacks 1 of 2 shards"):
        load_images(str(tmp_path / "b"), "train")
    write(tmp_path / "b/train.parquet", structs([1]))
    with pytest.raises(DataError, match="more than one candidate"):
        load_images(str(tmp_path / "b"), "train")
    write(tmp_path / "c/train-00000-of-00002.parquet", structs([1]), label=[0])
    write(tmp_path / "c/train-00001-of-00002.parquet", structs([1]))
    with pytest.raises(DataError, match="has no column 'label'"):
        load_images(str(tmp_path / "c"), "train")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="holds no image dataset"):
        load_images(str(tmp_path / "notes.txt"), "train")


def test_large_parquet_is_mapped_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALIMPSEST_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "d/train-00000-of-00002.parquet", structs(range(5)), label=[0] * 5)
    write(tmp_path / "d/train-00001-of-00002.parquet", structs(range(5, 400)), label=[1] * 395)
    held = load_images(str(tmp_path / "d"), "train")
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(image_tables, "IN_MEMORY", 10)
    mapped = load_images(str(tmp_path / "d"), "train")
    files = list((tmp_path / "cache/images").glob("*.arrow"))
    assert len(files) == 1
    assert values(mapped) == values(held) == list(range(400))
    assert mapped.hash == held.hash
    assert mapped.image_name(7) == "row 2 of train-00001-of-00002.parquet"
    # It travels as a path, and a second reading makes no second file.
    assert len(pickle.dumps(mapped)) < 12_000 < len(pickle.dumps(held))
    assert values(pickle.loads(pickle.dumps(mapped))) == list(range(400))
    made = files[0].stat().st_mtime_ns
    load_images(str(tmp_path / "d"), "train")
    assert [file.stat().st_mtime_ns for file in (tmp_path / "cache/images").glob("*.arrow")] == [made]
    # Other files of the same names are not taken for these, even at the same size.
    os.utime(tmp_path / "d/train-00001-of-00002.parquet", ns=(1, 1))
    load_images(str(tmp_path / "d"), "train")
    assert len(list((tmp_path / "cache/images").glob("*.arrow"))) == 2
    write(tmp_path / "d/train-00001-of-00002.parquet", structs(range(5, 300)), label=[1] * 295)
    assert values(load_images(str(tmp_path / "d"), "train")) == list(range(300))
