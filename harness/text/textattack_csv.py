"""TextAttack's CSV log: one line an attacked text, its changed words in `[[ ]]`, its line breaks as `<SPLIT>`.

The log escapes nothing, so a text that holds these signs itself is ambiguous. A pair of texts is read as the one
that would have been written so: brackets that stand around the same word in both texts are the text's own, for
only changed words are marked. What cannot be told apart all the same, `export_log` counts.
"""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.core.errors import DataError
from harness.text.adversarial import AdversarialRow, Result, compare_words
from harness.text.datasets import row_id
from harness.text.local_files import long_cells
from harness.text.words import changed_positions, find_words

Marks = Literal["file", "html", "ansi", "plain"]

_RESULTS: dict[str, Result] = {
    "Successful": "success",
    "Failed": "failure",
    "Maximized": "maximized",
    "Skipped": "skipped",
}
_NEWLINE = "<SPLIT>"
# The innermost pair of brackets: a word holds none, but the text before it may.
_BRACKETS = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]", re.DOTALL)
# The names of an input's parts (premise, hypothesis) are marked as well, twice, and are no changed words.
_PART_NAME = re.compile(r"^\[\[\[\[(\w+)\]\]\]\](?=: )", re.MULTILINE)
_OTHER_MARKS: dict[Marks, re.Pattern[str]] = {
    "html": re.compile(r"<font color = \w+>((?:(?!</?font).)*)</font>", re.DOTALL),
    "ansi": re.compile(r"\x1b\[\d+m([^\x1b]*)\x1b\[0m"),
}
_TEXT_LOG = re.compile(r"^-{45} Result \d+ -{45}$", re.MULTILINE)
_COLUMNS = (
    "original_text",
    "perturbed_text",
    "original_score",
    "perturbed_score",
    "original_output",
    "perturbed_output",
    "ground_truth_output",
    "num_queries",
    "result_type",
)


@dataclass(frozen=True)
class LogFacts:
    """What a CSV log does not say of itself: the word of whoever reads it.

    Attributes:
        dataset: Name of the attacked dataset.
        split: Its split.
        recipe: Name of the recipe.
        victim: Name of the victim.
        classes: How many classes the victim has. With 2, the score of an untargeted attack gives all probabilities.
        goal: The attack's goal; None for `untargeted`, or `input-reduction` where results are `Maximized`.
        target_class: The label that a targeted attack wanted.
        min_confidence: The confidence that the wrong label had to reach.
        marks: How changed words are marked: `file` (`[[ ]]`), `html`, `ansi`, or `plain` (not at all), as TextAttack
            names its styles; None to look.
    """

    dataset: str
    split: str
    recipe: str
    victim: str
    classes: int | None = None
    goal: str | None = None
    target_class: int | None = None
    min_confidence: float | None = None
    marks: Marks | None = None


def read_csv_log(text: str, facts: LogFacts, where: Path | str) -> list[AdversarialRow]:
    """The rows of a CSV log; the index of each is its number in the log.

    Args:
        text: The whole log.
        facts: What it does not hold.
        where: What is read, for messages.

    Raises:
        DataError: It is not such a log.
    """
    number = 0
    try:
        with long_cells():
            reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
            columns = reader.fieldnames or ()
            absent = [name for name in _COLUMNS if name not in columns]
            if absent and _TEXT_LOG.search(text[:10_000]):
                raise DataError(
                    f"{where} is TextAttack's text log, which has neither scores nor numbers of queries.",
                    "Only its CSV log can be imported: attack with --log-to-csv.",
                )
            if absent:
                raise DataError(
                    f"{where} is not a TextAttack log: it has no column {absent[0]!r}.",
                    "TextAttack writes such a log with --log-to-csv.",
                )
            lines = []
            for line in reader:
                number = reader.line_num
                # Columns of the reader's own are left out; cells without a column mean a broken line.
                if None in line.values() or isinstance(line.get(""), list):
                    raise ValueError(f"it has not the {len(columns)} cells that the header names")
                lines.append((number, line))
        pairs = [(line["original_text"], line["perturbed_text"]) for _, line in lines]
        marks = facts.marks or _find_marks(pairs)
        goal = facts.goal or _find_goal([line["result_type"] for _, line in lines])
        rows: list[AdversarialRow] = []
        for place, line in lines:
            number = place
            rows.append(_row(line, len(rows), facts, goal, marks))
        return rows
    except (csv.Error, KeyError, ValueError) as error:
        raise DataError(
            f"{where} is not a TextAttack log: near line {number}, {error}.", "Was it cut, or edited?"
        ) from error


def write_csv_log(rows: Iterable[AdversarialRow]) -> str:
    """Rows as TextAttack's own logger would have written them."""
    names = {result: name for name, result in _RESULTS.items()}
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        original, perturbed = _mark(row.original_text, row.perturbed_text)
        writer.writerow(
            [
                original.replace("\n", _NEWLINE),
                perturbed.replace("\n", _NEWLINE),
                row.original_score,
                row.perturbed_score,
                row.original_output,
                row.perturbed_output,
                float(row.label),
                row.queries,
                names[row.result],
            ]
        )
    return buffer.getvalue()


