"""Folders that are no run, half a run or a changed one: one clear sentence, and nothing is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.runs import Run


@pytest.fixture
def refused(main: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """`(*arguments)` runs `harness report`, which must refuse and change nothing: what it said."""

    def run(*arguments: Any) -> str:
        def state() -> dict[Path, bytes]:
            return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

        before = state()
        assert main("report", *arguments) == 2
        said = capsys.readouterr().err
        assert state() == before
        assert said.startswith("error: ")
        assert len(said.splitlines()) <= 2
        return said

    return run


def test_folders_that_are_no_finished_run(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "is not a run folder" in refused(tmp_path / "mine")
    assert "is not a run folder" in refused(tmp_path / "mine" / "notes.txt")
    (tmp_path / "mine" / "config.yaml").write_text("- a list")
    assert "was not written by" in refused(tmp_path / "mine")
    with Run(tmp_path / "half", "eval detect", {}) as run:
        run.path("results.json").write_text("[]")
    assert "is not finished" in refused(tmp_path / "half")


def test_commands_without_a_report_are_named(refused: Callable[..., str], tmp_path: Path) -> None:
    with Run(tmp_path / "other", "detect score", {}) as run:
        run.finish([])
    assert "no report of a run of `harness detect score`" in refused(tmp_path / "other")


@pytest.mark.parametrize("name", ["results.json", "scores.parquet"])
def test_outputs_that_changed_after_the_run(
    name: str, refused: Callable[..., str], evaluated: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    data = (run / name).read_bytes()
    (run / name).write_bytes(data[: len(data) // 2])
    assert "is not as the run left it" in refused(run)
    (run / name).unlink()
    assert "is not there" in refused(run)


def test_results_of_another_format(refused: Callable[..., str], evaluated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("format: 2", "format: 99"))
    assert "format 99" in refused(run)


def test_a_manifest_that_is_none(refused: Callable[..., str], evaluated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    (run / "manifest.json").write_text(json.dumps({"status": "complete", "outputs": []}))
    assert "is not a manifest" in refused(run)


def test_pages_that_would_harm_the_run(refused: Callable[..., str], evaluated: Path, tmp_path: Path) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    for name in ("results.json", "manifest.json", "config.yaml", "run.log"):
        assert "is a file of the run itself" in refused(run, "--out", tmp_path / "run" / ".." / "run" / name)
    assert "is a folder" in refused(run, "--out", tmp_path)


def test_attacks_are_for_evaluations(refused: Callable[..., str], evaluation: Any, tmp_path: Path) -> None:
    run = shutil.copytree(evaluation.attack, tmp_path / "attack")
    assert "evaluates no attacks" in refused(run, "--attacks", evaluation.attack)
