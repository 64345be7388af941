"""`harness attack run` with goals, limits and artifacts, through the command line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.runs import MANIFEST
from harness.text.adversarial import read_rows
from harness.text.victims import Victim

Main = Callable[..., int]


@pytest.fixture(scope="module")
def reviews(tiny_victim: Victim, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 texts with the victim's own labels."""
    draw = np.random.default_rng(1)
    texts = [" ".join(draw.choice(words, draw.integers(3, 9))) for _ in range(60)]
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows(zip(texts, tiny_victim.read(texts).predictions.tolist(), strict=True))
    return path


@pytest.fixture
def run(main: Main, reviews: Path, tiny_victim_folder: Any, tmp_path: Path) -> Callable[..., tuple[int, Path]]:
    """`(*options)` attacks 12 of the texts: exit code and run folder."""

    def attack(*options: str) -> tuple[int, Path]:
        out = tmp_path / "run"
        given = ("--dataset", reviews, "--victim", tiny_victim_folder(), "--limit", "12", "--out", out)
        return main("attack", "run", *given, *options), out

    return attack


def test_a_far_boundary_attack(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run("--min-confidence", "0.55")
    assert code == 0
    rows = read_rows(out)
    assert {row.min_confidence for row in rows} == {0.55}
    assert all(max(row.perturbed_probabilities) >= 0.55 for row in rows if row.result == "success")
    assert json.loads((out / MANIFEST).read_text())["set_aside"] == 0


def test_a_targeted_attack_within_limits(run: Any) -> None:
    code, out = run("--target-class", "1", "--query-limit", "15", "--time-limit", "5m")
    assert code == 0
    rows = read_rows(out)
    assert {(row.goal, row.target_class, row.query_limit, row.seconds_limit) for row in rows} == {
        ("targeted", 1, 15, 300.0)
    }
    assert {row.perturbed_output for row in rows if row.result == "success"} <= {1}
    assert max(row.queries for row in rows) <= 15


def test_an_evasive_attack(
    run: Any, main: Main, reviews: Path, tiny_victim_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = tmp_path / "msp"
    given = ("--victim", tiny_victim_folder(), "--dataset", reviews, "--split", "test", "--out", detector)
    assert main("detect", "fit", *given, "--detector", "msp", "--limit", "40") == 0
    code, out = run("--evade", str(detector), "--evade-threshold", "0.45")
    assert code == 0
    rows = read_rows(out)
    assert all(1 - max(row.perturbed_probabilities) <= 0.45 for row in rows if row.result == "success")
    told = json.loads(rows[0].evaded)
    assert (told["detector"], told["threshold"]) == ("msp", 0.45)
    capsys.readouterr()
    code, _ = run("--evade", str(detector), "--evade-fpr", "0.001")
    assert code == 2
    assert "too few to place a threshold" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "textfoler"], "Did you mean textfooler"),
        (["--recipe", "pso"], "Use pso+wordnet"),
        (["--recipe", "textfooler"], "counter-fitted-vectors"),
        (["--recipe", "hotflip"], "counter-fitted-vectors"),
        (["--min-confidence", "1.5"], "--min-confidence 1.5 is not between 0 and 1"),
        (["--target-class", "7"], "--target-class 7 is no class of the victim"),
        (["--query-limit", "0"], "--query-limit 0 allows no query"),
        (["--time-limit", "soon"], "--time-limit"),
        (["--recipe", "input-reduction", "--target-class", "1"], "input reduction keeps the label"),
        (["--evade", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--artifacts", "/nowhere/at/all", "--recipe", "iga"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    options: list[str], said: str, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(*options)
    told = capsys.readouterr().err
    assert code == 2, told
    assert said in told
    assert "Traceback" not in told
    assert not out.exists()


def test_bf16_says_what_fp32_would_have_said(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.core.devices import bf16_supported, choose_device

    if not bf16_supported(choose_device(None)):
        pytest.skip("this machine has no bf16")
    code, out = run("--dtype", "bf16")
    assert code == 0
    assert "asked again in fp32, " in capsys.readouterr().out
    assert isinstance(json.loads((out / MANIFEST).read_text())["other_outcomes_in_fp32"], int)
