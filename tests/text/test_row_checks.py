"""Rows that hold and rows that do not: every fault is found, and nothing else is taken for one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, MissingFileError, VictimError
from harness.core.files import hash_file
from harness.core.runs import Run
from harness.text.adversarial import ROWS_FILE, AdversarialRow, compare_words, read_rows, write_rows
from harness.text.datasets import row_id
from harness.text.row_checks import FAULTS, Answer, check_answers, check_stored
from harness.text.sources import dataset_pointer
from harness.text.verification import verify_rows, write_report
from harness.text.victims import Victim

WORDS = ["a", "good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long", "the", "and"]


def draw_pairs(n: int) -> list[tuple[str, str]]:
    """Texts and copies with one word changed."""
    draw = np.random.default_rng(0)
    pairs = []
    for i in range(n):
        words = draw.choice(WORDS, size=3 + i % 5).tolist()
        swapped = list(words)
        swapped[i % len(words)] = "terrible" if i % 2 else "tedious"
        pairs.append((" ".join(words), " ".join(swapped)))
    return pairs


@pytest.fixture(scope="module")
def rows(tiny_victim: Victim) -> list[AdversarialRow]:
    """Attacks that hold: successes, failures, and skipped texts, by what the victim says."""
    found = []
    for i, (before, swapped) in enumerate(draw_pairs(40)):
        after = swapped
        said = tiny_victim.read([before, after]).probabilities
        outputs = said.argmax(axis=1).tolist()
        label = outputs[0] if i % 4 else 1 - outputs[0]
        if label != outputs[0]:
            result, after, said[1], outputs[1] = "skipped", before, said[0], outputs[0]
        else:
            result = "success" if outputs[1] != label else "failure"
        positions, percent = compare_words(before, after)
        found.append(
            AdversarialRow(
                id=row_id(before, "reviews", i),
                dataset="reviews",
                split="test",
                index=i,
                label=label,
                original_text=before,
                perturbed_text=after,
                changed_positions=positions,
                original_output=outputs[0],
                perturbed_output=outputs[1],
                original_score=1 - said[0][label],
                perturbed_score=1 - said[1][label],
                original_probabilities=said[0].tolist(),
                perturbed_probabilities=said[1].tolist(),
                result=result,  # type: ignore[arg-type]
                goal="untargeted",
                min_confidence=None,
                recipe="pwws",
                recipe_parameters="{}",
                victim=tiny_victim.name,
                victim_hash=tiny_victim.hash,
                queries=3,
                words_changed_percent=percent,
                seed=0,
                textattack_version=None,
            )
        )
    assert {row.result for row in found} == {"success", "failure", "skipped"}
    return found


def answers(victim: Victim, rows: Sequence[AdversarialRow]) -> list[Answer]:
    sides = ("original_text", "perturbed_text")
    said = [victim.read([getattr(row, side) for row in rows]).probabilities for side in sides]
    return [Answer(before, after) for before, after in zip(*said, strict=True)]


@pytest.fixture
def folder(tmp_path: Path, rows: list[AdversarialRow], tiny_victim_folder: Any) -> Path:
    """A finished run whose manifest says where victim and dataset are."""
    data = tmp_path / "reviews"
    data.mkdir()
    with open(data / "test.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        writer.writerows([row.original_text, row.label] for row in rows)
    with Run(tmp_path / "run", "attack run", {"dtype": "fp32", "max_length": 64}) as run:
        write_rows(run.path(ROWS_FILE), rows)
        run.finish(
            [ROWS_FILE],
            sources={"dataset": dataset_pointer(str(data), None, None), "victim": str(tiny_victim_folder())},
        )
    return tmp_path / "run"


def test_rows_that_hold(folder: Path, rows: list[AdversarialRow], tiny_victim: Victim) -> None:
    found = verify_rows(folder)
    assert (found.faults, found.notes, found.holding) == ([], [], len(rows))
    assert found.facts["victim_hash"] == tiny_victim.hash
    assert (found.facts["dtype"], found.facts["max_length"]) == ("fp32", 64)
    before = hash_file(folder / ROWS_FILE)
    report = json.loads(write_report(folder, found).read_text())
    assert (report["rows"], report["holding"], report["counts"], report["faults"]) == (len(rows), len(rows), {}, [])
    assert report["rows_hash"] == before == hash_file(folder / ROWS_FILE)


def nudged(probabilities: list[float] | None, by: float) -> list[float]:
    assert probabilities is not None
    return [probabilities[0] - by, probabilities[1] + by]


def moved(row: AdversarialRow, side: str, by: float) -> AdversarialRow:
    """The row with other probabilities of one text, and all that hangs on them."""
    values = nudged(getattr(row, f"{side}_probabilities"), by)
    return replace(row, **{f"{side}_probabilities": values, f"{side}_score": 1 - values[row.label]})


TAMPERED: dict[str, tuple[str, Callable[[AdversarialRow], AdversarialRow], set[str]]] = {
    "another result": ("success", lambda row: replace(row, result="failure"), {"outcome", "result"}),
    "a success that was none": ("failure", lambda row: replace(row, result="success"), {"outcome", "result"}),
    "maximized": ("failure", lambda row: replace(row, result="maximized"), {"outcome", "result"}),
    "skipped for nothing": ("failure", lambda row: replace(row, result="skipped"), {"outcome", "result"}),
    "a prediction": (
        "success",
        lambda row: replace(row, perturbed_output=row.label),
        {"perturbed-prediction", "result", "scores"},
    ),
    "an original prediction": (
        "failure",
        lambda row: replace(row, original_output=1 - row.label),
        {"original-prediction", "result", "scores"},
    ),
    "perturbed probabilities": ("failure", lambda row: moved(row, "perturbed", 2e-4), {"perturbed-probabilities"}),
    "original probabilities": ("success", lambda row: moved(row, "original", 2e-4), {"original-probabilities"}),
    "probabilities within the tolerance": ("success", lambda row: moved(row, "original", 5e-5), set()),
    "a score": ("success", lambda row: replace(row, original_score=row.original_score + 0.01), {"scores"}),
    "no probabilities": (
        "success",
        lambda row: replace(row, original_probabilities=None, perturbed_probabilities=None),
        set(),
    ),
    "no probabilities, another score": (
        "success",
        lambda row: replace(row, original_probabilities=None, original_score=row.original_score + 0.01),
        {"original-probabilities"},
    ),
    "not a number": (
        "success",
        lambda row: replace(row, perturbed_probabilities=[float("nan"), 1.0]),
        {"perturbed-probabilities", "scores"},
    ),
    "three classes": (
        "failure",
        lambda row: replace(row, perturbed_probabilities=[*(row.perturbed_probabilities or []), 0.0]),
        {"perturbed-probabilities"},
    ),
    "no position": ("success", lambda row: replace(row, changed_positions=[]), {"changed-words"}),
    "another share": ("failure", lambda row: replace(row, words_changed_percent=1.0), {"changed-words"}),
    "another id": ("failure", lambda row: replace(row, id="0" * 16), {"id"}),
    "another index": ("success", lambda row: replace(row, index=10**6), {"id", "source"}),
    "another label": (
        "failure",
        lambda row: replace(row, label=1 - row.label),
        {"outcome", "result", "scores", "source"},
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_every_fault_is_found_and_no_other(folder: Path, rows: list[AdversarialRow], name: str) -> None:
    result, change, kinds = TAMPERED[name]
    place = next(i for i, row in enumerate(rows) if row.result == result)
    write_rows(folder / ROWS_FILE, [*rows[:place], change(rows[place]), *rows[place + 1 :]])
    found = verify_rows(folder)
    assert {fault.kind for fault in found.faults} == kinds
    assert {fault.position for fault in found.faults} == ({place} if kinds else set())
    assert found.holding == len(rows) - bool(kinds)
    assert found.notes == ["the file of rows is not the one that the run wrote: it was changed afterwards."]


def test_another_text_is_found(folder: Path, rows: list[AdversarialRow]) -> None:
    for side, kinds in (("original", {"id", "source"}), ("perturbed", set())):
        changed = replace(rows[1], **{f"{side}_text": getattr(rows[1], f"{side}_text") + " film film film"})
        write_rows(folder / ROWS_FILE, [rows[0], changed])
        found = {fault.kind for fault in verify_rows(folder).faults}
        assert found >= kinds | {f"{side}-probabilities", "changed-words"}


def test_duplicates(rows: list[AdversarialRow]) -> None:
    other = replace(rows[0], recipe="textfooler")  # the same text, attacked another way
    found = check_stored([rows[0], rows[1], other, rows[1]])
    assert [(fault.position, fault.kind, fault.detail) for fault in found] == [(3, "duplicate", "as row 1")]


def test_another_victim_is_named_once(
    folder: Path, rows: list[AdversarialRow], tiny_victim_folder: Any, tiny_victim: Victim
) -> None:
    other = tiny_victim_folder("bert", 2, 1)
    found = verify_rows(folder, victim=str(other))
    assert [note for note in found.notes if "weights hash" in note] == found.notes
    assert len(found.notes) == 1
    # The victim itself is the oracle.
    said = [Victim.load(str(other)).read([row.original_text]).predictions[0] for row in rows]
    wrong = {i for i, (row, label) in enumerate(zip(rows, said, strict=True)) if row.original_output != label}
    assert wrong
    assert {fault.position for fault in found.faults if fault.kind == "original-prediction"} == wrong
    assert not {fault.kind for fault in found.faults} & {"result", "scores", "changed-words", "id", "source"}


def test_what_cannot_be_asked(folder: Path, rows: list[AdversarialRow], tiny_victim_folder: Any) -> None:
    file = folder.parent / "rows.parquet"
    write_rows(file, rows)
    with pytest.raises(ConfigurationError, match="does not say which victim") as caught:
        verify_rows(file)
    assert "--victim" in caught.value.hint
    found = verify_rows(file, victim=str(tiny_victim_folder()))
    assert found.faults == []
    assert found.notes == ["original texts were not checked: the run does not say which dataset was attacked."]
    assert write_report(file, found) == folder.parent / "rows.verify.json"
    with pytest.raises(MissingFileError) as missing:
        verify_rows(file, victim="./gone")
    assert "--victim" in missing.value.hint
    write_rows(file, [replace(rows[0], label=5)])
    with pytest.raises(VictimError, match=r"labels up to 5, the victim .* knows 0 to 1"):
        verify_rows(file, victim=str(tiny_victim_folder()))
    with pytest.raises(ConfigurationError, match="--tolerance 1 is not"):
        verify_rows(folder, tolerance=1.0)


def test_a_dataset_that_moved_is_no_fault(folder: Path) -> None:
    (folder.parent / "reviews").rename(folder.parent / "elsewhere")
    found = verify_rows(folder)
    assert found.faults == []
    assert len(found.notes) == 1
    assert found.notes[0].startswith("original texts were not checked: there is no file or folder")


def outcome(
    before: Sequence[float], after: Sequence[float], rows: Sequence[AdversarialRow], **changes: Any
) -> tuple[bool, bool]:
    """Whether a row with these predictions has the fault `outcome` when asked again, and `result` by itself."""
    row = replace(
        rows[0],
        label=0,
        original_output=int(np.argmax(before)),
        perturbed_output=int(np.argmax(after)),
        original_probabilities=list(before),
        perturbed_probabilities=list(after),
        **changes,
    )
    asked = check_answers([row], [Answer(np.array(before), np.array(after))], 1e-4)
    found = {fault.kind for fault in [*asked, *check_stored([row])]}
    return "outcome" not in found, "result" not in found


RIGHT, WRONG, OTHER = [0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.2, 0.7]


@pytest.mark.parametrize(
    ("settings", "before", "after", "results"),
    [
        ({}, RIGHT, WRONG, {"success"}),
        ({}, RIGHT, RIGHT, {"failure"}),
        ({}, WRONG, WRONG, {"skipped"}),
        ({"min_confidence": 0.69}, RIGHT, WRONG, {"success"}),
        ({"min_confidence": 0.7}, RIGHT, WRONG, {"success", "failure"}),  # by a hair, so either is right
        ({"min_confidence": 0.71}, RIGHT, WRONG, {"failure"}),
        ({"min_confidence": 0.9}, RIGHT, RIGHT, {"failure"}),
        ({"goal": "targeted", "target_class": 1}, RIGHT, WRONG, {"success"}),
        ({"goal": "targeted", "target_class": 1}, RIGHT, OTHER, {"failure"}),
        ({"goal": "targeted", "target_class": 0}, RIGHT, RIGHT, {"skipped"}),
        ({"goal": "targeted", "target_class": 1}, OTHER, OTHER, {"skipped"}),
        ({"goal": "targeted", "target_class": 1, "min_confidence": 0.8}, RIGHT, WRONG, {"failure"}),
        ({"evaded": "{}"}, RIGHT, WRONG, {"success", "failure"}),
        ({"evaded": "{}"}, RIGHT, RIGHT, {"failure"}),
        ({"goal": "input-reduction"}, RIGHT, RIGHT, {"maximized", "success", "failure"}),
        ({"goal": "input-reduction"}, RIGHT, WRONG, set()),
        ({"goal": "input-reduction"}, WRONG, WRONG, {"skipped"}),
        ({"goal": "somebody's own"}, RIGHT, WRONG, {"success", "failure", "maximized", "skipped"}),
    ],
)
def test_results_by_goal(
    rows: list[AdversarialRow],
    settings: dict[str, Any],
    before: list[float],
    after: list[float],
    results: set[str],
) -> None:
    same = replace(rows[0], perturbed_text=rows[0].original_text)
    for result in ("success", "failure", "maximized", "skipped"):
        wanted = result in results
        assert outcome(before, after, [same], result=result, **settings) == (wanted, wanted), result


def test_ties_within_the_tolerance_are_no_faults(rows: list[AdversarialRow]) -> None:
    row = replace(
        rows[0],
        label=0,
        result="success",
        original_output=0,
        perturbed_output=1,
        original_probabilities=[0.8, 0.2],
        perturbed_probabilities=[0.49999, 0.50001],
        original_score=0.2,
        perturbed_score=0.50001,
    )
    near = Answer(np.array([0.8, 0.2]), np.array([0.50002, 0.49998]))
    assert check_answers([row], [near], 1e-4) == []
    assert {fault.kind for fault in check_answers([row], [near], 1e-5)} == {
        "perturbed-prediction",
        "perturbed-probabilities",
        "outcome",
    }


def test_the_command(
    main: Callable[..., int],
    folder: Path,
    rows: list[AdversarialRow],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main("attack", "verify", folder) == 0
    assert f"{len(rows)} of {len(rows)} rows hold" in capsys.readouterr().out
    tampered = [replace(row, id="[red]x[/red]") if i in (2, 3, 4) else row for i, row in enumerate(rows)]
    write_rows(folder / ROWS_FILE, tampered)
    assert main("attack", "verify", folder, "--examples", 2) == 1
    said = capsys.readouterr().out
    assert f"{len(rows) - 3} of {len(rows)} rows hold" in said
    assert "row 3, [red]x[/red], index 3: id ([red]x[/red], should be" in said
    assert "row 4, " not in said
    assert "... and 1 more rows" in said
    assert FAULTS["id"] in said
    assert read_rows(folder) == tampered
    report = json.loads((folder / "verify.json").read_text())
    assert [fault["position"] for fault in report["faults"]] == [2, 3, 4]


def test_a_real_log_does_not_hold_on_another_victim(
    main: Callable[..., int], shared_data: Path, tmp_path: Path, tiny_victim_folder: Any, capsys: Any
) -> None:
    log = shared_data / "attack_logs" / "bert-base-uncased-sst2_pwws.csv"
    assert main("attack", "import", log, "--classes", 2, "--out", tmp_path / "run") == 0
    assert main("attack", "verify", tmp_path / "run") == 2
    capsys.readouterr()
    assert main("attack", "verify", tmp_path / "run", "--victim", tiny_victim_folder()) == 1
    assert "0 of 872 rows hold" in capsys.readouterr().out
    counts = json.loads((tmp_path / "run" / "verify.json").read_text())["counts"]
    # Whatever the victim says, the log agrees with itself.
    assert set(counts) <= {kind for kind in FAULTS if kind == "outcome" or kind.startswith(("original", "perturbed"))}
    assert counts["original-probabilities"] > 850
