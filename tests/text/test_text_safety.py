"""Texts that could break something, through rows, files, logs, the terminal and verification."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness.cli import tables
from harness.text.adversarial import AdversarialRow, compare_words, read_rows, row_from_json, row_to_json, write_rows
from harness.text.attack_logs import export_log, import_log
from harness.text.datasets import row_id
from harness.text.row_checks import check_stored
from harness.text.verification import verify_rows
from harness.text.victims import Victim
from harness.text.words import changed_positions, find_words

TEXTS = {
    "double brackets": "a [[good]] film, [[ and ]] a [very] bad one ]][[",
    "the newline mark": "a good<SPLIT>film<SPLIT>",
    "newlines": "\na good\n\nfilm\n",
    "carriage returns": "a good\rfilm\r\nand\r",
    "emoji": "a good 😀 film 👩‍👩‍👧‍👦🇬🇧 ❤️ here",
    "right to left": "סרט טוב מאוד، فيلم جيد \u202ea good film\u202c",
    "zero width": "a\u200bgood\u200c film\u200d with\ufeff joi\u2060ners\u00ad",
    "combining marks": "a go\u0301o\u0308d fi\u0323lm Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334",
    "other line breaks": "a good\u2028film\u2029and\x85more\x0b\x0cwords",
    "NUL": "a good\x00film\x00",
    "control characters": "a \x1b[31mgood\x1b[0m film\x07 \x08\x9b2J\x7f",
    "markup": "[red]a good[/red] film [/] \\[bold] [link=file:///]x[/link] :smile:",
    "quotes": '"a good" \'film\', """=1+1;\t`code` \\n \\u0000',
    "HTML": "a <b>good</b> film<br /><font color = red>&amp;</font>",
    "an old name": "a film called [[[[Premise]]]]: good",
    "look-alikes": "a g\u03bfod fil\u043c O\u00d7O `x` \u02d7",
    "no word": "... !!! \u2014 \u2026",
    "spaces": " \t \u00a0 \u3000 ",
    "nothing": "",
    "one long word": "good" * 5000,
    "10,000 words": " ".join(["a good film and the story is dull"] * 1250),
    "10,000 equal words": "film " * 10_000,
    "many lines": "a good film\r\n" * 3000,
    "outside the first plane": "\U0001d41a \U0001d420\U0001d428\U0001d428\U0001d41d \U00020000 \U0010ffff",
}
ANY = st.text(st.sampled_from(list("".join(TEXTS.values())[:1500])) | st.characters(exclude_categories=["Cs"]))
PAIRS = st.tuples(ANY, ANY)
IN_TMP_PATH = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small files, none of which has to survive a power cut."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def make_row(before: str, after: str, **changes: Any) -> AdversarialRow:
    positions, percent = compare_words(before, after)
    values: dict[str, Any] = {
        "id": row_id(before, "d", 0),
        "dataset": "d",
        "split": "test",
        "index": 0,
        "label": 1,
        "original_text": before,
        "perturbed_text": after,
        "changed_positions": positions,
        "original_output": 1,
        "perturbed_output": 0,
        "original_score": 0.25,
        "perturbed_score": 0.75,
        "original_probabilities": [0.25, 0.75],
        "perturbed_probabilities": [0.75, 0.25],
        "result": "success",
        "goal": "untargeted",
        "min_confidence": None,
        "recipe": "pwws",
        "recipe_parameters": "{}",
        "victim": "v",
        "victim_hash": None,
        "queries": 1,
        "words_changed_percent": percent,
        "seed": None,
        "textattack_version": None,
    }
    return AdversarialRow(**{**values, **changes})


def swapped(text: str) -> str:
    """The text with its first and its last word replaced, and all else as it was."""
    for word in [*find_words(text)[:1], *find_words(text)[1:][-1:]][::-1]:
        text = f"{text[: word.start]}tedious{text[word.end :]}"
    return text


def check_unharmed(folder: Path, row: AdversarialRow) -> None:
    """Through Parquet and JSON lines as it is; through a CSV log as it is, or said to be changed."""
    assert row_from_json(row_to_json(row)) == row
    write_rows(folder / "rows.parquet", [row])
    assert read_rows(folder / "rows.parquet") == [row]
    assert export_log(folder / "log.jsonl", [row]) == []
    facts: dict[str, Any] = {"dataset": "d", "split": "test", "recipe": "pwws", "victim": "v", "classes": 2}
    assert import_log(folder / "log.jsonl", **facts) == [row]
    losses = export_log(folder / "log.csv", [row])
    (back,) = import_log(folder / "log.csv", **facts)
    kept = {side: getattr(row, side) == getattr(back, side) for side in ("original_text", "perturbed_text")}
    assert {loss.column for loss in losses} >= {side for side, same in kept.items() if not same}
    assert (back == row) == (not losses)
    assert check_stored([row]) == []


