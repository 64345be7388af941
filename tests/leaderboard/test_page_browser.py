"""The page as people use it: in Chromium, by mouse and by keyboard, at two widths, in the light and in the dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.rows import DETECTION_METRICS, finish_row
from harness.leaderboard.page import render

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "a\u2028b\u2029c",
    "\u202egnp.evil",
    "</noscript><b>x",
    "<!--<script>",
)
COMMAND = "harness eval detect --attacks 'runs/a b' --detector rde && echo \"<b>\""
AUC = {"rde": 0.9, "mle": 0.7, "msp": 0.8, "wdr": 0.99}
MS = {"rde": 20.0, "mle": 5.0, "msp": 10.0, "wdr": 1.0}


def estimate(value: float | None) -> dict[str, float | None]:
    return {"value": value, "low": None if value is None else value - 0.05, "high": None if value is None else value}


def detection_row(detector: str, **changes: Any) -> dict[str, Any]:
    metrics = {name: estimate(0.5) for name in DETECTION_METRICS} | {"auc": estimate(AUC.get(detector, 0.6))}
    row = {
        **{"dataset": "sst2", "recipe": "pwws", "goal": "flip", "victim": "bert", "detector": detector},
        **{"scenario": "s1", "seed": 0, "n_clean": 100, "n_adversarial": 90, "n_calibration": 50, "run": "run-1"},
        "metrics": metrics,
        "cost": {"forwards_per_text": 1, "ms_per_text": MS.get(detector, 7.0)},
        "trains_on_adversarial_texts": detector == "wdr",
        "limited": detector == "wdr",
        "comparisons": [
            {
                "reference": "msp",
                "auc_difference": {"value": 0.125, "low": 0.05, "high": 0.2},
                "p": 0.0001,
                "p_holm": 0.0004,
            }
        ],
        "words": {"metrics": {"auc_pooled": estimate(0.625)}, "texts": 40, "words": 900, "substituted": 123},
        "protocol": {"detector": {"adversarial_texts": "none", "parameters": {"layer": 6, "__proto__": 1.25}}},
    }
    return finish_row({**row, **changes})


def ssl_row(objective: str, self_distill: bool, seed: int, top1: float) -> dict[str, Any]:
    readings = [
        {"protocol": protocol, "layer": layer, "pooling": "cls", "top1": estimate(top1 + layer / 100)}
        for protocol in ("knn-20", "linear")
        for layer in (1, 2, 3)
    ]
    names = ("positive_alignment", "positive_alignment_l2", "negative_alignment", "negative_alignment_l2")
    known = dict.fromkeys((*names, "uniformity", "rankme", "feature_std"), 1.5)
    return finish_row(
        {
            **{"board": "ssl", "encoder": f"{objective}-{seed}", "objective": objective, "self_distill": self_distill},
            **{"arch": "vit", "train_dataset": "cifar10", "eval_dataset": "digits", "seed": seed, "n_train": 900},
            **{"n_test": 100, "run": "read", "protocol": {}, "readings": readings},
            "layers": [{"layer": layer, "flops": layer * 10**9, **known} for layer in (1, 2, 3)],
            "cost": {"forward_ms_per_item": 1.5, "reading_seconds": 3.0},
        }
    )


def many_rows() -> dict[str, list[dict[str, Any]]]:
    detection = [
        detection_row(detector, seed=seed, dataset=dataset)
        for detector in AUC
        for seed in (0, 1)
        for dataset in ("sst2", "imdb")
    ]
    detection += [detection_row("rde", scenario="matched")]
    ssl = [
        ssl_row(objective, way, seed, 0.3 + seed / 10)
        for objective in ("byol", "simclr")
        for way in (True, False)
        for seed in (0, 1)
    ]
    return {"detection": detection, "ssl": ssl}


ROWS = many_rows()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render(ROWS), encoding="utf-8")
    return path


@pytest.fixture
def board(open_page: Callable[..., Any], page_file: Path) -> Any:
    """The detection board of an open page."""
    return open_page(page_file).locator("#detection-board")


def names(board: Any) -> list[str]:
    return board.locator("tbody:visible th button").all_inner_texts()


def choose(board: Any, label: str, value: str) -> None:
    board.get_by_label(label, exact=True).select_option(value)


def sort(board: Any, title: str) -> Any:
    board.get_by_role("button", name=title, exact=True).click()
    return board.get_by_role("columnheader", name=title, exact=True)


# Tables.


def test_the_board_begins_with_means_over_the_usual_cells(board: Any) -> None:
    assert names(board) == ["rde", "msp", "mle", "wdr"]
    assert "4 lines of 2 cells, 16 of 17 rows." in board.get_by_role("status").inner_text()
    [first, *_, last] = board.locator("tbody:visible tr").all_inner_texts()
    assert re.split(r"\s+", first)[:3] == ["rde", "2", "90.0"]
    assert "trained on adversarial texts, not ranked" in last
    assert "limited" in last


def test_a_column_sorts_both_ways_and_what_is_not_ranked_stays_last(board: Any) -> None:
    ms = sort(board, "ms")
    # Cheap comes first; the trained detector is the cheapest of all.
    assert names(board) == ["mle", "msp", "rde", "wdr"]
    assert ms.get_attribute("aria-sort") == "ascending"
    assert board.locator("th[aria-sort]:visible").count() == 1
    sort(board, "ms")
    assert names(board) == ["rde", "msp", "mle", "wdr"]
    assert ms.get_attribute("aria-sort") == "descending"
    sort(board, "Detector")
    assert names(board) == ["mle", "msp", "rde", "wdr"]


def test_filters_and_search_narrow_the_table_and_the_picture(board: Any) -> None:
    choose(board, "Lines", "cells")
    assert len(names(board)) == 8
    assert board.locator("svg.scatter circle").count() == 8
    choose(board, "Dataset", "imdb")
    assert len(names(board)) == 4
    board.get_by_label("Search").fill("IMDB rd")
    assert names(board) == ["rde"]
    assert board.locator("svg.scatter circle").count() == 1
    board.get_by_label("Search").fill("nothing like it")
    assert names(board) == []
    assert "Nothing matches these filters." in board.locator("caption:visible").inner_text()
    board.get_by_role("button", name="Clear filters").click()
    assert len(names(board)) == 9
    choose(board, "Class of detector", "trained on attacks")
    assert names(board) == ["wdr", "wdr"]
    choose(board, "Lines", "seeds")
    assert len(names(board)) == 4


def test_a_detector_that_lacks_cells_is_not_compared(open_page: Callable[..., Any], tmp_path: Path) -> None:
    best = detection_row("best", metrics={name: estimate(0.95) for name in DETECTION_METRICS})
    dear = detection_row("dear", limited=True, protocol={"sampling": {"dear_texts": 5}})
    (tmp_path / "p.html").write_text(render({"detection": [*ROWS["detection"], best, dear]}), encoding="utf-8")
    board = open_page(tmp_path / "p.html").locator("#detection-board")
    assert names(board) == ["rde", "msp", "mle", "best", "dear", "wdr"]
    notes = board.locator("tbody:visible tr").all_inner_texts()
    assert "in 1 of 2 cells, not compared" in notes[3]
    assert "in no cell that counts, not compared" in notes[4]


def test_a_long_table_shows_the_rest_when_asked(open_page: Callable[..., Any], tmp_path: Path) -> None:
    rows = [detection_row(f"d{number}") for number in range(120)]
    (tmp_path / "p.html").write_text(render({"detection": rows}), encoding="utf-8")
    board = open_page(tmp_path / "p.html").locator("#detection-board")
    assert len(names(board)) == 100
    board.get_by_role("button", name="Show all 120 lines").click()
    assert len(names(board)) == 120
    # d2 before d10: equal AUC, names in their natural order.
    assert names(board)[:4] == ["d0", "d1", "d2", "d3"]


def test_the_board_of_encoders_filters_and_opens(open_page: Callable[..., Any], page_file: Path) -> None:
    page = open_page(page_file)
    board = page.locator("#ssl-board")
    assert len(names(board)) == 4
    assert board.locator("svg.scatter circle").count() == 12
    choose(board, "Objective", "byol")
    choose(board, "Training", "baseline")
    assert names(board) == ["byol, baseline"]
    assert "38.0" in board.locator("tbody:visible").inner_text()
    board.locator("tbody:visible th button").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Seed 1").click()
    text = dialog.inner_text()
    assert "Top-1 by layer" in text
    assert "43.0" in text
    assert "3,000,000,000" in text


# A row.


def test_a_line_opens_down_to_the_whole_row_and_back(open_page: Callable[..., Any], page_file: Path) -> None:
    page = open_page(page_file)
    page.locator("#detection-board").get_by_role("button", name="rde", exact=True).click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading", level=2).inner_text() == "rde, 2 cells"
    dialog.get_by_role("button", name="imdb").click()
    dialog.get_by_role("button", name="Seed 1").click()
    [row] = [r for r in ROWS["detection"] if (r["detector"], r["dataset"], r["seed"]) == ("rde", "imdb", 1)]
    assert page.url.endswith(f"#row-{row['id']}")
    text = dialog.inner_text()
    for shown in ("90.00", "85.00 to 90.00", "12.50", "4.0e-4", "62.50", "123 of 900 words", "90", "50"):
        assert shown in text, shown
    # The protocol, with a key that a careless script would lose.
    assert re.search(r"proto\s+1\.25", text)
    assert text.count("not recorded: the row is older than rows that keep it") == 2
    dialog.get_by_role("button", name="Back").click()
    assert dialog.get_by_role("heading", level=2).inner_text() == "rde, 2 seeds"
    assert "#" not in page.url
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def with_provenance(**manifest: Any) -> dict[str, Any]:
    row = detection_row("rde")
    row["provenance"] = {"command": COMMAND, "manifest": manifest or None}
    return row


def test_a_link_opens_its_row_and_the_command_is_copied(open_page: Callable[..., Any], tmp_path: Path) -> None:
    row = with_provenance(git={"commit": "abc123"}, seeds=[0, 1])
    (tmp_path / "p.html").write_text(render({"detection": [row]}), encoding="utf-8")
    page = open_page(tmp_path / "p.html", permissions=["clipboard-read", "clipboard-write"])
    page.evaluate("id => { location.hash = `row-${id}` }", row["id"])
    page.reload()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("heading", level=2).inner_text() == "rde, seed 0"
    assert "abc123" in dialog.inner_text()
    dialog.get_by_role("button", name="Copy the command").click()
    dialog.get_by_text("Copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == COMMAND


def test_a_manifest_that_was_not_kept_is_told(open_page: Callable[..., Any], tmp_path: Path) -> None:
    row = with_provenance()
    (tmp_path / "p.html").write_text(render({"detection": [row]}), encoding="utf-8")
    page = open_page(tmp_path / "p.html")
    page.evaluate("id => { location.hash = `row-${id}` }", row["id"])
    told = page.get_by_role("dialog").inner_text()
    assert COMMAND in told
    assert told.count("not recorded: the row is older than rows that keep it") == 1


def test_a_link_to_a_row_that_is_not_there_says_so(open_page: Callable[..., Any], page_file: Path) -> None:
    page = open_page(page_file)
    page.evaluate("location.hash = 'row-0123456789abcdef'")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("This page has no row 0123456789abcdef.").wait_for()
    page.evaluate("id => { location.hash = `row-${id}` }", ROWS["ssl"][0]["id"])
    dialog.get_by_text("Geometry and cost of the layers").wait_for()


def test_all_of_it_goes_by_keyboard(open_page: Callable[..., Any], page_file: Path) -> None:
    page = open_page(page_file)
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the tables"
    board = page.locator("#detection-board")
    for _ in range(40):
        press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Realised FPR, %":
            break
    press("Enter")
    assert board.locator("th[aria-sort]:visible").inner_text() == "Realised FPR, %"
    for _ in range(3):
        press("Tab")
    opener = page.evaluate("document.activeElement.textContent")
    assert opener == names(board)[0]
    press("Enter")
    dialog = page.get_by_role("dialog")
    assert dialog.is_visible()
    # Focus is inside and stays there.
    for _ in range(12):
        press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.textContent") == opener


# What others wrote.


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(open_page: Callable[..., Any], tmp_path: Path, text: str) -> None:
    keys = ("dataset", "recipe", "goal", "victim", "detector", "run")
    row = detection_row(text, **{key: text for key in keys if key != "detector"}, protocol={text: {text: [text]}})
    row["provenance"] = {"command": text, "manifest": {text: text}}
    (tmp_path / "p.html").write_text(
        render({"detection": [row], "ssl": [ssl_row(text, True, 0, 0.3)]}), encoding="utf-8"
    )
    page = open_page(tmp_path / "p.html")
    page.on("dialog", lambda alert: pytest.fail(f"the page said {alert.message}"))
    assert page.locator("#detection-board tbody:visible th bdi").text_content() == text
    page.locator("#detection-board tbody:visible th button").click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator("h2 bdi").text_content() == text
    assert dialog.locator("pre.command").text_content() == text
    assert dialog.locator("dl dl bdi").last.text_content() == text
    assert page.locator("img, dialog script, main script, iframe, b").count() == 0
    assert page.locator("script").count() == 2


# Reading it anywhere.


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_accessibility_violation_and_no_sideways_scroll(
    open_page: Callable[..., Any],
    page_file: Path,
    accessibility_faults: Callable[[Any], list[str]],
    width: int,
    scheme: str,
) -> None:
    page = open_page(page_file, width=width, color_scheme=scheme, reduced_motion="reduce")

    def check() -> None:
        assert accessibility_faults(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    choose(page.locator("#detection-board"), "Lines", "cells")
    for summary in page.locator("summary:visible").all():
        summary.click()
    check()
    page.locator("#detection-board tbody:visible th button").first.click()
    check()
    page.get_by_role("dialog").get_by_role("button", name="Seed 0").click()
    check()
    assert page.evaluate("(d => d.scrollWidth - d.clientWidth)(document.querySelector('dialog'))") == 0


def test_without_scripts_there_are_plain_tables(open_page: Callable[..., Any], page_file: Path) -> None:
    page = open_page(page_file, width=390, java_script_enabled=False)
    assert page.get_by_role("table").count() == 3 + 1
    assert page.get_by_role("rowheader", name="rde").count() == 3
    assert page.locator("noscript p").is_visible()
    assert page.locator("svg.curve").count() == 2
