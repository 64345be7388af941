"""TextAttack's CSV log and JSON lines: real logs, TextAttack's own logger, round trips, damaged files."""

from __future__ import annotations

import csv
import io
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError, MissingFileError, UnknownNameError
from harness.text.adversarial import COLUMNS, AdversarialRow, compare_words, write_rows
from harness.text.attack_logs import export_log, import_log, losses_as_text
from harness.text.datasets import row_id
from harness.text.words import find_words

FACTS: dict[str, Any] = {"dataset": "d", "split": "test", "recipe": "pwws", "victim": "v"}
BINARY = {**FACTS, "classes": 2}
LOGS = (
    "bert-base-uncased-ag-news_pwws",
    "bert-base-uncased-imdb_textfooler",
    "bert-base-uncased-imdb_tfadj",
    "bert-base-uncased-sst2_pwws",
    "bert-base-uncased-sst2_textfooler",
    "bert-base-uncased-yelp_textfooler",
    "roberta-ag_news_bert-attack",
    "roberta-ag_news_textfooler",
    "roberta-imdb_bert-attack",
    "roberta-imdb_textfooler",
)
HEADER = (
    '"original_text","perturbed_text","original_score","perturbed_score","original_output","perturbed_output",'
    '"ground_truth_output","num_queries","result_type"\n'
)
GOOD_LINE = '"a [[good]] film","a [[fine]] film",0.1,0.75,1.0,0.0,1.0,12.0,"Successful"\n'


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small files, none of which has to survive a power cut."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def import_text(path: Path, text: str) -> list[AdversarialRow]:
    path.write_bytes(text.encode())
    return import_log(path, **FACTS)


def make_row(original: str, perturbed: str, **changes: Any) -> AdversarialRow:
    changed, percent = compare_words(original, perturbed)
    values: dict[str, Any] = {
        "id": row_id(original, "d", 0),
        "dataset": "d",
        "split": "test",
        "index": 0,
        "label": 1,
        "original_text": original,
        "perturbed_text": perturbed,
        "changed_positions": changed,
        "original_output": 1,
        "perturbed_output": 0,
        "original_score": 0.125,
        "perturbed_score": 0.75,
        "original_probabilities": [0.125, 0.875],
        "perturbed_probabilities": [0.75, 0.25],
        "result": "success",
        "goal": "untargeted",
        "min_confidence": None,
        "recipe": "pwws",
        "recipe_parameters": "{}",
        "victim": "v",
        "victim_hash": None,
        "queries": 12,
        "words_changed_percent": percent,
        "seed": None,
        "textattack_version": None,
    }
    return AdversarialRow(**{**values, **changes})


@pytest.mark.parametrize("name", LOGS)
def test_real_logs(shared_data: Path, name: str) -> None:
    pd = pytest.importorskip("pandas")
    path = shared_data / "attack_logs" / f"{name}.csv"
    frame = pd.read_csv(path, keep_default_na=False)
    rows = import_log(path, **FACTS)
    assert len(rows) == len(frame) > 500
    names = {"success": "Successful", "failure": "Failed", "skipped": "Skipped"}
    assert [names[row.result] for row in rows] == frame["result_type"].tolist()
    for column, values in {
        "label": frame["ground_truth_output"],
        "original_output": frame["original_output"],
        "perturbed_output": frame["perturbed_output"],
        "queries": frame["num_queries"],
        "perturbed_score": frame["perturbed_score"],
    }.items():
        assert [getattr(row, column) for row in rows] == values.tolist(), column
    whole = 0
    for row, original, perturbed in zip(rows, frame["original_text"], frame["perturbed_text"], strict=True):
        for text, logged in ((row.original_text, original), (row.perturbed_text, perturbed)):
            assert text == logged.replace("[[", "").replace("]]", "")
        if row.result == "skipped":
            assert row.perturbed_text == row.original_text
        marks = re.findall(r"(?<!\w)\[\[[\w'-]+\]\](?!\w)", original)
        if len(marks) == original.count("[[") and len(find_words(row.original_text)) == len(
            find_words(row.perturbed_text)
        ):
            whole += 1
            assert len(row.changed_positions) == len(marks)
            words = find_words(row.original_text)
            assert [words[i].text for i in row.changed_positions] == [mark[2:-2].strip("-'_") for mark in marks]
    assert whole > 0.85 * len(rows)
    assert len({row.id for row in rows}) == len(rows)


