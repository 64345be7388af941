from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import ConfigurationError, DataError
from harness.core.rows import DETECTION_METRICS, finish_row, write_row
from harness.leaderboard.difference import Difference, compare
from harness.leaderboard.revisions import changes_since, leaderboard_at


def make_row(auc: float = 0.5, **changes: Any) -> dict[str, Any]:
    metrics = {name: {"value": 0.5, "low": 0.25, "high": 0.75} for name in DETECTION_METRICS}
    metrics["auc"] = {"value": auc, "low": auc - 0.125, "high": auc + 0.125}
    row = {
        "dataset": "imdb",
        "recipe": "pwws",
        "victim": "bert",
        "detector": "rde",
        "scenario": "s1",
        "seed": 0,
        "n_clean": 100,
        "n_adversarial": 90,
        "n_calibration": 50,
        "metrics": metrics,
        "cost": {"forwards_per_text": 1, "ms_per_text": 2.5},
        "run": "run",
        "protocol": {"sampling": {"target": 500}, "calibration": {"thresholds": {"10": auc}}},
    }
    return finish_row({**row, **changes})


def ssl_row(top1: float, **changes: Any) -> dict[str, Any]:
    row = {
        "board": "ssl",
        "encoder": "run-0",
        "objective": "simclr",
        "self_distill": True,
        "arch": "vit",
        "train_dataset": None,
        "eval_dataset": "digits",
        "seed": 0,
        "n_train": 1000,
        "n_test": 200,
        "readings": [
            {"protocol": "knn-20", "layer": 1, "pooling": "cls", "top1": {"value": top1, "low": 0.0, "high": 1.0}}
        ],
        "layers": [],
        "cost": {"forward_ms_per_item": 1.0, "reading_seconds": 2.0},
        "run": "read",
        "protocol": {},
    }
    return finish_row({**row, **changes})


