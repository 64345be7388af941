"""TextAttack's CSV log and JSON lines: real logs, TextAttack's own logger, round trips, damaged files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, DataError, MissingFileError
from harness.text.adversarial import AdversarialRow, compare_words, write_rows
from harness.text.attack_logs import export_log, import_log
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
def log_results() -> Callable[[Path, list[tuple[str, dict[int, str], str, str]]], None]:
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

    def write(path: Path, cases: list[tuple[str, dict[int, str], str, str]]) -> None:
        logger = CSVLogger(str(path))
        for original, swaps, kind, perturbed in cases:
            before = textattack.shared.AttackedText(original)
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