def test_two_classes_have_probabilities_and_more_have_not(shared_data: Path) -> None:
    folder = shared_data / "attack_logs"
    rows = import_log(folder / "bert-base-uncased-sst2_pwws.csv", **BINARY)
    for row in rows:
        for probabilities, score, output in (
            (row.original_probabilities, row.original_score, row.original_output),
            (row.perturbed_probabilities, row.perturbed_score, row.perturbed_output),
        ):
            assert probabilities is not None
            assert sum(probabilities) == pytest.approx(1)
            assert 1 - probabilities[row.label] == pytest.approx(score)
            assert probabilities[output] >= 0.5 - 1e-6
    rows = import_log(folder / "bert-base-uncased-ag-news_pwws.csv", **FACTS)
    assert all(row.original_probabilities is None and row.perturbed_probabilities is None for row in rows)
    # Labels 0 and 1 alone do not show that there are no more classes.
    rows = import_log(folder / "bert-base-uncased-sst2_pwws.csv", **FACTS)
    assert all(row.original_probabilities is None for row in rows)


@pytest.mark.parametrize("name", [LOGS[3], LOGS[6]])
def test_real_logs_survive_export(shared_data: Path, tmp_path: Path, name: str) -> None:
    rows = import_log(shared_data / "attack_logs" / f"{name}.csv", **FACTS)
    for suffix in (".csv", ".jsonl"):
        export_log(tmp_path / f"log{suffix}", rows)
        assert import_log(tmp_path / f"log{suffix}", **FACTS) == rows
    first = (tmp_path / "log.csv").read_bytes()
    export_log(tmp_path / "log.csv", rows)
    assert (tmp_path / "log.csv").read_bytes() == first
    write_rows(tmp_path / "one.parquet", rows)
    write_rows(tmp_path / "two.parquet", import_log(tmp_path / "log.jsonl", **FACTS))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


@pytest.fixture(scope="module")
def log_results() -> Callable[..., None]:
    """Write a log of attack results with TextAttack's own classes and its own logger."""
    from textadv.runtime import load_textattack

    try:
        textattack = load_textattack()
    except ConfigurationError:
        pytest.skip("TextAttack is not installed")
    import torch
    from textattack import attack_results
    from textattack.goal_function_results import ClassificationGoalFunctionResult
    from textattack.loggers import CSVLogger

    def write(path: Path, cases: list[tuple[Any, dict[int, str], str, str]], method: str = "file") -> None:
        # As TextAttack ships; this package gives it a mark of its own.
        mark = textattack.shared.AttackedText.SPLIT_TOKEN
        textattack.shared.AttackedText.SPLIT_TOKEN = "<SPLIT>"
        try:
            log(path, cases, method)
        finally:
            textattack.shared.AttackedText.SPLIT_TOKEN = mark

    def log(path: Path, cases: list[tuple[Any, dict[int, str], str, str]], method: str) -> None:
        logger = CSVLogger(str(path), color_method=method)
        for original, swaps, kind, perturbed in cases:
            before = textattack.shared.AttackedText(OrderedDict(original) if isinstance(original, dict) else original)
            after = before.replace_words_at_indices(list(swaps), list(swaps.values()))
            assert after.text == perturbed  # what the case says, as TextAttack makes it
            results = [
                ClassificationGoalFunctionResult(
                    text, torch.tensor([1 - p, p]), int(p > 0.5), status, 1 - p, queries, 1
                )
                for text, p, status, queries in ((before, 0.875, 1, 1), (after, 0.25, 0, 17))
            ]
            logger.log_attack_result(getattr(attack_results, f"{kind}AttackResult")(*results))
        logger.flush()

    return write


def test_textattacks_own_logger(log_results: Callable[..., None], tmp_path: Path) -> None:
    cases = [
        ("It's a good film, with a fine cast.", {2: "great"}, "Successful", "It's a great film, with a fine cast."),
        ("first line\nsecond 'quoted' line, too", {3: "cited"}, "Successful", "first line\nsecond 'cited' line, too"),
        ('the "well-known" film is [very] dull', {1: "famous", 4: "so"}, "Failed", 'the "famous" film is [so] dull'),
        ("the very dull film of the year", {1: ""}, "Successful", "the dull film of the year"),
        ("the film is good and the plot is not", {}, "Failed", "the film is good and the plot is not"),
    ]
    path = tmp_path / "log.csv"
    log_results(path, cases)
    rows = import_log(path, **BINARY)
    kinds = {"success": "Successful", "failure": "Failed"}
    made = [(row.original_text, kinds[row.result], row.perturbed_text) for row in rows]
    assert made == [(original, kind, perturbed) for original, _, kind, perturbed in cases]
    assert [row.changed_positions for row in rows] == [list(swaps) for _, swaps, _, _ in cases]
    for row in rows:
        assert (row.label, row.original_output, row.perturbed_output, row.queries) == (1, 1, 0, 17)
        assert (row.original_probabilities, row.perturbed_probabilities) == ([0.125, 0.875], [0.75, 0.25])

    export_log(tmp_path / "ours.csv", rows)
    pd = pytest.importorskip("pandas")
    theirs, ours = (pd.read_csv(file, keep_default_na=False) for file in (path, tmp_path / "ours.csv"))
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


