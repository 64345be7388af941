"""The file of answers: what is asked again, what an attack's rows owe to it, and who may write it at once."""

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import DataError
from harness.text.adversarial import AdversarialRow
from harness.text.datasets import TextDataset
from harness.text.victims import Victim
from textadv.answers import AnswerFile
from textadv.goals import Goal
from textadv.parts import Parts
from textadv.plan import AttackPlan
from textadv.recipes import RECIPES
from textadv.sentence_encoders import SentenceEncoder
from textadv.shards import ShardWorker

TEXTS = ["a good film", "the plot is dull, and the acting is worse than dull!", "people love life", "a poor start"]


def vector(question: bytes) -> np.ndarray[Any, Any]:
    return np.array([len(question) / 3, *question[:1]], dtype=np.float32)


def recall(file: AnswerFile, questions: Sequence[bytes], model: str = "toy") -> tuple[list[Any], list[bytes]]:
    """The answers, and what had to be computed for them."""
    computed: list[bytes] = []

    def answer(places: list[int]) -> list[Any]:
        computed.extend(questions[place] for place in places)
        return [vector(questions[place]) for place in places]

    return file.recall(model, questions, answer), computed


def test_only_what_is_new_is_computed_and_comes_back_as_it_was(tmp_path: Path) -> None:
    questions = [f"question {number}".encode() for number in range(2500)]
    first, computed = recall(AnswerFile(tmp_path / "deep" / "answers"), questions[::2])
    assert computed == questions[::2]
    found, computed = recall(AnswerFile(tmp_path / "deep" / "answers"), questions)
    assert computed == questions[1::2]
    for question, one in zip(questions, found, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, vector(question))
    assert [one.tobytes() for one in first] == [one.tobytes() for one in found[::2]]


