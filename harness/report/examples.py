"""Which texts of an evaluation are shown, and what each detector thought of both texts of a pair.

Examples are of the first seed and not chosen by hand: among the texts that fit, first those that most detectors
scored in both versions, then in order of their row ids, which are hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from harness.report.document import MISSING, Block, Cell, Paragraph, Table, TableRow, number
from harness.report.evaluated import Evaluated, EvaluatedDetector
from harness.report.sources import FoundRows, class_names
from harness.report.texts import row_example

_CAUGHT, _MISSED, _SPLIT, _ALARMS = 2, 2, 3, 2

TextKey = tuple[str, bool]  # row id, and whether it is the perturbed text


class Verdict(NamedTuple):
    """A detector's score of a text, the share of clean texts with a lower one (ties count half), and its decision."""

    score: float
    above: float
    flagged: bool


class Judge:
    """What one detector says of single texts, by the clean texts and the threshold of the first seed.

    A text that another seed drew has its score from there, unless the detector was tuned for each seed.
    """

    def __init__(self, detector: EvaluatedDetector) -> None:
        first, *others = detector.samples
        self.title = detector.title
        self.threshold = first.threshold
        self.first = list(zip(first.ids, first.adversarial.tolist(), strict=True))
        self._clean = np.sort(first.scores[~first.adversarial])
        self._scores: dict[TextKey, float] = {}
        for sample in [first, *(one for one in others if not first.tuned and not one.tuned)]:
            for key, score in zip(
                zip(sample.ids, sample.adversarial.tolist(), strict=True), sample.scores, strict=True
            ):
                self._scores.setdefault(key, float(score))

    def verdict(self, key: TextKey) -> Verdict | None:
        """What it says of a text; None where it did not score it."""
        score = self._scores.get(key)
        if score is None:
            return None
        low, high = (int(np.searchsorted(self._clean, score, side=side)) for side in ("left", "right"))
        return Verdict(score, (low + high) / 2 / max(1, len(self._clean)), score > self.threshold)


class Choice(NamedTuple):
    """Texts of the first seed by how detectors agree, best examples first."""

    caught: list[TextKey]
    missed: list[TextKey]
    split: list[TextKey]
    alarm: list[TextKey]
    quiet: list[TextKey]
    votes: Mapping[TextKey, tuple[int, int]]


def choose(judges: Sequence[Judge]) -> Choice:
    """Sort the texts of the first seed.

    Args:
        judges: One a detector.

    Returns:
        Adversarial texts that every detector flagged that scored them, that none did, and that some did; clean texts
        that some flagged, and that none did; and for each text how many flagged it, of how many.
    """
    votes: dict[TextKey, tuple[int, int]] = {}
    found = Choice([], [], [], [], [], votes)
    for key in sorted({key for judge in judges for key in judge.first}):
        verdicts = [judge.verdict(key) for judge in judges]
        flags = [verdict.flagged for verdict in verdicts if verdict is not None]
        flagged, asked = votes[key] = sum(flags), len(flags)
        if key[1]:
            (found.caught if flagged == asked else found.split if flagged else found.missed).append(key)
        else:
            (found.alarm if flagged else found.quiet).append(key)

    def known(key: TextKey) -> tuple[int, int]:
        other = sum(judge.verdict((key[0], not key[1])) is not None for judge in judges)
        return -votes[key][1], -other

    for keys in (found.caught, found.missed, found.quiet):
        keys.sort(key=lambda key: (known(key), key))
    # The more even the vote, the more there is to see.
    found.split.sort(key=lambda key: (known(key), abs(2 * votes[key][0] - votes[key][1]), key))
    found.alarm.sort(key=lambda key: (known(key), -votes[key][0], key))
    return found


