"""Pages of attacks, of training and reading encoders, and the short ones."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.core.runs import Run
from harness.report.page import write_report
from harness.text.adversarial import ROWS_FILE, compare_words, write_rows

TINY = ["--arch", "vit_tiny_patch16_224", "--preset", "tiny", "--image-size", "8", "--patch-size", "4", "--depth", "2"]
TINY += ["--width", "24", "--heads", "2", "--batch-size", "16", "--epochs", "2", "--log-every", "1", "--self-distill"]


def test_an_attack_shows_its_figures(evaluation: Any, tmp_path: Path, read_page: Callable[..., Any]) -> None:
    page = read_page(write_report(evaluation.attack, tmp_path / "page.html").path)
    rows = evaluation.rows
    count = Counter(row.result for row in rows)
    told = {row[0]: row[1].split(" | ")[0] for row in page.table("What the attack did")[1:]}
    assert told["Texts"] == str(len(rows))
    assert [told[name] for name in ("Succeeded", "Failed", "Skipped")] == [
        str(count[name]) for name in ("success", "failure", "skipped")
    ]
    rate = 100 * count["success"] / (count["success"] + count["failure"])
    assert told["Success rate of attacked texts, %"] == f"{rate:.1f}"
    tried = [row.queries for row in rows if row.result != "skipped"]
    assert float(told["Queries a text, median of attacked texts"]) == np.median(tried)
    header, *classes = page.table("Results by class")
    for name, *cells in classes:
        mine = Counter(row.result for row in rows if name == str(row.label))
        assert cells[: len(header) - 2] == [str(mine[result]) for result in header[1:-1]]
    wins = sorted(row.words_changed_percent for row in rows if row.result == "success")
    for title, share in (
        ("fewest words", wins[0]),
        ("median of words", wins[len(wins) // 2]),
        ("most words", wins[-1]),
    ):
        article = page.source.split(f"Success with the {title}")[1].split("</article>")[0]
        assert f"({share:.1f} %)" in article


def test_very_long_texts_fold_and_open(
    evaluation: Any, tmp_path: Path, open_page: Callable[..., Any], accessibility_faults: Any
) -> None:
    before = " ".join(f"word{i}" for i in range(5000))
    after = before.replace("word4000 ", "other ")
    changed, share = compare_words(before, after)
    row = replace(
        evaluation.rows[0],
        original_text=before,
        perturbed_text=after,
        result="success",
        changed_positions=changed,
        words_changed_percent=share,
    )
    with Run(tmp_path / "run", "attack import", {}) as run:
        write_rows(run.path(ROWS_FILE), [row])
        run.finish([ROWS_FILE])
    page = open_page(write_report(tmp_path / "run").path, 390)
    article = page.query_selector("article")
    assert article.bounding_box()["height"] < 1500
    shown = [one.text_content() for one in article.query_selector_all(".text:not(.whole)")]
    assert ["word4000" in shown[0], "other" in shown[1]] == [True, True]
    assert [one.text_content() for one in article.query_selector_all(".whole")] == [before, after]
    assert not page.query_selector(".whole").is_visible()
    page.click("article summary")
    assert page.query_selector(".whole").is_visible()
    assert accessibility_faults(page) == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for label, high in (("bright", 255), ("dark", 60)):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, high, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / label / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(main: Callable[..., int], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "encoder"
    assert main("ssl", "train", "--objective", "byol", "--data", pictures, "--out", out, *TINY) == 0
    return out


def test_the_page_of_a_training_draws_what_was_logged(
    trained: Path, read_page: Callable[..., Any], open_page: Callable[..., Any], accessibility_faults: Any
) -> None:
    path = write_report(trained).path
    page = read_page(path)
    with open(trained / "metrics.csv", newline="") as handle:
        *_, last = csv.DictReader(handle)
    told = dict(page.table("last line of metrics.csv")[1:])
    for name in ("step", "loss", "rankme", "feature_std", "online_knn"):
        assert float(told[name.replace("_", " ")]) == pytest.approx(float(last[name]), rel=1e-3)
    for title in ("Loss of each layer", "Online k-NN accuracy", "RankMe", "Feature std"):
        assert title in page.text
    opened = open_page(path, 390)
    assert accessibility_faults(opened) == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_page_of_a_reading_holds_every_reading(
    main: Callable[..., int],
    trained: Path,
    pictures: Path,
    tmp_path: Path,
    read_page: Callable[..., Any],
    open_page: Callable[..., Any],
    accessibility_faults: Any,
) -> None:
    out = tmp_path / "read"
    arguments = ["--encoder", trained, "--data", pictures, "--protocol", "knn,linear", "--probe-epochs", 2]
    assert main("eval", "ssl", *arguments, "--out", out) == 0
    path = write_report(out).path
    page = read_page(path)
    (row,) = json.loads((out / "results.json").read_text())["rows"]
    for pooling in ("cls", "avg"):
        header, *lines = page.table(f"Pooling {pooling}: top-1")
        cells = {(line[0], name): cell for line in lines for name, cell in zip(header[2:], line[2:], strict=True)}
        mine = [reading for reading in row["readings"] if reading["pooling"] == pooling]
        assert len(cells) == len(mine) > 3
        for reading in mine:
            cell = cells[str(reading["layer"]), reading["protocol"]]
            assert cell.startswith(f"{100 * reading['top1']['value']:.1f}")
            best = max(one["top1"]["value"] for one in mine if one["protocol"] == reading["protocol"])
            assert ("(best)" in cell) == (reading["top1"]["value"] == best)
    told = {line[0]: line[1:] for line in page.table("Geometry of each layer")}
    for entry in row["layers"]:
        value = float(told[str(entry["layer"])][told["Layer"].index("RankMe")])
        assert value == pytest.approx(entry["rankme"], rel=1e-3)
    assert accessibility_faults(open_page(path, 390)) == []


def test_the_page_of_a_fit_says_what_was_fitted(
    main: Callable[..., int], evaluation: Any, tmp_path: Path, read_page: Callable[..., Any], capsys: Any
) -> None:
    out = tmp_path / "mle"
    arguments = ["--victim", evaluation.victim_folder, "--dataset", evaluation.data, "--detector", "mle", "--out", out]
    assert main("detect", "fit", *arguments) == 0
    assert main("report", out, "--out", tmp_path / "page.html") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'page.html'}"
    page = read_page(tmp_path / "page.html")
    told = dict(page.table("What the run keeps")[1:])
    assert (told["detector"], told["train rows"]) == ("mle", "160")
    # The command stands there as it was typed; nothing else tells where things lie.
    assert page.text.count(str(evaluation.victim_folder)) == 1


def test_the_page_of_a_victim_has_its_accuracy(tmp_path: Path, read_page: Callable[..., Any]) -> None:
    facts = {"accuracy": 0.875, "accuracy_low": 0.8, "accuracy_high": 0.95, "dataset": "reviews", "train_rows": 1200}
    with Run(tmp_path / "victim", "victim train", {"dataset": "reviews"}) as run:
        run.path("victim.json").write_text(json.dumps(facts))
        run.finish(["victim.json"])
    told = dict(read_page(write_report(tmp_path / "victim").path).table("What the run keeps")[1:])
    assert told == {
        "Accuracy on held-out texts, %": "87.5 | 80.0 to 95.0",
        "dataset": "reviews",
        "train rows": "1200",
    }
