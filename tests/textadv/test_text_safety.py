"""Texts that could break something, through a real attack: what comes out is what the victim was asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.runs import Run
from harness.text.adversarial import ROWS_FILE, AdversarialRow, read_rows
from harness.text.datasets import TextDataset
from harness.text.verification import verify_rows
from harness.text.victims import Victim
from harness.text.words import find_words
from textadv.engine import attack_config, one_process, run_attack
from textadv.parts import Parts
from textadv.recipes import RECIPES
from textadv.shards import ShardWorker

TEXTS = {
    "double brackets": "a [[good]] film, [[ and ]] a [very] bad story ]][[",
    "the newline mark": "a good<SPLIT>film, a <SPLIT> bad story<SPLIT>",
    "nothing but the mark": "<SPLIT>",
    "newlines": "\na good\n\nfilm, a bad story\n",
    "carriage returns": "a good\rfilm\r\nand a bad story\r",
    "emoji": "a good 😀 film 👩‍👩‍👧‍👦🇬🇧 ❤️ and a bad story",
    "right to left": "סרט טוב מאוד، فيلم جيد \u202ea good film\u202c",
    "zero width": "a \u200bgood\u200c film\u200d with\ufeff a\u2060bad story\u00ad",
    "combining marks": "a go\u0301o\u0308d fi\u0323lm, a bad story Z\u0351\u036b\u0343",
    "other line breaks": "a good\u2028film\u2029and\x85bad\x0b\x0cstory",
    "NUL": "a good\x00film, a bad story\x00",
    "markup": "[red]a good[/red] film [/] <b>bad</b> &amp; story",
    "private use": "a good \ue000 film, a bad\ue001 story",
    # Stop words are not attacked: there is little to do, in a text of full length.
    "10,000 words": "the of and to " * 2499 + "a good film\n",
}


@pytest.fixture(scope="module")
def folder(tiny_victim: Victim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One attack on all of the texts, in flight together."""
    texts = list(TEXTS.values())
    labels = tiny_victim.read(texts).predictions
    dataset = TextDataset("awkward", "test", texts, labels, np.arange(len(texts)), None, {})
    worker = ShardWorker(Parts(tiny_victim), RECIPES.get("pwws"), seed=0)
    out = tmp_path_factory.mktemp("safety") / "run"
    with Run(out, "attack run", attack_config(dataset, worker)) as run:
        rows, aside = run_attack(dataset, one_process(worker), run)
        assert [text.traceback for text in aside] == []
        assert len(rows) == len(texts)
        run.finish([ROWS_FILE])
    return out


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[str, AdversarialRow]:
    return dict(zip(TEXTS, read_rows(folder), strict=True))


@pytest.mark.parametrize("name", TEXTS)
def test_only_words_change(rows: dict[str, AdversarialRow], name: str) -> None:
    row = rows[name]
    assert row.original_text == TEXTS[name]
    before, after = find_words(row.original_text), find_words(row.perturbed_text)
    # What stands between the words, signs and spaces of every kind, is as it was.
    if len(before) == len(after):
        for text, words in ((row.original_text, before), (row.perturbed_text, after)):
            edges = [0, *(edge for word in words for edge in (word.start, word.end)), len(text)]
            between = [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]
            if text is row.original_text:
                expected = between
        assert between == expected
        changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a.text != b.text]
        assert changed == row.changed_positions
    assert row.result in ("success", "failure")


def test_most_of_them_were_attacked_in_earnest(rows: dict[str, AdversarialRow]) -> None:
    tried = {name for name, row in rows.items() if row.queries > 3}
    assert tried >= set(TEXTS) - {"nothing but the mark", "right to left"}
    assert sum(row.result == "success" for row in rows.values()) >= 3


def test_the_victim_says_the_same_again(folder: Path, tiny_victim_folder: Any) -> None:
    assert verify_rows(folder, victim=str(tiny_victim_folder())).faults == []
