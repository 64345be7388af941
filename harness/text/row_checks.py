"""Whether adversarial rows hold: against themselves, against a victim, against the dataset they came from.

Nothing here changes a row. A row whose victim, text or label is not what it says is flagged with the kind of fault
and with what was found instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.text.adversarial import GOALS, SETTINGS, AdversarialRow, Result, compare_words
from harness.text.datasets import TextDataset, row_id

# Kinds of fault, in the order in which they are shown.
FAULTS = {
    "original-prediction": "the victim predicts another label for the original text",
    "perturbed-prediction": "the victim predicts another label for the perturbed text",
    "original-probabilities": "the victim's probabilities for the original text are not the stored ones",
    "perturbed-probabilities": "the victim's probabilities for the perturbed text are not the stored ones",
    "outcome": "the result is not what the victim's predictions make of it",
    "result": "the result is not what the stored predictions make of it",
    "scores": "stored score, probabilities and prediction contradict each other",
    "changed-words": "positions or share of changed words are not those of the two texts",
    "id": "the id is not the hash of original text, dataset and index",
    "duplicate": "the same attack on the same source text is there already",
    "source": "text or label is not the dataset's at this index",
}
_MARGIN = 1e-6


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a row.

    Attributes:
        position: Number of the row in its file.
        id: The row's id.
        kind: One of `FAULTS`.
        detail: What was stored and what was found.
    """

    position: int
    id: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Answer:
    """What a victim says of a row's two texts.

    Attributes:
        original: Class probabilities of the original text, (classes,) float64.
        perturbed: The same of the perturbed text.
    """

    original: NDArray[np.float64]
    perturbed: NDArray[np.float64]


def check_stored(rows: Sequence[AdversarialRow]) -> list[Fault]:
    """Check rows against themselves and each other, without a victim."""
    faults = []
    seen: dict[tuple[object, ...], int] = {}
    for position, row in enumerate(rows):
        found = {"result": _wrong_result(row), "scores": _wrong_scores(row), "changed-words": _wrong_words(row)}
        expected = row_id(row.original_text, row.dataset, row.index)
        if row.id != expected:
            found["id"] = f"{row.id}, should be {expected}"
        first = seen.setdefault((row.index, *(getattr(row, name) for name in SETTINGS)), position)
        if first != position:
            found["duplicate"] = f"as row {first}"
        faults += [Fault(position, row.id, kind, detail) for kind, detail in found.items() if detail]
    return faults


def check_answers(rows: Sequence[AdversarialRow], answers: Sequence[Answer], tolerance: float) -> list[Fault]:
    """Check rows against what a victim says now.

    A label within `tolerance` of the most probable one counts as predicted: no fault where two classes tie. Rows of
    a log without probabilities are checked by their score, 1 - p(label), where the attack was untargeted.

    Args:
        rows: n rows.
        answers: What the victim says of each.
        tolerance: How far a probability may be off.
    """
    faults = []
    for position, (row, answer) in enumerate(zip(rows, answers, strict=True)):
        found: dict[str, str] = {}
        labels = []
        for side, stored_label, stored, score, probabilities in (
            ("original", row.original_output, row.original_probabilities, row.original_score, answer.original),
            ("perturbed", row.perturbed_output, row.perturbed_probabilities, row.perturbed_score, answer.perturbed),
        ):
            label = _predicted(probabilities, stored_label, tolerance)
            labels.append(label)
            if label != stored_label:
                found[f"{side}-prediction"] = f"stored {stored_label}, the victim says {label}"
            off = _distance(row, stored, score, probabilities)
            if off and not off[0] <= tolerance:
                found[f"{side}-probabilities"] = off[1]
        reason = _contradiction(row, labels[0], labels[1], float(answer.perturbed[labels[1]]), tolerance)
        if reason:
            found["outcome"] = reason
        faults += [Fault(position, row.id, kind, detail) for kind, detail in found.items()]
    return faults


def check_sources(rows: Sequence[AdversarialRow], dataset: TextDataset) -> list[Fault]:
    """Check that original texts and labels are the dataset's at their index; `dataset` is the split of the rows."""
    places = {int(index): place for place, index in enumerate(dataset.indices)}
    faults = []
    for position, row in enumerate(rows):
        place = places.get(row.index)
        if place is None:
            detail = f"{dataset.name!r} ({dataset.split}) has no row {row.index}"
        elif dataset.texts[place] != row.original_text:
            detail = "another text"
        elif int(dataset.labels[place]) != row.label:
            detail = f"label {row.label}, the dataset has {int(dataset.labels[place])}"
        else:
            continue
        faults.append(Fault(position, row.id, "source", detail))
    return faults


def result_of(row: AdversarialRow, original: int, perturbed: int, confidence: float) -> Result:
    """The result that a victim's answers make of a row, under its goal.

    Args:
        row: What was attacked, and for what; whether it passed a detector is taken from its own result.
        original: The label predicted for the original text.
        perturbed: The label predicted for the perturbed text.
        confidence: The probability of that label.
    """
    if row.goal == "input-reduction" and original == row.label == perturbed:
        return "maximized"
    possible = _possible_results(row, original, perturbed, confidence, 0.0)
    if row.result in possible:
        return row.result
    return "success" if possible == {"success"} else "skipped" if possible == {"skipped"} else "failure"


