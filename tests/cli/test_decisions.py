"""`harness detect`: calibrations, decisions, detectors that need attacks, joint detectors."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.detectors.decisions import load_calibration
from harness.text.adversarial import read_rows
from harness.text.seen_texts import save_seen

WORDS = ("a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and")
Main = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "reviews"
    folder.mkdir()
    draw = np.random.default_rng(1)
    texts = list(dict.fromkeys(" ".join(draw.choice(WORDS, size=4 + i % 6)) for i in range(420)))
    for split, part in (("train", texts[:150]), ("test", [*texts[150:270], texts[0], texts[1]])):
        with open(folder / f"{split}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["text", "label"])
            writer.writerows([text, i % 2] for i, text in enumerate(part))
    (folder / "clean.txt").write_text("".join(text + "\n" for text in texts[270:400]))
    return folder


@pytest.fixture(scope="module")
def attack(main: Main, data: Path, tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("attack") / "run"
    assert main("attack", "run", "--dataset", data, "--victim", tiny_victim_folder(), "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def members(main: Main, data: Path, tiny_victim_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("members")
    fit = ["detect", "fit", "--dataset", data, "--victim", tiny_victim_folder()]
    assert main(*fit, "--detector", "msp", "--out", root / "msp") == 0
    assert main(*fit, "--detector", "rde-empirical", "--components", 4, "--out", root / "rde") == 0
    return [root / "msp", root / "rde"]


@pytest.fixture
def fit(main: Main, data: Path, tiny_victim_folder: Any, tmp_path: Path) -> Callable[..., int]:
    def run(*more: Any, detector: str = "msp", out: str = "out", dataset: Path = data) -> int:
        given = [
            "--dataset",
            dataset,
            "--victim",
            tiny_victim_folder(),
            "--detector",
            detector,
            "--out",
            tmp_path / out,
        ]
        return main("detect", "fit", *given, *more)

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def test_fit_calibrate_and_score(
    fit: Callable[..., int], main: Main, data: Path, attack: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert fit("--calibration", attack, "--fpr", 0.1) == 0
    said = capsys.readouterr().out
    held = load_calibration(tmp_path / "out")
    assert held is not None
    total = int(0.3 * len(read_rows(attack)))
    assert len(held.scores) + held.facts["left_out"] == total == 36
    assert f"calibrated on {len(held.scores)} clean texts of reviews (validation rows)" in said
    assert (
        "over draws of calibration and new clean texts like them, the expected false-positive rate is at most 0.1"
        in said
    )
    assert main("detect", "score", tmp_path / "out", data / "clean.txt", "--out", tmp_path / "s.csv") == 0
    told = capsys.readouterr().err
    rows = rows_of(tmp_path / "s.csv")
    assert list(rows[0]) == ["id", "label", "probability", "score", "p_value", "decision"]
    for row in rows:
        p = (1 + sum(c >= float(row["score"]) for c in held.scores)) / (len(held.scores) + 1)
        assert float(row["p_value"]) == pytest.approx(p, abs=1e-12)
        assert row["decision"] == ("adversarial" if p <= 0.1 else "clean")
    flagged = sum(row["decision"] == "adversarial" for row in rows)
    assert f"{flagged} flagged; flagged are scores above" in told
    # Without a calibration the same folder scores and decides nothing.
    (tmp_path / "out" / "calibration.json").unlink()
    assert main("detect", "score", tmp_path / "out", data / "clean.txt", "--out", tmp_path / "t.csv") == 0
    assert list(rows_of(tmp_path / "t.csv")[0]) == ["id", "label", "probability", "score"]


def test_a_test_split_without_training_texts_and_a_limit(
    fit: Callable[..., int], main: Main, data: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert fit("--calibration", data, "--limit", 40) == 0
    said = capsys.readouterr().out
    # Two test texts are training texts, whether the 40 rows that were drawn hold them or not.
    assert "calibrated on 120 clean texts of reviews (test) (2 more left out: seen in training)" in said
    state = (tmp_path / "out" / "state.safetensors").read_bytes()
    assert fit("--calibration", data, "--limit", 40, "--calibration-limit", 50, "--confidence", 0.9, "--fpr", 0.1) == 0
    said = capsys.readouterr().out
    assert "this detector is fitted already" in said
    assert "calibrated on 50 clean texts" in said
    assert "with probability 0.9 over the draw of the 50 calibration texts" in said
    assert (tmp_path / "out" / "state.safetensors").read_bytes() == state
    given = ["--calibration", data / "clean.txt", "--fpr", 0.2]
    assert main("detect", "calibrate", tmp_path / "out", *given) == 0
    assert "calibrated on 130 clean texts of clean." in capsys.readouterr().out
    assert load_calibration(tmp_path / "out").fpr == 0.2  # type: ignore[union-attr]


def test_too_few_texts_are_told_and_flag_nothing(
    fit: Callable[..., int], main: Main, data: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert fit("--calibration", data, "--calibration-limit", 18) == 0
    note = "nothing can be flagged: a false-positive rate of 0.05 takes at least 19 calibration texts, there are 18."
    assert f"note: {note}" in capsys.readouterr().out
    assert main("detect", "score", tmp_path / "out", data / "clean.txt", "--out", tmp_path / "s.csv") == 0
    assert f"0 flagged; {note}" in capsys.readouterr().err
    assert {row["decision"] for row in rows_of(tmp_path / "s.csv")} == {"clean"}
    assert fit("--calibration", data, "--calibration-limit", 58, "--confidence", 0.95) == 0
    assert "with confidence 0.95 takes at least 59 calibration texts, there are 58" in capsys.readouterr().out


BAD: dict[str, tuple[Callable[[Path, Path], list[Any]], str]] = {
    "training data": (lambda data, _: ["--calibration", data, "--calibration-split", "train"], "are training texts"),
    "training file": (lambda data, _: ["--calibration", data / "train.csv", "--limit", 9], "are training texts"),
    "rate without data": (lambda *_: ["--fpr", 0.1], "promised on clean texts"),
    "confidence without data": (lambda *_: ["--confidence", 0.9], "promised on clean texts"),
    "rate of 0": (lambda data, _: ["--calibration", data, "--fpr", 0], "not above 0 and below 1"),
    "rate of 5": (lambda data, _: ["--calibration", data, "--fpr", 5], "--fpr 5 is not above 0 and below 1"),
    "confidence of 1": (lambda data, _: ["--calibration", data, "--confidence", 1], "--confidence 1 is not"),
    "no such data": (lambda data, _: ["--calibration", data / "no.txt"], "there is no file or folder"),
    "no such name": (lambda *_: ["--calibration", "imbd"], "no dataset named 'imbd'"),
    "no such split": (lambda data, _: ["--calibration", data, "--calibration-split", "dev"], "has no split"),
    "split of an attack": (lambda _, run: ["--calibration", run, "--calibration-split", "test"], "has no splits"),
    "attacks for msp": (lambda _, run: ["--attacks", run], "'msp' takes no adversarial texts"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_calibrate_is_told_before_anything_is_made(
    name: str, fit: Callable[..., int], data: Path, attack: Path, tmp_path: Path, capsys: Captured
) -> None:
    make, message = BAD[name]
    assert fit(*make(data, attack)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_detector_that_trains_on_attacks(
    fit: Callable[..., int],
    main: Main,
    data: Path,
    attack: Path,
    members: list[Path],
    tmp_path: Path,
    capsys: Captured,
) -> None:
    assert fit(detector="wdr") == 2
    assert "'wdr' trains on adversarial texts" in capsys.readouterr().err
    # With 120 rows too few succeed for wdr; fgws tunes on any number.
    assert fit("--attacks", attack, "--calibration", attack, "--fpr", 0.2, detector="fgws") == 0
    facts = json.loads((tmp_path / "out" / "detector.json").read_text())
    assert facts["tuned_on"]["clean"] == 18
    assert facts["tuned_on"]["adversarial"] > 0
    assert str(attack) not in json.dumps(facts["tuned_on"])
    held = load_calibration(tmp_path / "out")
    assert held is not None
    assert len(held.scores) <= 18  # the other half of the validation rows
    assert held.facts["left_out"] >= 18
    assert main("detect", "score", tmp_path / "out", data / "clean.txt", "--out", tmp_path / "s.csv") == 0
    assert capsys.readouterr().err.count("flagged") >= 1
    # On what tuned it, it would be too good for the weight it gets beside others.
    joined = ["detect", "joint", members[0], tmp_path / "out", "--calibration", data / "clean.txt"]
    assert main(*joined, "--attacks", attack, "--out", tmp_path / "joint") == 2
    assert "adversarial texts to tune on have tuned or trained a member already" in capsys.readouterr().err
    assert main(*joined, "--out", tmp_path / "joint") == 0


def test_a_damaged_calibration_is_told(
    fit: Callable[..., int], main: Main, data: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert fit("--calibration", data) == 0
    (tmp_path / "out" / "calibration.safetensors").write_bytes(b"x")
    assert main("detect", "score", tmp_path / "out", data / "clean.txt", "--out", tmp_path / "s.csv") == 2
    assert "is missing or damaged" in capsys.readouterr().err
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize("method", ["thresholds", "fisher"])
def test_joint(
    method: str, main: Main, members: list[Path], data: Path, attack: Path, tmp_path: Path, capsys: Captured
) -> None:
    given = ["--calibration", data / "clean.txt", "--fpr", 0.1, "--method", method, "--attacks", attack, "--compare"]
    assert main("detect", "joint", *members, *given, "--out", tmp_path / "joint") == 0
    said = capsys.readouterr().out
    assert f"msp, rde-empirical joined by {method}, tuned on 65 texts of clean" in said
    assert "calibrated on 65 clean texts of clean." in said
    assert ("a text is flagged when any of these holds: msp > " in said) == (method == "thresholds")
    lines = [line.split()[0] for line in said.splitlines() if "realised FPR" in line]
    assert lines == ["msp", "rde-empirical", "thresholds", "bonferroni", "simes", "fisher", "cauchy", "harmonic"]
    scored = {}
    for name, folder in (("joint", tmp_path / "joint"), ("msp", members[0]), ("rde", members[1])):
        assert main("detect", "score", folder, data / "test.csv", "--out", tmp_path / f"{name}.csv") == 0
        scored[name] = rows_of(tmp_path / f"{name}.csv")
    if method == "thresholds":
        own = said.split("any of these holds: msp > ")[1].split("\n")[0].rstrip(".").split(", rde-empirical > ")
        for joint, msp, rde in zip(scored["joint"], scored["msp"], scored["rde"], strict=True):
            any_above = float(msp["score"]) > float(own[0]) or float(rde["score"]) > float(own[1])
            near = abs(float(msp["score"]) - float(own[0])) < 1e-4 or abs(float(rde["score"]) - float(own[1])) < 1e-3
            assert near or (joint["decision"] == "adversarial") == any_above
    # Again, and calibrated on other texts: those that tuned are left out.
    assert main("detect", "joint", *members, *given[:-1], "--out", tmp_path / "joint") == 0
    assert main("detect", "calibrate", tmp_path / "joint", "--calibration", data / "clean.txt", "--fpr", 0.1) == 0
    assert "calibrated on 65 clean texts of clean (65 more left out" in capsys.readouterr().out


def test_what_cannot_be_joined_is_told(
    main: Main, members: list[Path], data: Path, tiny_victim_folder: Any, tmp_path: Path, capsys: Captured
) -> None:
    other = ["--dataset", data, "--victim", tiny_victim_folder("bert", 2, 1), "--detector", "msp"]
    assert main("detect", "fit", *other, "--out", tmp_path / "other") == 0
    calibration = ["--calibration", data / "clean.txt", "--out", tmp_path / "joint"]
    for arguments, message in (
        ([members[0], tmp_path / "other"], "are not of the same victim"),
        ([members[0]], "at least two different detectors"),
        ([*members, "--compare"], "Name one with --attacks"),
        ([*members, "--method", "mean"], "no way 'mean'"),
        ([*members, "--calibration-limit", 2], "too few to tune"),
        ([members[0], data], "no fitted detector"),
    ):
        assert main("detect", "joint", *arguments, *calibration) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "joint").exists()
    old = tmp_path / "old"
    shutil.copytree(members[0], old)
    facts = json.loads((old / "detector.json").read_text())
    facts.pop("seen_sha256")
    (old / "detector.json").write_text(json.dumps(facts))
    assert main("detect", "calibrate", old, "--calibration", data / "clean.txt") == 2
    assert "does not say which texts it has seen" in capsys.readouterr().err


def test_texts_that_trained_the_victim_do_not_calibrate(
    main: Main, data: Path, attack: Path, tiny_victim_folder: Any, tmp_path: Path, capsys: Captured
) -> None:
    victim = tmp_path / "victim"
    shutil.copytree(tiny_victim_folder(), victim)
    texts = (data / "clean.txt").read_text().splitlines()
    save_seen(victim, texts[:100])
    fit = ["detect", "fit", "--dataset", data, "--victim", victim, "--detector", "msp", "--calibration"]
    assert main(*fit, data / "clean.txt", "--out", tmp_path / "out") == 0
    assert "calibrated on 30 clean texts of clean (100 more left out: seen in training)" in capsys.readouterr().out
    (tmp_path / "own.txt").write_text("".join(text.upper() + " \n" for text in texts[:100]))
    assert main(*fit, tmp_path / "own.txt", "--out", tmp_path / "none") == 2
    assert (
        "all 100 calibration texts of own are training texts of the detector or its victim" in capsys.readouterr().err
    )
    assert not (tmp_path / "none").exists()
    # Nor does an evaluation take an attack on them.
    save_seen(victim, [row.original_text for row in read_rows(attack)][:13])
    evaluate = ["eval", "detect", "--attacks", attack, "--victim", victim, "--detector", "msp", "--scenario", "s2"]
    assert main(*evaluate, "--out", tmp_path / "eval") == 2
    assert "are training texts of the victim 'victim'" in capsys.readouterr().err


def test_repeats_are_told(fit: Callable[..., int], data: Path, tmp_path: Path, capsys: Captured) -> None:
    texts = (data / "clean.txt").read_text().splitlines()[:30]
    (tmp_path / "repeated.txt").write_text("".join(text + "\n" for text in [*texts, *texts[:7], texts[0]]))
    assert fit("--calibration", tmp_path / "repeated.txt") == 0
    assert "note: 8 of them are repeats" in capsys.readouterr().out
    assert fit("--calibration", data / "clean.txt", out="other") == 0
    assert "are repeats" not in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--seed", 2**32), ("--calibration", "x", "--seed", 2**64)])
def test_seeds_are_of_32_bits(
    options: tuple[Any, ...], fit: Callable[..., int], tmp_path: Path, capsys: Captured
) -> None:
    assert fit(*options) == 2
    assert "4294967295" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_class_names_are_the_victims_in_every_command(
    main: Main, data: Path, tiny_victim_folder: Any, tmp_path: Path
) -> None:
    names = ("warm", "cold")  # against the alphabet
    victim, named = tmp_path / "victim", tmp_path / "named" / "reviews"
    shutil.copytree(tiny_victim_folder(), victim)
    config = json.loads((victim / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (victim / "config.json").write_text(json.dumps(config))
    named.mkdir(parents=True)
    for split in ("train", "test"):
        rows = rows_of(data / f"{split}.csv")
        with open(named / f"{split}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["text", "label"])
            writer.writerows([row["text"], names[int(row["label"])]] for row in rows)
    labels, hashes = [], []
    for dataset in (data, named):
        out = tmp_path / f"of-{dataset.parent.name}"
        attack = ["attack", "run", "--dataset", dataset, "--victim", victim, "--limit", 60, "--out", out / "attack"]
        assert main(*attack) == 0
        labels.append([row.label for row in read_rows(out / "attack")])
        fit = ["detect", "fit", "--dataset", dataset, "--victim", victim, "--detector", "mle", "--out", out / "fit"]
        assert main(*fit) == 0
        hashes.append([json.loads((out / "fit" / "detector.json").read_text())["dataset_hash"]])
        evaluate = ["--detector", "mle", "--scenario", "s2", "--seeds", 0, "--replicates", 10, "--out", out / "eval"]
        assert main("eval", "detect", "--attacks", out / "attack", *evaluate) == 0
        (found,) = json.loads((out / "eval" / "results.json").read_text())
        hashes[-1].append(found["rows"][0]["protocol"]["detector"]["train_hash"])
    assert labels[0] == labels[1]
    assert hashes[0] == hashes[1]
