"""The page of an `eval detect` run says what the run's files say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.core.files import hash_file
from harness.core.runs import Run
from harness.evaluation.detection import EvaluationSettings
from harness.evaluation.runs import EvaluationRequest, run_evaluation
from harness.report.page import write_report
from harness.text.adversarial import ROWS_FILE, write_rows

TITLES = {"MSP": "msp", "MLE": "mle", "KNN (layer 1)": "knn:layer=1", "KNN (layer 3)": "knn:layer=3"}


@pytest.fixture(scope="module")
def page(evaluated: Path, read_page: Callable[[Path], Any]) -> Any:
    written = write_report(evaluated)
    assert (written.path, list(written.notes)) == (evaluated / "report.html", [])
    return read_page(written.path)


def means(run: Path) -> dict[str, Any]:
    (found,) = json.loads((run / "results.json").read_text())
    return {mean["title"]: mean for mean in found["mean_over_seeds"].values()}


def test_the_summary_is_the_mean_over_seeds_with_intervals(page: Any, evaluated: Path) -> None:
    header, *rows = page.table("mean of seeds 0, 1")
    assert {row[0] for row in rows} == set(means(evaluated))
    for row in rows:
        mean = means(evaluated)[row[0]]
        for column, name in (("AUC", "auc"), ("Held-out TPR", "heldout_tpr_10"), ("Realised FPR", "realised_fpr_10")):
            value, low, high = (100 * mean["metrics"][name][key] for key in ("value", "low", "high"))
            assert row[header.index(column)] == f"{value:.1f} | {low:.1f} to {high:.1f}"
        (compared,) = mean["comparisons"] or [None]
        cell = row[header.index("AUC less MSP's")]
        assert cell.startswith(f"{100 * compared['auc_difference']['value']:+.1f}") if compared else cell == "\u2013"
        assert row[header.index("Forwards a text")] == f"{mean['cost']['forwards_per_text']:g}"


def test_decisions_show_promised_and_realised_rates(page: Any, evaluated: Path) -> None:
    groups, _, *rows = page.table("thresholds set on held-out clean texts (validation rows)")
    assert [text for text in groups if text] == [f"Promised FPR {rate} %" for rate in (1, 5, 10)]
    for row in rows:
        metrics = means(evaluated)[row[0]]["metrics"]
        for place, rate in ((4, 5), (6, 10)):
            told = [metrics[f"{kind}_{rate}"]["value"] for kind in ("realised_fpr", "heldout_tpr")]
            assert [cell.split(" | ")[0] for cell in row[place : place + 2]] == [f"{100 * value:.1f}" for value in told]


def test_every_picture_has_a_name_a_description_and_lines(page: Any) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "svg" and "aria-labelledby" in attributes]
    titles = {attributes["id"]: tag for tag, attributes in page.tags if tag in ("title", "desc") and "id" in attributes}
    assert len(pictures) == 7  # a ROC picture, a histogram a detector, two by layer
    for attributes in pictures:
        assert titles[attributes["aria-labelledby"]] == "title"
        assert titles[attributes["aria-describedby"]] == "desc"
    assert "AUC by layer" in page.text
    assert "knn: " in page.text


def verdicts(run: Path, title: str, row_id: str, *, perturbed: bool) -> tuple[float, float, bool] | None:
    """Score, share of the first seed's clean texts below it and decision, from the file of scores."""
    scores = pd.read_parquet(run / "scores.parquet")
    (found,) = json.loads((run / "results.json").read_text())
    spec = TITLES[title]
    (row,) = [row for row in found["rows"] if (row["detector"], row["seed"]) == (spec, 0)]
    mine = scores[scores.detector == spec]
    clean = mine[(mine.seed == 0) & ~mine.adversarial].score.to_numpy()
    own = mine[(mine.id == row_id) & (mine.adversarial == perturbed)].score.to_numpy()
    if not len(own):
        return None
    share = np.mean(clean < own[0]) + np.mean(clean == own[0]) / 2
    return own[0], 100 * share, own[0] > row["protocol"]["calibration"]["thresholds"]["10"]


def test_examples_say_what_each_detector_thought_of_both_texts(page: Any, evaluated: Path) -> None:
    tables = [(caption.split("of row ")[1][:16], rows) for caption, rows in page.tables if "says of row" in caption]
    assert len(tables) >= 4
    seen = 0
    for row_id, (header, *rows) in tables:
        assert {row[0] for row in rows} == set(means(evaluated))
        for row in rows:
            for name, cell in zip(header[1:], row[1:], strict=True):
                wanted = verdicts(evaluated, row[0], row_id, perturbed=name == "Perturbed text")
                if wanted is None:
                    assert cell == "not scored"
                    continue
                score, share, flagged = wanted
                decision, told = cell.split(" | ")
                assert decision == ("flagged" if flagged else "passed")
                value, above = told.removesuffix(" %").split(", above ")
                assert float(value.replace(",", "")) == pytest.approx(score, rel=1e-3, abs=1e-12)
                assert float(above) == pytest.approx(share, abs=0.51)
                seen += 1
    assert seen > 20


def test_examples_are_of_the_kinds_that_their_titles_say(page: Any, evaluated: Path) -> None:
    articles = page.source.split('<article class="example">')[1:]
    kinds = set()
    for article in articles:
        title = article.split("<bdi>")[1].split("</bdi>")[0]
        row_id = article.split("What each detector says of row ")[1][:16]
        perturbed = title.startswith("Adversarial")
        found = [verdicts(evaluated, name, row_id, perturbed=perturbed) for name in TITLES]
        flags = [verdict[2] for verdict in found if verdict is not None]
        assert len(flags) == 4
        kinds.add(title.split(":")[0].split(" of ")[0])
        told = f"{sum(flags)} of 4 detectors"
        wanted = {
            "Adversarial, flagged by every detector": all(flags),
            "Adversarial, missed by every detector": not any(flags),
            f"Adversarial, detectors disagree: flagged by {told}": any(flags) and not all(flags),
            f"Adversarial, flagged by the most: {told}": any(flags) and not all(flags),
            f"Adversarial, flagged by the fewest: {told}": any(flags) and not all(flags),
            f"Clean, a false alarm of {told}": any(flags),
        }
        assert wanted[title]
    assert len(kinds) >= 3