TEXTS = st.text(
    st.sampled_from(list(" \n\r\t\"',;[]<>=+-@.é😀ab")) | st.characters(exclude_categories=["Cs"]), max_size=30
)


def ambiguous(text: str) -> bool:
    """Whether the log's own signs stand in the text, so that TextAttack's format cannot keep it."""
    return "<SPLIT>" in text or re.search(r"\[\[.*\]\]", text, re.DOTALL) is not None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS.filter(lambda text: not ambiguous(text)), TEXTS.filter(lambda text: not ambiguous(text)))
@example("[[ lone brackets before a word", "[[ lone brackets before a term")
@example("[word]", "[term]")
@example("word]] [word", "term]] [term")
@example("a\rb\r\nc\nd", "a\rb\r\nx\nd")
@example("\ufeffa", "=1+1")
@example("a\u2028b\x85c\x1cd", "x")
def test_texts_survive_a_csv_log(tmp_path: Path, original: str, perturbed: str) -> None:
    row = make_row(original, perturbed)
    for suffix in (".csv", ".jsonl"):
        export_log(tmp_path / f"log{suffix}", [row, row])
        first, second = import_log(tmp_path / f"log{suffix}", **BINARY)
        assert first == row
        assert replace(second, index=0, id=row.id) == row


SIGNS = [
    "[[",
    "]]",
    "<SPLIT>",
    "\n",
    "\r",
    " ",
    "[[1]]",
    "good",
    "bad",
    "film",
    "SPLIT",
    "<font color = red>",
    "</font>",
    "\x1b[0m",
]
SIGNED = st.lists(st.sampled_from(SIGNS), max_size=8).map("".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(SIGNED, SIGNED), min_size=1, max_size=3))
@example([("see [[1]] for a good film", "see [[1]] for a bad film")])
@example([("a good<SPLIT>film", "a bad<SPLIT>film"), ("a good film", "a bad film")])
@example([("[[good]] film", "bad film")])
def test_a_csv_log_names_every_row_that_it_does_not_keep(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    rows = [
        make_row(before, after, index=i, id=row_id(before, "d", i), queries=i)
        for i, (before, after) in enumerate(pairs)
    ]
    reported = export_log(tmp_path / "log.csv", rows)
    back = import_log(tmp_path / "log.csv", **BINARY)
    assert len(back) == len(rows)
    for name in COLUMNS:
        changed = [row.id for row, other in zip(rows, back, strict=True) if getattr(row, name) != getattr(other, name)]
        assert [loss.ids for loss in reported if loss.column == name] == ([changed] if changed else []), name
    assert export_log(tmp_path / "log.jsonl", rows) == []
    assert import_log(tmp_path / "log.jsonl", **FACTS) == rows


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("see [[1]] for a good film", "see [[1]] for a bad film"),
        ("[[Paris]] and [[Rome]]", "[[Paris]] and [[Oslo]]"),
        ("[[a]] is [[a]] good [[b]]", "[[a]] is [[a]] fine thing [[b]]"),
        ("[[nothing]] <b>changed</b>", "[[nothing]] <b>changed</b>"),
    ],
)
def test_brackets_of_the_text_itself_are_kept(tmp_path: Path, before: str, after: str) -> None:
    row = make_row(before, after)
    assert export_log(tmp_path / "log.csv", [row]) == []
    assert import_log(tmp_path / "log.csv", **BINARY) == [row]