@pytest.mark.parametrize("name", TEXTS)
def test_files_keep_awkward_texts(tmp_path: Path, name: str) -> None:
    for after in (swapped(TEXTS[name]), f"so {TEXTS[name]}", TEXTS[name][1:]):
        check_unharmed(tmp_path, make_row(TEXTS[name], after))


@IN_TMP_PATH
@given(PAIRS)
def test_files_keep_any_text(tmp_path: Path, pair: tuple[str, str]) -> None:
    check_unharmed(tmp_path, make_row(*pair))


def test_only_these_texts_are_too_much_for_a_csv_log(tmp_path: Path) -> None:
    lossy = set()
    for name, text in TEXTS.items():
        if export_log(tmp_path / "log.csv", [make_row(text, swapped(text))]):
            lossy.add(name)
    assert lossy == {"the newline mark"}


@settings(max_examples=400, deadline=None)
@given(ANY)
def test_words_stand_in_order_where_they_say(text: str) -> None:
    end = 0
    for word in find_words(text):
        assert end <= word.start < word.end
        assert text[word.start : word.end] == word.text
        # A word goes on as far as it can: no letter or digit stands right beside it.
        assert not text[word.start - 1 : word.start].isalnum()
        assert not text[word.end : word.end + 1].isalnum()
        assert not any(character.isspace() for character in word.text)
        end = word.end
    letters = [c for c in text if unicodedata.category(c) in ("Lu", "Ll", "Nd")]
    assert len(letters) == sum(unicodedata.category(c) in ("Lu", "Ll", "Nd") for w in find_words(text) for c in w.text)


@pytest.mark.parametrize("name", TEXTS)
def test_words_of_awkward_texts(name: str) -> None:
    text = TEXTS[name]
    words = find_words(text)
    assert [text[word.start : word.end] for word in words] == [word.text for word in words]
    wanted = sorted({0, len(words) - 1}) if words else []
    assert compare_words(text, swapped(text))[0] == wanted


def test_a_word_dropped_from_10_000() -> None:
    for text in (TEXTS["10,000 words"], TEXTS["10,000 equal words"]):
        words = [word.text for word in find_words(text)]
        assert len(words) == 10_000
        assert changed_positions(words, words[:-1]) == [9_999]
        assert len(changed_positions(words, words[:5000] + words[5001:])) == 1
        assert len(changed_positions(words, [*words[:5000], "new", *words[5000:]])) == 1


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("terminal", [True, False])
def test_the_terminal_shows_awkward_texts(monkeypatch: pytest.MonkeyPatch, name: str, *, terminal: bool) -> None:
    stream = io.StringIO()
    shown = Console(file=stream, force_terminal=terminal, color_system=None, highlight=False, width=140)
    monkeypatch.setattr(tables, "console", lambda: shown)
    row = make_row(TEXTS[name], swapped(TEXTS[name]), recipe=f"[red]{name}\x1b[31m", dataset="[/]\x9b")
    tables.print_example(row)
    tables.print_attack_summary([row])
    said = stream.getvalue()
    for text in (row.original_text, row.perturbed_text):
        picture = tables.visible(text)
        assert len(picture) == len(text)  # colours stand at the places of the words
        assert picture.expandtabs(8) in said or picture in said
    # Nothing of the user's moves the cursor or rings; a line feed is the one control character left, and a tab.
    assert {c for c in said if unicodedata.category(c) == "Cc"} <= {"\n", "\t"}
    assert f"[red]{name}\u241b[31m on [/]\ufffd" in " ".join(said.split())


@settings(max_examples=200, deadline=None)
@given(st.characters(exclude_categories=["Cs"]))
def test_only_control_characters_are_shown_as_pictures(character: str) -> None:
    picture = tables.visible(character)
    assert (picture == character) == (unicodedata.category(character) != "Cc" or character in "\n\t")


def test_awkward_texts_are_verified(
    tmp_path: Path, tiny_victim: Victim, tiny_victim_folder: Any, main: Callable[..., int], capsys: Any
) -> None:
    rows = []
    for i, text in enumerate(TEXTS.values()):
        said = tiny_victim.read([text, swapped(text)]).probabilities
        label, after = (int(side.argmax()) for side in said)
        rows.append(
            make_row(
                text,
                swapped(text),
                id=row_id(text, "d", i),
                index=i,
                label=label,
                original_output=label,
                perturbed_output=after,
                original_probabilities=said[0].tolist(),
                perturbed_probabilities=said[1].tolist(),
                original_score=1 - said[0][label],
                perturbed_score=1 - said[1][label],
                result="failure" if after == label else "success",
            )
        )
    write_rows(tmp_path / "rows.parquet", rows)
    assert verify_rows(tmp_path / "rows.parquet", victim=str(tiny_victim_folder())).faults == []
    # One character more, wherever it stands, is another text.
    write_rows(tmp_path / "rows.parquet", [make_row(row.original_text + "\u200b", row.perturbed_text) for row in rows])
    assert main("attack", "verify", tmp_path / "rows.parquet", "--victim", tiny_victim_folder()) == 1
    assert f"0 of {len(rows)} rows hold" in capsys.readouterr().out