def test_counts_of_agreement_are_those_of_the_scores(page: Any, evaluated: Path) -> None:
    scores = pd.read_parquet(evaluated / "scores.parquet")
    (found,) = json.loads((evaluated / "results.json").read_text())
    limits = {
        row["detector"]: row["protocol"]["calibration"]["thresholds"]["10"] for row in found["rows"] if row["seed"] == 0
    }
    first = scores[scores.seed == 0]
    flagged = (first.score > first.detector.map(limits)).groupby([first.adversarial, first.id]).sum()
    adversarial, clean = flagged[True], flagged[False]
    told = {row[0]: row[1] for row in page.table("How the detectors agree")[1:]}
    assert told == {
        "Adversarial, flagged by every detector": f"{(adversarial == 4).sum()} of {len(adversarial)}",
        "Adversarial, flagged by some": f"{((adversarial > 0) & (adversarial < 4)).sum()} of {len(adversarial)}",
        "Adversarial, flagged by no detector": f"{(adversarial == 0).sum()} of {len(adversarial)}",
        "Clean, flagged by some": f"{(clean > 0).sum()} of {len(clean)}",
    }


def test_the_same_run_gives_the_same_bytes(page: Any, evaluated: Path, tmp_path: Path) -> None:
    write_report(evaluated, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (evaluated / "report.html").read_bytes()


def test_an_attack_that_is_gone_or_another_leaves_a_page_without_examples(
    evaluation: Any, evaluated: Path, tmp_path: Path, read_page: Callable[[Path], Any]
) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    moved = shutil.copytree(evaluation.attack, tmp_path / "moved")
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["sources"] == {"attacks": [str(evaluation.attack)]}

    def told(folders: list[Path] | None, **sources: Any) -> str:
        (run / "manifest.json").write_text(json.dumps({**manifest, "sources": sources}))
        written = write_report(run, tmp_path / "page.html", folders)
        page = read_page(written.path)
        assert ("Adversarial, " in page.text) == (not written.notes)
        assert all(note in page.text for note in written.notes)
        assert page.table("mean of seeds 0, 1")
        return " ".join(written.notes)

    assert "not in" in told(None, attacks=[str(tmp_path / "nowhere")])
    assert "does not say where" in told(None)
    assert told([tmp_path, moved], attacks=[str(tmp_path / "nowhere")]) == ""
    (moved / "adversarial.parquet").write_bytes(b"other rows")
    assert "not those that were evaluated" in told(None, attacks=[str(moved)])
    assert "are not in" in told([moved], attacks=[str(evaluation.attack)])


def test_without_heldout_texts_the_page_says_what_flags(
    evaluation: Any, tmp_path: Path, read_page: Callable[[Path], Any]
) -> None:
    run = evaluation.evaluate(tmp_path / "run", ("msp",), validation_fraction=0.0, scenario="s2", seeds=(0,))
    page = read_page(write_report(run).path)
    assert "There are no held-out figures" in page.text
    assert "for want of held-out ones" in page.text
    assert "Adversarial, flagged" in page.text


def test_the_page_holds_the_command_where_the_run_knows_it(
    evaluated: Path, tmp_path: Path, read_page: Callable[[Path], Any]
) -> None:
    run = shutil.copytree(evaluated, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["command_line"] = "harness eval detect --attacks 'a <b> c'"
    (run / "manifest.json").write_text(json.dumps(manifest))
    page = read_page(write_report(run).path)
    assert "harness eval detect --attacks 'a <b> c'" in page.text
    assert [row[1] for row in page.table("Versions")[1:] if row[0] == "torch"] == [manifest["versions"]["torch"]]
    assert hash_file(run / "scores.parquet") in page.text


def test_two_attacks_that_share_their_names_are_told_apart(
    evaluation: Any, tmp_path: Path, read_page: Callable[[Path], Any]
) -> None:
    half = tmp_path / "half"
    with Run(half, "attack run", {"half": True}) as made:
        write_rows(made.path(ROWS_FILE), evaluation.rows[:110])
        made.finish([ROWS_FILE], sources=json.loads((evaluation.attack / "manifest.json").read_text())["sources"])
    chosen = EvaluationSettings(replicates=20, seeds=(0,), scenario="s2")
    run = tmp_path / "run"
    outcome = run_evaluation(EvaluationRequest([evaluation.attack, half], ["msp", "mle"], {}, chosen), run)
    both = [evaluation.attack, half]
    page = read_page(write_report(run, attacks=both[::-1]).path)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    tables = [rows for caption, rows in page.tables if caption.startswith("made up on toy")]
    for rows, table in zip(tables, outcome.tables, strict=True):
        told = {row[0]: row[1].split(" | ")[0] for row in rows[1:]}
        assert told == {row["detector"]: f"{100 * row['metrics']['auc']['value']:.1f}" for row in table.rows}
    agreed = [rows[1][1].split(" of ")[1] for caption, rows in page.tables if caption.startswith("How the detectors")]
    assert agreed == [str(outcome.rows[place]["n_adversarial"]) for place in (0, 2)]
    shutil.rmtree(half)
    written = write_report(run)
    assert len(written.notes) == 1
    assert len([caption for caption, _ in read_page(written.path).tables if caption.startswith("How the")]) == 1