def example_blocks(one: Evaluated, found: FoundRows) -> list[Block]:
    """Examples of an evaluated attack.

    Args:
        one: Its detectors and their scores.
        found: Its rows.
    """
    judges = [Judge(detector) for detector in one.detectors]
    names = class_names(found.folder)
    rows = {row.id: row for row in reversed(found.rows)}
    chosen = choose(judges)
    sample = one.detectors[0].samples[0]
    threshold = (
        "its threshold, which held-out clean texts set for 10 % false positives"
        if sample.heldout
        else "its threshold of 10 % false positives, which is set on the sampled clean texts themselves for want of "
        "held-out ones"
    )
    blocks: list[Block] = [
        Paragraph(
            f"A detector flags a text with a score above {threshold}. Examples are of seed {sample.seed}; nobody chose "
            "them: of each kind, those that most detectors scored in both versions, then in order of row ids. Marked "
            "words are underlined; a character that cannot be seen is shown by its code."
        ),
        _agreement(chosen, len(judges)),
    ]
    for title, key in _titled(chosen, several=len(judges) > 1):
        row = rows[key[0]]
        # Of a clean text, what the attack made of it is worth seeing beside it.
        alone = not key[1] and row.result == "skipped"
        table = _verdicts(judges, key[0], original_only=alone)
        blocks.append(row_example(title, row, names, table=table, original_only=alone))
    return blocks


def _titled(chosen: Choice, *, several: bool) -> Iterator[tuple[str, TextKey]]:
    """The texts that are shown, each with its reason."""
    by_votes = sorted(chosen.split, key=lambda key: (chosen.votes[key][0] / chosen.votes[key][1], key))
    of = {key: f"{flagged} of {asked} detectors" for key, (flagged, asked) in chosen.votes.items()}
    # Where detectors are never of one mind, the text that comes nearest.
    most = [] if chosen.caught else by_votes[-1:]
    fewest = [] if chosen.missed else [key for key in by_votes[:1] if key not in most]
    every, none = ("flagged by every detector", "missed by every detector") if several else ("flagged", "missed")
    yield from ((f"Adversarial, {every}", key) for key in chosen.caught[:_CAUGHT])
    yield from ((f"Adversarial, flagged by the most: {of[key]}", key) for key in most)
    yield from ((f"Adversarial, {none}", key) for key in chosen.missed[:_MISSED])
    yield from ((f"Adversarial, flagged by the fewest: {of[key]}", key) for key in fewest)
    others = [key for key in chosen.split if key not in (*most, *fewest)]
    yield from ((f"Adversarial, detectors disagree: flagged by {of[key]}", key) for key in others[:_SPLIT])
    for key in chosen.alarm[:_ALARMS]:
        yield f"Clean, a false alarm{f' of {of[key]}' if several else ''}", key


def _agreement(chosen: Choice, detectors: int) -> Table:
    adversarial = len(chosen.caught) + len(chosen.split) + len(chosen.missed)
    clean = len(chosen.alarm) + len(chosen.quiet)
    every, none = ("every detector", "no detector") if detectors > 1 else ("the detector", "the detector not")
    rows = [
        [f"Adversarial, flagged by {every}", *_share(len(chosen.caught), adversarial)],
        ["Adversarial, flagged by some", *_share(len(chosen.split), adversarial)],
        [f"Adversarial, flagged by {none}", *_share(len(chosen.missed), adversarial)],
        [f"Clean, flagged by {'some' if detectors > 1 else every}", *_share(len(chosen.alarm), clean)],
    ]
    if detectors == 1:
        rows = [
            ["Adversarial, flagged", *_share(len(chosen.caught), adversarial)],
            ["Adversarial, missed", *_share(len(chosen.missed), adversarial)],
            ["Clean, flagged", *_share(len(chosen.alarm), clean)],
        ]
    return Table("How the detectors agree on the texts of the first seed.", ["Texts", "Number", "Percent"], rows)


def _share(count: int, of: int) -> tuple[str, str]:
    return f"{count:,} of {of:,}", f"{100 * count / of:.1f}" if of else MISSING


def _verdicts(judges: Sequence[Judge], row_id: str, *, original_only: bool) -> Table:
    versions = [False] if original_only else [False, True]
    rows: list[TableRow] = [
        [judge.title, *(_told(judge.verdict((row_id, perturbed))) for perturbed in versions)] for judge in judges
    ]
    caption = (
        f"What each detector says of row {row_id}: its decision, its score, and how many clean texts are below it."
    )
    return Table(caption, ["Detector", "Original text", "Perturbed text"][: 1 + len(versions)], rows)


def _told(verdict: Verdict | None) -> Cell:
    if verdict is None:
        return Cell("not scored")
    small = f"{number(verdict.score)}, above {100 * verdict.above:.0f} %"
    return Cell("flagged" if verdict.flagged else "passed", small, strong=verdict.flagged)