def _possible_results(
    row: AdversarialRow, original: int, perturbed: int, confidence: float | None, tolerance: float
) -> set[str]:
    """The results that fit two predictions and the confidence in the second, under the row's goal.

    What is not known, a goal of another package or the confidence in a log, fits every result it could make.
    """
    if row.goal not in GOALS:
        return {row.result}
    if original != row.label or (row.goal == "targeted" and row.label == row.target_class):
        return {"skipped"}
    if row.goal == "input-reduction":
        return {"maximized", "success", "failure"} if perturbed == row.label else set()
    if perturbed != row.target_class if row.goal == "targeted" else perturbed == row.label:
        return {"failure"}
    # A detector that was to be passed is not asked again: it may be why a flipped text is a failure.
    possible = {"success"} if row.evaded is None else {"success", "failure"}
    if row.min_confidence is not None:
        if confidence is None or confidence < row.min_confidence + tolerance:
            possible.add("failure")
        if confidence is not None and confidence < row.min_confidence - tolerance:
            possible.remove("success")
    return possible


def _contradiction(row: AdversarialRow, original: int, perturbed: int, confidence: float | None, by: float) -> str:
    possible = _possible_results(row, original, perturbed, confidence, by)
    if row.result in possible:
        return ""
    sure = f" (confidence {confidence:.4f})" if confidence is not None and row.min_confidence is not None else ""
    made = " or ".join(sorted(possible)) or "no result of this goal"
    return f"{row.result}, but label {row.label} predicted as {original} -> {perturbed}{sure} makes it {made}"


def _wrong_result(row: AdversarialRow) -> str:
    if row.result == "skipped" and row.perturbed_text != row.original_text:
        return "skipped, but the texts differ"
    probabilities, output = row.perturbed_probabilities, row.perturbed_output
    confidence = probabilities[output] if probabilities and 0 <= output < len(probabilities) else None
    return _contradiction(row, row.original_output, output, confidence, _MARGIN)


def _wrong_scores(row: AdversarialRow) -> str:
    for side, output, score, probabilities in (
        ("original", row.original_output, row.original_score, row.original_probabilities),
        ("perturbed", row.perturbed_output, row.perturbed_score, row.perturbed_probabilities),
    ):
        if probabilities is None:
            if row.goal == "untargeted" and not -_MARGIN <= score <= 1 + _MARGIN:
                return f"the {side} score {score:g} is no probability"
            continue
        values = np.asarray(probabilities, dtype=np.float64)
        if not (0 <= output < len(values) and 0 <= row.label < len(values)):
            return f"the {side} text has {len(values)} probabilities, its labels are {output} and {row.label}"
        if not (np.all(values >= -_MARGIN) and abs(float(values.sum()) - 1) <= 1e-3):
            return f"the {side} probabilities are none"
        if not values[output] >= values.max() - _MARGIN:
            return f"the {side} text is most probably {int(values.argmax())}, the stored prediction is {output}"
        if not abs(1 - float(values[row.label]) - score) <= _MARGIN:
            return f"the {side} score {score:g} is not 1 - {values[row.label]:g}"
    return ""


def _wrong_words(row: AdversarialRow) -> str:
    positions, percent = compare_words(row.original_text, row.perturbed_text)
    if row.changed_positions != positions:
        return f"{_few(row.changed_positions)}, should be {_few(positions)}"
    if not abs(row.words_changed_percent - percent) <= _MARGIN:
        return f"{row.words_changed_percent:g} percent, should be {percent:g}"
    return ""


def _few(positions: Sequence[int]) -> str:
    return f"[{', '.join(map(str, positions[:6]))}{', ...' if len(positions) > 6 else ''}]"


def _predicted(probabilities: NDArray[np.float64], stored: int, tolerance: float) -> int:
    best = int(probabilities.argmax())
    tied = 0 <= stored < len(probabilities) and probabilities[stored] >= probabilities[best] - tolerance
    return stored if tied else best


def _distance(
    row: AdversarialRow, stored: list[float] | None, score: float, probabilities: NDArray[np.float64]
) -> tuple[float, str] | None:
    """How far what is stored of a text is from what the victim says; None where nothing can be compared."""
    if stored is not None:
        if len(stored) != len(probabilities):
            return float("inf"), f"{len(stored)} classes, the victim has {len(probabilities)}"
        off = float(np.abs(np.asarray(stored, dtype=np.float64) - probabilities).max())
        return off, f"off by {off:.2g}"
    if row.goal != "untargeted" or not 0 <= row.label < len(probabilities):
        return None
    off = abs(score - (1 - float(probabilities[row.label])))
    return off, f"1 - p(label) off by {off:.2g}"
