"""Folders of splits, and class names, which must have the same numbers in all splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import DataError
from harness.text.datasets import available_splits, load_dataset


def write(path: Path, rows: list[tuple[str, Any]], names: tuple[str, str] = ("text", "label")) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(names))
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)


def refused(spec: Path | str, split: str = "test", kind: type[DataError] = DataError, **options: Any) -> str:
    """The message and hint with which loading is refused."""
    with pytest.raises(kind) as caught:
        load_dataset(str(spec), split, **options)
    assert caught.value.message.endswith(".")
    return f"{caught.value.message} {caught.value.hint}"


def class_label_dataset(labels: list[int], column: str = "text") -> Any:
    import datasets

    features = datasets.Features(
        {column: datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos", "mixed"])}
    )
    rows = {column: [f"text {n}" for n in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows, features=features)


def test_names_share_their_numbers_over_all_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [("a", "sports"), ("b", "world")])
    write(tmp_path / "dev.jsonl", [("c", "business")])
    write(tmp_path / "test.csv", [("d", "world")])
    for split, numbers in {"train": [1, 2], "validation": [0], "test": [2]}.items():
        data = load_dataset(str(tmp_path), split)
        assert data.label_names == ["business", "sports", "world"]
        assert data.labels.tolist() == numbers
        assert data.num_classes == 3
    # Hidden labels of a split that is not asked for do no harm; numbers for names do.
    write(tmp_path / "test.csv", [("d", "-1"), ("e", "")])
    assert load_dataset(str(tmp_path), "train").num_classes == 3
    (tmp_path / "test.csv").write_text("text\nd\n")
    assert load_dataset(str(tmp_path), "train").num_classes == 3
    write(tmp_path / "test.csv", [("d", "1")])
    assert "mixes numbers and names" in refused(tmp_path, "train")


def test_class_names_of_parquet_and_saved_sets(tmp_path: Path) -> None:
    import datasets

    made = class_label_dataset([1, 0])
    made.to_parquet(tmp_path / "a.parquet")
    made.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": made, "val": made.select([1])}).save_to_disk(tmp_path / "dict")
    for spec in ("a.parquet", "saved", "dict"):
        data = load_dataset(str(tmp_path / spec), "train")
        assert data.label_names == ["neg", "pos", "mixed"]
        assert data.labels.tolist() == [1, 0]
        assert data.num_classes == 3
        assert str(tmp_path) not in json.dumps(data.source)
    assert available_splits(str(tmp_path / "dict")) == ["train", "validation"]
    assert load_dataset(str(tmp_path / "dict"), "dev").texts == ["text 1"]
    assert "train, validation" in refused(tmp_path / "dict", "test")
    assert "no column 'body'" in refused(tmp_path / "dict", "train", text_column="body")


def test_folder_of_splits(tmp_path: Path) -> None:
    folder = tmp_path / "reviews"
    folder.mkdir()
    for number, name in enumerate(["train.csv", "val.jsonl", "Test.parquet", "README.json", "other.csv"]):
        write(folder / name, [(f"text {number}", 0)])
    assert available_splits(str(folder)) == ["test", "train", "validation"]
    data = load_dataset(f"{folder}/", "dev")
    assert (data.name, data.split, data.texts) == ("reviews", "validation", ["text 1"])
    assert data.source["files"] == ["val.jsonl"]
    assert load_dataset(str(folder), "test").texts == ["text 2"]
    (folder / "train.csv").unlink()
    message = refused(folder, "train")
    assert "no split 'train'" in message
    assert "test, validation" in message


def test_shards_in_a_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(12):
        write(data / f"train-{number:05}-of-00012.parquet", [(f"text {number}", 0)])
    write(data / "test-00000-of-00001-0a1b2c.parquet", [("other", 1)])
    loaded = load_dataset(str(tmp_path), "train")
    assert loaded.texts == [f"text {number}" for number in range(12)]
    assert loaded.indices.tolist() == list(range(12))
    assert load_dataset(str(tmp_path), "test").texts == ["other"]
    write(data / "train-00007-of-00012.parquet", [("x", 0)], ("sentence", "label"))
    assert "no column 'text'" in refused(tmp_path, "train")
    (data / "train-00007-of-00012.parquet").unlink()
    assert "lacks 1 of 12 shards" in refused(tmp_path, "train")


@pytest.mark.parametrize("names", [("dev.csv", "val.csv"), ("train.csv", "train.jsonl"),
                                   ("train.csv", "train-00000-of-00001.csv")])  # fmt: skip
def test_rivals_for_one_split(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write(tmp_path / name, [("x", 0)])
    message = refused(tmp_path, "train")
    assert "more than one candidate" in message
    assert all(name in message for name in names)


def test_saved_sets_know_their_split(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]}, split="train")
    made.select([1]).save_to_disk(tmp_path / "saved")
    assert available_splits(str(tmp_path / "saved")) == ["train"]
    assert load_dataset(str(tmp_path / "saved"), "train").texts == ["y"]
    assert "It has: train." in refused(tmp_path / "saved", "test")
    (next((tmp_path / "saved").glob("*.arrow"))).write_bytes(b"broken")
    assert "cannot be read as a saved dataset" in refused(tmp_path / "saved", "train")
    (tmp_path / "saved" / "state.json").write_text("{")
    assert "not valid JSON" in refused(tmp_path / "saved", "train")


def test_folder_without_splits(tmp_path: Path) -> None:
    assert "holds no split" in refused(tmp_path)