def _row(line: dict[str, str], index: int, facts: LogFacts, goal: str, marks: Marks) -> AdversarialRow:
    original, perturbed = _unmark(line["original_text"], line["perturbed_text"], marks)
    changed, percent = compare_words(original, perturbed)
    label = _count(line["ground_truth_output"])
    scores = _finite(line["original_score"]), _finite(line["perturbed_score"])
    # Only the score of an untargeted attack is 1 - p(label).
    known = facts.classes == 2 and goal == "untargeted"
    probabilities = [_two_classes(score, label) if known else None for score in scores]
    if line["result_type"] not in _RESULTS:
        raise ValueError(f"{line['result_type']!r} is no result")
    return AdversarialRow(
        id=row_id(original, facts.dataset, index),
        dataset=facts.dataset,
        split=facts.split,
        index=index,
        label=label,
        original_text=original,
        perturbed_text=perturbed,
        changed_positions=changed,
        original_output=_count(line["original_output"]),
        perturbed_output=_count(line["perturbed_output"]),
        original_score=scores[0],
        perturbed_score=scores[1],
        original_probabilities=probabilities[0],
        perturbed_probabilities=probabilities[1],
        result=_RESULTS[line["result_type"]],
        goal=goal,
        min_confidence=facts.min_confidence,
        recipe=facts.recipe,
        recipe_parameters="{}",
        victim=facts.victim,
        victim_hash=None,
        queries=_count(line["num_queries"]),
        words_changed_percent=percent,
        seed=None,
        textattack_version=None,
        target_class=facts.target_class,
    )


def _find_goal(results: Sequence[str]) -> str:
    # Of TextAttack's recipes only input reduction looks for a best and not for a flip.
    return "input-reduction" if "Maximized" in results else "untargeted"


def _find_marks(pairs: Sequence[tuple[str, str]]) -> Marks:
    """The style of a log's marks; a pair without a difference has none."""
    joined = ["\x00".join(pair) for pair in pairs if pair[0] != pair[1]]
    if not any(_BRACKETS.search(texts) for texts in joined):
        for style, pattern in _OTHER_MARKS.items():
            if any(pattern.search(texts) for texts in joined):
                return style
    return "file"


def _mark(original: str, perturbed: str) -> tuple[str, str]:
    """Wrap the words that one of the texts has and the other has not in `[[ ]]`, as TextAttack's log does."""
    return _wrap(original, perturbed), _wrap(perturbed, original)


def _wrap(text: str, other: str) -> str:
    words = find_words(text)
    changed = changed_positions([w.text for w in words], [w.text for w in find_words(other)], insertions=False)
    pieces, end = [], 0
    for position in changed:
        word = words[position]
        pieces += [text[end : word.start], "[[", word.text, "]]"]
        end = word.end
    return "".join([*pieces, text[end:]])


def _unmark(original: str, perturbed: str, marks: Marks) -> tuple[str, str]:
    """The two texts without marks."""
    cells = original.replace(_NEWLINE, "\n"), perturbed.replace(_NEWLINE, "\n")
    if marks == "plain":
        return cells
    if marks != "file":
        pattern = _OTHER_MARKS[marks]
        return pattern.sub(r"\1", cells[0]), pattern.sub(r"\1", cells[1])
    if _PART_NAME.match(cells[0]) and _PART_NAME.match(cells[1]):
        cells = _PART_NAME.sub(r"\1", cells[0]), _PART_NAME.sub(r"\1", cells[1])
    bare = _strip(cells[0], set()), _strip(cells[1], set())
    if bare == cells or _mark(*bare) == cells:
        return bare
    # Some brackets are no marks. Those around the same word in both texts may be the texts' own.
    inner = [[match[1] for match in _BRACKETS.finditer(cell)] for cell in cells]
    blocks = difflib.SequenceMatcher(a=inner[0], b=inner[1], autojunk=False).get_matching_blocks()
    own: tuple[set[int], set[int]] = set(), set()
    for block in blocks:
        own[0].update(range(block.a, block.a + block.size))
        own[1].update(range(block.b, block.b + block.size))
    kept = _strip(cells[0], own[0]), _strip(cells[1], own[1])
    return kept if _mark(*kept) == cells else bare


def _strip(text: str, own: set[int]) -> str:
    """Remove pairs of brackets, but not those whose numbers are in `own`."""
    numbers = iter(range(len(text)))

    def bare(match: re.Match[str]) -> str:
        return str(match[0] if next(numbers) in own else match[1])

    return _BRACKETS.sub(bare, text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no score")
    return value


def _count(text: str) -> int:
    """A label or a number of queries, which TextAttack writes as floats."""
    value = float(text)
    if not value.is_integer() or not 0 <= value < 2**31:
        raise ValueError(f"{text} is no label or count")
    return int(value)


def _two_classes(score: float, label: int) -> list[float]:
    return [1 - score, score] if label == 0 else [score, 1 - score]