def test_another_model_has_other_answers(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers")
    recall(file, [b"a", b"b"], model="one")
    assert recall(file, [b"a", b"b"], model="two")[1] == [b"a", b"b"]
    assert recall(file, [b"a", b"b"], model="one")[1] == []
    assert recall(file, [], model="one") == ([], [])


@pytest.mark.parametrize(("dtype", "size"), [("<f4", 7), ("something", 8), ("O", 8)])
def test_a_damaged_vector_is_told(dtype: str, size: int, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    recall(AnswerFile(path), [b"a"])
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE answers SET dtype = ?, vector = ?", (dtype, b"x" * size))
    with pytest.raises(DataError, match=r"the file of answers .*answers cannot be used"):
        recall(AnswerFile(path), [b"a"])


def _write(path: Path, start: int) -> int:
    """Ask for 300 answers in 30 calls, and count those that are wrong."""
    file, wrong = AnswerFile(path), 0
    for at in range(start, start + 300, 10):
        questions = [str(number).encode() for number in range(at, at + 10)]
        found, _ = recall(file, questions)
        wrong += sum(
            one.tobytes() != vector(question).tobytes() for question, one in zip(questions, found, strict=True)
        )
    return wrong


def test_processes_that_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with ProcessPoolExecutor(4) as pool:
        assert list(pool.map(_write, [path] * 4, [0, 100, 200, 300])) == [0] * 4
    assert recall(AnswerFile(path), [str(number).encode() for number in range(600)])[1] == []


@pytest.mark.parametrize("damage", ["other", "torn", "folder", "table"])
def test_what_is_no_file_of_answers_is_refused_and_left_alone(damage: str, tiny_victim: Victim, tmp_path: Path) -> None:
    path = tmp_path / "answers"
    if damage == "folder":
        path.mkdir()
    elif damage == "table":
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE answers (something INTEGER)")
    else:
        path.write_bytes(
            b"a letter to somebody, not a database" * 200 if damage == "other" else b"SQLite format 3\x00torn"
        )
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(DataError, match=r"the file of answers .*answers cannot be used"):
        AttackPlan("tiny", "pwws", answers=path).build(tiny_victim)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.fixture(scope="module")
def dataset(tiny_victim: Victim) -> TextDataset:
    return TextDataset("tiny", "test", TEXTS, tiny_victim.read(TEXTS).predictions, np.arange(len(TEXTS)), None, {})


def attack(
    victim: Victim, dataset: TextDataset, confidence: float | None, answers: Path | None
) -> tuple[list[AdversarialRow], int]:
    """The rows of PWWS, and how many texts the victim was run over."""
    file = AnswerFile(answers) if answers else None
    worker = ShardWorker(Parts(victim, Goal(min_confidence=confidence), answers=file), RECIPES.get("pwws"), seed=0)
    before = victim.forwards
    found = worker.attack(dataset)
    assert all(one.row is not None for one in found), found
    return [one.row for one in found if one.row is not None], victim.forwards - before


def test_a_far_attack_asks_only_what_the_plain_one_did_not(
    tiny_victim: Victim, dataset: TextDataset, tmp_path: Path
) -> None:
    answers = tmp_path / "answers"
    plain, asked = attack(tiny_victim, dataset, None, answers)
    assert attack(tiny_victim, dataset, None, answers) == (plain, 0)
    alone, asked_alone = attack(tiny_victim, dataset, 0.9, None)
    far, asked_far = attack(tiny_victim, dataset, 0.9, answers)
    # PWWS asks for the saliency of every word and for every synonym before it takes a step, whatever the goal.
    assert asked_far < asked_alone
    assert asked_far + asked >= asked_alone
    for ours, theirs in zip(far, alone, strict=True):
        assert replace(ours, **_digits(theirs)) == theirs
        for name, value in _digits(theirs).items():
            np.testing.assert_allclose(getattr(ours, name), value, atol=1e-5)


def _digits(row: AdversarialRow) -> dict[str, Any]:
    """What the last digits of a forward decide."""
    names = ("original_score", "perturbed_score", "original_probabilities", "perturbed_probabilities")
    return {name: getattr(row, name) for name in names}


def test_another_precision_is_another_victim(
    tiny_victim: Victim, dataset: TextDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, asked = attack(tiny_victim, dataset, None, tmp_path / "answers")
    monkeypatch.setattr(tiny_victim, "dtype", "bf16")  # in name only: not every processor has it
    assert attack(tiny_victim, dataset, None, tmp_path / "answers")[1] == asked


def test_a_sentence_encoder_is_asked_once(tiny_victim: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    encode: Callable[..., Any] = SentenceEncoder.encode

    def counted(self: SentenceEncoder, texts: Sequence[str]) -> Any:
        asked.extend(texts)
        return encode(self, texts)

    monkeypatch.setattr(SentenceEncoder, "encode", counted)
    answers = tmp_path / "answers"
    first = Parts(tiny_victim, answers=AnswerFile(answers)).sentence_encoder("minilm")(TEXTS[:3])
    again = Parts(tiny_victim, answers=AnswerFile(answers)).sentence_encoder("minilm")(TEXTS)
    assert asked == TEXTS
    np.testing.assert_array_equal(first, again[:3])


def test_a_run_is_the_same_with_a_file_of_answers_or_without(
    tiny_victim_folder: Callable[..., Path], dataset: TextDataset, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from harness.cli import app

    texts = tmp_path / "texts.csv"
    rows = zip(dataset.texts, dataset.labels.tolist(), strict=True)
    texts.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows), encoding="utf-8")
    command = ["attack", "run", "--dataset", str(texts), "--victim", str(tiny_victim_folder()), "--out"]
    with_file = [*command, str(tmp_path / "run"), "--answers", str(tmp_path / "answers")]
    assert CliRunner().invoke(app, with_file, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "answers").stat().st_size > 0
    told = CliRunner().invoke(app, [*command, str(tmp_path / "run")], catch_exceptions=False)
    assert told.exit_code == 0
    assert "complete already" in told.output