def test_what_a_csv_log_cannot_hold_is_said(tmp_path: Path) -> None:
    rows = [
        make_row("a good film", "a bad film", seed=3, victim_hash="f00"),
        make_row("a<SPLIT>b", "a<SPLIT>c", seed=3),
    ]
    rows[1] = replace(rows[1], index=7, id=row_id("a<SPLIT>b", "d", 7))
    lines = losses_as_text(export_log(tmp_path / "log.csv", rows), 2)
    assert lines == [
        "not in this format: seed",
        f"id changed in 1 of 2 rows: {rows[1].id}",
        f"index changed in 1 of 2 rows: {rows[1].id}",
        f"original_text changed in 1 of 2 rows: {rows[1].id}",
        f"perturbed_text changed in 1 of 2 rows: {rows[1].id}",
        f"changed_positions changed in 1 of 2 rows: {rows[1].id}",
        f"victim_hash changed in 1 of 2 rows: {rows[0].id}",
        f"words_changed_percent changed in 1 of 2 rows: {rows[1].id}",
    ]
    with pytest.raises(DataError, match="is no score"):
        export_log(tmp_path / "other.csv", [make_row("a", "b", original_score=float("nan"))])
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


@pytest.mark.parametrize("style", ["html", "ansi"])
def test_other_styles_of_marks(log_results: Callable[..., None], tmp_path: Path, style: str) -> None:
    pd = pytest.importorskip("pandas")
    cases = [
        ("a good <b>film</b>", {1: "fine"}, "Successful", "a fine <b>film</b>"),
        ("a [[good]] film", {1: "fine", 2: "plot"}, "Failed", "a [[fine]] plot"),
    ]
    for method in (style, "file"):
        log_results(tmp_path / f"{method}.csv", cases, method)
    assert "[[fine]]" not in pd.read_csv(tmp_path / f"{style}.csv")["perturbed_text"][0]
    rows = import_log(tmp_path / "file.csv", **BINARY)
    assert [(row.original_text, row.perturbed_text) for row in rows] == [(case[0], case[3]) for case in cases]
    assert import_log(tmp_path / f"{style}.csv", **BINARY, marks=style) == rows
    log_results(tmp_path / f"{style}.csv", cases[:1], style)
    assert import_log(tmp_path / f"{style}.csv", **BINARY) == rows[:1]  # found without being told


def test_inputs_of_two_parts(log_results: Callable[..., None], tmp_path: Path) -> None:
    parts = {"premise": "a good film", "hypothesis": "a film was good"}
    log_results(tmp_path / "log.csv", [(parts, {1: "fine"}, "Successful", "a fine film\na film was good")])
    (row,) = import_log(tmp_path / "log.csv", **BINARY)
    assert row.original_text == "Premise: a good film\nHypothesis: a film was good"
    assert row.perturbed_text == "Premise: a fine film\nHypothesis: a film was good"
    assert row.changed_positions == [2]


def test_a_plain_log_keeps_its_brackets(tmp_path: Path) -> None:
    line = GOOD_LINE.replace("a [[good]] film", "a [[good]] [[film]]")
    (tmp_path / "log.csv").write_text(HEADER + line)
    (row,) = import_log(tmp_path / "log.csv", **FACTS, marks="plain")
    assert (row.original_text, row.perturbed_text) == ("a [[good]] [[film]]", "a [[fine]] film")
    with pytest.raises(UnknownNameError, match="style of marks"):
        import_log(tmp_path / "log.csv", **FACTS, marks="colour")  # type: ignore[arg-type]


def test_other_goals(tmp_path: Path) -> None:
    reduced = '"a [[good]] [[film]]","a",0.01,0.9,1.0,1.0,1.0,12.0,"Maximized"\n'
    (tmp_path / "log.csv").write_text(HEADER + GOOD_LINE + reduced)
    rows = import_log(tmp_path / "log.csv", **BINARY)
    assert [row.result for row in rows] == ["success", "maximized"]
    assert {row.goal for row in rows} == {"input-reduction"}
    # That goal's score is no probability.
    assert all(row.original_probabilities is None for row in rows)
    (row, _) = import_log(tmp_path / "log.csv", **FACTS, goal="targeted", target_class=0, min_confidence=0.7)
    assert (row.goal, row.target_class, row.min_confidence) == ("targeted", 0, 0.7)
    with pytest.raises(UnknownNameError, match="no goal named 'targetted'"):
        import_log(tmp_path / "log.csv", **FACTS, goal="targetted")


