"""`harness attack release` and `restore`: from a run to a set that others load, and to a run of theirs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.text.adversarial import read_rows

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")
Main = Callable[..., int]


def write_split(path: Path, rows: int, seed: int, backwards: bool = False) -> None:
    draw = np.random.default_rng(seed)
    made = [(" ".join(draw.choice(WORDS, size=3 + i % 5)) + f" {i}", i % 2) for i in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        csv.writer(handle).writerows([("text", "label"), *(reversed(made) if backwards else made)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "reviews"
    write_split(folder / "train.csv", 40, 1)
    write_split(folder / "test.csv", 60, 2)
    return folder


@pytest.fixture(scope="module")
def attack(main: Main, data: Path, tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attack") / "run"
    assert main("attack", "run", "--dataset", data, "--victim", tiny_victim_folder(), "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def released(main: Main, attack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("released") / "set"
    assert main("attack", "release", attack, "--out", out) == 0
    return out


def test_release_says_what_it_made(
    main: Main, attack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "suite"
    shutil.copytree(attack, suite / "attacks" / "done")
    shutil.copytree(attack, suite / "attacks" / "half")
    (suite / "attacks" / "half" / "manifest.json").unlink()
    assert main("attack", "release", suite, "--out", tmp_path / "set", "--license", "cc0-1.0", "--repo", "org/x") == 0
    said = capsys.readouterr()
    assert "60 rows" in said.out
    assert "source texts withheld" in said.out
    assert "4 files" in said.out
    assert "left out: half" in said.err
    assert "license: cc0-1.0" in (tmp_path / "set" / "README.md").read_text()
    assert "harness attack restore hub:org/x " in (tmp_path / "set" / "README.md").read_text()


def test_a_restored_run_is_shown_compared_and_evaluated_like_any_other(
    main: Main,
    attack: Path,
    released: Path,
    tiny_victim_folder: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path / "reviews"  # my copy: the same texts in another order
    write_split(mine / "train.csv", 40, 1)
    write_split(mine / "test.csv", 60, 2, backwards=True)
    back = tmp_path / "back"
    assert main("attack", "restore", released, "--dataset", mine, "--out", back) == 0
    said = capsys.readouterr()
    assert "60 rows restored" in said.out
    assert "another index in this copy" in said.err
    assert read_rows(back) == read_rows(attack)
    assert main("attack", "show", back, "--examples", 2) == 0
    assert main("attack", "stats", attack, back) == 0
    evaluate = ("eval", "detect", "--attacks", back, "--detector", "msp", "--scenario", "s2", "--seeds", 0, "--out")
    capsys.readouterr()
    assert main(*evaluate, tmp_path / "no-victim") == 2
    assert "Pass --victim" in capsys.readouterr().err
    assert main(*evaluate, tmp_path / "cell", "--victim", tiny_victim_folder()) == 0
    assert main("eval", "detect", "--attacks", attack, *evaluate[4:], tmp_path / "first") == 0
    figures = []
    for name in ("cell", "first"):
        (found,) = json.loads((tmp_path / name / "results.json").read_text())
        figures.append([row["metrics"] for row in found["rows"]])
    assert figures[0] == figures[1]


def test_a_named_victim_is_kept_for_later_commands(
    main: Main, data: Path, released: Path, tiny_victim_folder: Any, tmp_path: Path
) -> None:
    given = ("--dataset", data, "--victim", tiny_victim_folder(), "--out", tmp_path / "back")
    assert main("attack", "restore", released, *given) == 0
    assert main("attack", "verify", tmp_path / "back") == 0


def test_with_texts_no_copy_is_needed(main: Main, attack: Path, tmp_path: Path) -> None:
    assert main("attack", "release", attack, "--out", tmp_path / "set", "--with-texts") == 0
    assert main("attack", "restore", tmp_path / "set", "--out", tmp_path / "back") == 0
    assert read_rows(tmp_path / "back") == read_rows(attack)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("release", "nowhere", "--out", "OUT"), "there is no finished attack run in nowhere"),
        (("release", "ATTACK", "--out", "SET"), "is not an empty folder"),
        (("release", "ATTACK", "--out", "OUT", "--license", "my own"), "not the short name of a licence"),
        (("restore", "nowhere", "--out", "OUT"), "is not a set of adversarial texts"),
        (("restore", "ATTACK", "--out", "OUT"), "is not a set of adversarial texts"),
        (("restore", "SET", "--out", "OUT"), "Say with --dataset where your own copy"),
        (("restore", "SET", "--dataset", "DATA", "--config", "x", "--out", "OUT"), "no configuration of this set"),
        (("restore", "SET", "--dataset", "no-such-set", "--out", "OUT"), "there is no dataset named"),
        (("restore", "SET", "--dataset", "OTHER", "--out", "OUT"), "60 of 60 source texts"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_told_and_leaves_nothing(
    main: Main,
    attack: Path,
    released: Path,
    data: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_split(tmp_path / "other" / "test.csv", 5, 3)
    places = {"ATTACK": attack, "SET": released, "DATA": data, "OUT": tmp_path / "out", "OTHER": tmp_path / "other"}
    assert main("attack", *(places.get(argument, argument) for argument in arguments)) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