@pytest.fixture
def difference(tmp_path: Path) -> Callable[..., Difference]:
    """`(first, second)`: how leaderboards of these rows differ."""

    def make(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Difference:
        for name, rows in (("first", first), ("second", second)):
            (tmp_path / name / "results").mkdir(parents=True)
            for row in rows:
                write_row(tmp_path / name, row)
        return compare(tmp_path / "first", tmp_path / "second")

    return make


def test_equal_rows_are_the_same_whatever_they_cost(difference: Callable[..., Difference]) -> None:
    dear = make_row(cost={"forwards_per_text": 9, "ms_per_text": 9}, run="another")
    found = difference([make_row(), ssl_row(0.5)], [dear, ssl_row(0.5)])
    assert found == Difference(2, (), (), ())


def test_rows_that_only_one_has(difference: Callable[..., Difference]) -> None:
    found = difference([make_row(), make_row(seed=1)], [make_row(), make_row(detector="msp")])
    assert found.same == 1
    assert [(row.board, row.name) for row in found.only_first] == [
        ("detection", "imdb, pwws, flip, bert, rde, s1, seed 1")
    ]
    assert [row.id for row in found.only_second] == [make_row(detector="msp")["id"]]
    assert found.pairs == ()


@pytest.mark.parametrize(("after", "beyond"), [(0.5625, False), (0.625, False), (0.75, True), (0.25, True)])
def test_a_metric_that_moved(difference: Callable[..., Difference], after: float, beyond: bool) -> None:
    found = difference([make_row(0.5)], [make_row(after)])
    [pair] = found.pairs
    [moved] = pair.moved
    assert (moved.metric, moved.before, moved.after, moved.change, moved.beyond) == (
        "auc",
        0.5,
        after,
        after - 0.5,
        beyond,
    )
    # Thresholds follow from the scores, and are no setting.
    assert (pair.before, pair.after, pair.settings) == (make_row(0.5)["id"], make_row(after)["id"], ())
    assert (found.same, found.only_first, found.only_second) == (0, (), ())


def test_a_value_within_a_wider_interval_is_not_beyond(difference: Callable[..., Difference]) -> None:
    row = make_row(0.75)
    row["metrics"]["auc"]["low"] = 0.25
    row.pop("id")
    [pair] = difference([make_row(0.5)], [finish_row(row)]).pairs
    assert pair.moved[0].beyond is False


def test_a_metric_that_only_one_knows(difference: Callable[..., Difference]) -> None:
    row = make_row()
    row["metrics"]["auc"] = {"value": None, "low": None, "high": None}
    row.pop("id")
    [pair] = difference([make_row()], [finish_row(row)]).pairs
    [moved] = pair.moved
    assert (moved.before, moved.after, moved.change, moved.beyond) == (0.5, None, None, None)


def test_settings_and_other_parts_that_differ_are_named(difference: Callable[..., Difference]) -> None:
    newer = {"sampling": {"target": 500}, "calibration": {"thresholds": {"10": 0.5}}, "versions": {"torch": "2.14"}}
    [pair] = difference([make_row()], [make_row(protocol=newer, failures=None)]).pairs
    assert pair.settings == ("versions.torch: (absent) -> 2.14",)
    assert (pair.moved, pair.parts) == ((), ())
    assert pair.before != pair.after


def test_rows_of_one_name_are_paired_by_their_sample(difference: Callable[..., Difference]) -> None:
    def small(auc: float) -> dict[str, Any]:
        return make_row(auc, protocol={"sampling": {"target": 50}})

    found = difference([make_row(0.5), small(0.25)], [small(0.375), make_row(0.625)])
    assert sorted((pair.moved[0].before, pair.moved[0].after) for pair in found.pairs) == [(0.25, 0.375), (0.5, 0.625)]


def test_what_cannot_be_paired_stands_alone(difference: Callable[..., Difference]) -> None:
    twins = [make_row(0.5), make_row(0.25)]
    found = difference(twins, [make_row(0.375)])
    assert (len(found.only_first), len(found.only_second), found.pairs) == (2, 1, ())


def test_readings_are_compared_one_by_one(difference: Callable[..., Difference]) -> None:
    [pair] = difference([ssl_row(0.25)], [ssl_row(0.5)]).pairs
    assert pair.name == "simclr, self-distilled, vit, unknown, digits, seed 0"
    assert [(moved.metric, moved.change) for moved in pair.moved] == [("knn-20 cls layer 1", 0.25)]


def test_damaged_rows_and_other_folders_are_refused(tmp_path: Path) -> None:
    write_row(tmp_path / "a", make_row()).write_text("{")
    (tmp_path / "b" / "results").mkdir(parents=True)
    with pytest.raises(DataError, match="not a sound result row"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match="is no leaderboard"):
        compare(tmp_path / "b", tmp_path)


def test_a_leaderboard_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "inner board"
    quiet = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(
            ["git", *names, *arguments], cwd=tmp_path / "checkout", env=quiet, check=True, capture_output=True
        )

    (folder / "results").mkdir(parents=True)
    (folder / "note").write_text("no rows yet")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "nothing")
    before = write_row(folder, make_row())
    git("add", "--all")
    git("commit", "--quiet", "--message", "a row")
    before.unlink()
    write_row(folder, make_row(0.75))
    with leaderboard_at(folder, "HEAD") as then:
        [pair] = compare(then, folder).pairs
        assert pair.moved[0].change == 0.25
    assert not then.exists()
    with leaderboard_at(folder, "HEAD~1") as then:
        assert compare(then, folder).same == 0
    changes = changes_since(folder, "HEAD")
    assert [path.name for path in changes.added] == [f"{make_row(0.75)['id']}.json"]
    assert (changes.modified, changes.deleted) == ((), (before,))
    with pytest.raises(ConfigurationError, match="git knows no revision 'HEAD~9'"), leaderboard_at(folder, "HEAD~9"):
        pass