def test_a_log_with_more_columns_than_textattacks(tmp_path: Path) -> None:
    plain = import_text(tmp_path / "log.csv", HEADER + GOOD_LINE)
    for extra in ("", "perplexity"):
        header, line = f'"{extra}",' + HEADER, "0," + GOOD_LINE
        assert import_text(tmp_path / "log.csv", header + line) == plain
    assert import_text(tmp_path / "log.csv", HEADER + "\n" + GOOD_LINE + "\n\n") == plain
    assert import_text(tmp_path / "log.csv", HEADER + GOOD_LINE.replace("1.0,0.0,1.0,12.0", "1,0,1,12")) == plain


def test_textattacks_text_log_is_named(tmp_path: Path) -> None:
    line = "-" * 45
    log = f"{line} Result 1 {line}\n[[1 (98%)]] --> [[0 (75%)]]\n\na [[good]] film\n\na [[fine]] film\n"
    with pytest.raises(DataError, match="is TextAttack's text log") as caught:
        import_text(tmp_path / "log.txt", log)
    assert "--log-to-csv" in caught.value.hint


def test_more_than_two_classes_survive_without_probabilities(tmp_path: Path) -> None:
    row = make_row("a good film", "a fine film", label=3, original_output=3, perturbed_output=2)
    export_log(tmp_path / "log.csv", [row])
    bare = replace(row, original_probabilities=None, perturbed_probabilities=None)
    assert import_log(tmp_path / "log.csv", **FACTS) == [bare]


def test_a_text_longer_than_the_csv_modules_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit(1000)
    try:
        row = make_row("film " * 300, "movie " + "film " * 299)
        export_log(tmp_path / "log.csv", [row])
        assert import_log(tmp_path / "log.csv", **BINARY) == [row]
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_other_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    plain = import_text(tmp_path / "log.csv", HEADER + GOOD_LINE)
    assert (plain[0].original_text, plain[0].perturbed_text) == ("a good film", "a fine film")
    assert import_text(tmp_path / "log.csv", "\ufeff" + (HEADER + GOOD_LINE).replace("\n", "\r\n")) == plain
    reader = csv.reader(io.StringIO(HEADER + GOOD_LINE))
    columns = sorted(zip(*reader, strict=True))
    shuffled = io.StringIO()
    csv.writer(shuffled).writerows(zip(*columns, strict=True))
    assert import_text(tmp_path / "log.csv", shuffled.getvalue()) == plain  # by name, not by place


def damaged(**cells: str) -> str:
    names = ["o", "p", "original_score", "score", "out", "pout", "truth", "queries", "result"]
    line = dict(zip(names, GOOD_LINE.strip().split(","), strict=True))
    return HEADER + GOOD_LINE + ",".join({**line, **cells}.values()) + "\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column"),
        (HEADER.encode(), "is empty"),
        (b"text,label\nhello,1\n", "no column 'original_text'"),
        (HEADER.replace("num_queries", "queries").encode() + GOOD_LINE.encode(), "no column 'num_queries'"),
        (HEADER.encode() + b'"caf\xe9"', "not UTF-8"),
        (b"\xff\xfe" + HEADER.encode("utf-16-le"), "not UTF-8"),
        (HEADER.encode() + b'"a","b",0.5\n', "not a TextAttack log"),
        (HEADER.encode() + b'"a","b\n', "not a TextAttack log"),
        (HEADER.encode() + GOOD_LINE.strip().encode() + b',"more"\n', "near line 2, it has not the 9 cells"),
        (HEADER.encode() + GOOD_LINE.encode() + GOOD_LINE.replace("0.75", "?").encode(), "near line 3, "),
        *[
            (damaged(**{name: value}).encode(), "not a TextAttack log")
            for name, value in (
                ("original_score", "much"),
                ("score", "nan"),
                ("score", "inf"),
                ("out", "-1"),
                ("pout", "0.5"),
                ("truth", "nan"),
                ("truth", "inf"),
                ("truth", ""),
                ("truth", "1e300"),
                ("queries", "many"),
                ("queries", "inf"),
                ("queries", "-3"),
                ("result", '"Won"'),
                ("result", ""),
            )
        ],
    ],
)
def test_files_that_are_no_logs(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        import_log(path, **FACTS)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{}\n", b"not json\n", b"[1]\n", b"\xff\n"])
def test_files_that_are_no_json_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(DataError):
        import_log(tmp_path / "log.jsonl", **FACTS)


def test_no_file_and_no_such_format(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no attack log"):
        import_log(tmp_path / "log.csv", **FACTS)
    for name in ("log.txt", "log"):
        with pytest.raises(DataError, match="cannot write a log"):
            export_log(tmp_path / name, [make_row("a", "b")])
    assert list(tmp_path.iterdir()) == []
