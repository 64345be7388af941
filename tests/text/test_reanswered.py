"""Rows of an attack as another classifier, or another precision, answers them."""

import dataclasses

import numpy as np
import pytest

from harness.core.errors import VictimError
from harness.text.adversarial import AdversarialRow, compare_words
from harness.text.verification import reanswered
from harness.text.victims import Victim

WORDS = ("good", "bad", "film", "story", "dull", "warm", "never", "clumsy", "music", "love", "long")


@pytest.fixture(scope="module")
def rows():
    """120 attacks on a victim of which nothing is known, three in four of them won."""
    draw = np.random.default_rng(0)
    found = []
    for i in range(120):
        before, after = (" ".join(draw.choice(WORDS, size=5)) for _ in range(2))
        positions, percent = compare_words(before, after)
        found.append(
            AdversarialRow(
                id=f"{i:016x}",
                dataset="reviews",
                split="test",
                index=i,
                label=i % 2,
                original_text=before,
                perturbed_text=after,
                changed_positions=positions,
                original_output=i % 2,
                perturbed_output=1 - i % 2,
                original_score=0.1,
                perturbed_score=0.9,
                original_probabilities=None,
                perturbed_probabilities=None,
                result="success" if i % 4 else "failure",
                goal="untargeted",
                min_confidence=None,
                recipe="made-up",
                recipe_parameters="{}",
                victim="somebody",
                victim_hash="0" * 64,
                queries=7,
                words_changed_percent=percent,
                seed=0,
                textattack_version=None,
            )
        )
    return found


@pytest.mark.parametrize("confidence", [None, 0.7])
def test_answers_and_results_are_the_new_victims(confidence, rows, tiny_victim):
    asked = [dataclasses.replace(row, min_confidence=confidence) for row in rows]
    found = reanswered(asked, tiny_victim)
    before = tiny_victim.read([row.original_text for row in rows]).probabilities
    after = tiny_victim.read([row.perturbed_text for row in rows]).probabilities
    for row, new, p, q in zip(asked, found, before, after, strict=True):
        enough = confidence is None or q.max() >= confidence
        flipped = q.argmax() != row.label and enough
        assert new.result == ("skipped" if p.argmax() != row.label else "success" if flipped else "failure")
        assert (new.original_output, new.perturbed_output) == (p.argmax(), q.argmax())
        assert new.original_probabilities == pytest.approx(p, abs=1e-5)
        assert new.perturbed_probabilities == pytest.approx(q, abs=1e-5)
        assert new.original_score == pytest.approx(1 - p[row.label], abs=1e-5)
        assert new.perturbed_score == pytest.approx(1 - q[row.label], abs=1e-5)
        assert (new.victim, new.victim_hash) == (tiny_victim.name, tiny_victim.hash)
        kept = ("id", "label", "original_text", "perturbed_text", "queries", "min_confidence", "recipe")
        assert all(getattr(new, name) == getattr(row, name) for name in kept)
    assert {row.result for row in found} == {"success", "failure", "skipped"}


def test_asking_again_changes_nothing(rows, tiny_victim):
    once = reanswered(rows, tiny_victim)
    twice = reanswered(once, tiny_victim)
    assert [row.result for row in twice] == [row.result for row in once]
    assert [row.original_probabilities for row in twice] == [row.original_probabilities for row in once]


def test_the_rows_given_stay_as_they_are(rows, tiny_victim):
    before = [dataclasses.asdict(row) for row in rows[:5]]
    reanswered(rows[:5], tiny_victim)
    assert [dataclasses.asdict(row) for row in rows[:5]] == before


def test_a_victim_of_fewer_classes_is_refused(rows, tiny_victim, tiny_victim_folder):
    high = [dataclasses.replace(rows[0], label=2)]
    with pytest.raises(VictimError, match="labels up to 2"):
        reanswered(high, tiny_victim)
    assert len(reanswered(high, Victim.load(str(tiny_victim_folder("bert", 3)), device="cpu"))) == 1
