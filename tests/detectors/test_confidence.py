"""MSP, entropy, energy and maximal logit against plain Python."""

import math

import numpy as np
import pytest

from harness.core.errors import DataError
from harness.detectors.confidence import MSP, Energy, Entropy, MaxLogit
from harness.text.victims import VictimOutputs

KINDS = (MSP, Entropy, Energy, MaxLogit)


def softmax(row):
    """Class probabilities of a row of logits."""
    powers = [math.exp(value - max(row)) for value in row]
    return [power / sum(powers) for power in powers]


ORACLES = {
    MSP: lambda row: 1 - max(softmax(row)),
    Entropy: lambda row: math.fsum(-p * math.log(p) for p in softmax(row)),
    Energy: lambda row: -math.log(math.fsum(math.exp(value) for value in row)),
    MaxLogit: lambda row: -max(row),
}


def outputs(logits):
    """Victim outputs with the given logits."""
    logits = np.asarray(logits, dtype=np.float64)
    return VictimOutputs(np.array([softmax(row) for row in logits]), logits=logits)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_formula(kind):
    logits = 4 * np.random.default_rng(0).standard_normal((200, 3))
    scores = kind().score(outputs(logits))
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, [ORACLES[kind](row) for row in logits.tolist()], rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_victim_is_sure_of_scores_lower(kind):
    unsure, sure = kind().score(outputs([[0.1, 0.0, 0.0], [9.0, 0.0, 0.0]]))
    assert unsure > sure


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_the_other_texts(kind):
    found = outputs(np.random.default_rng(1).standard_normal((20, 4)))
    together = kind().score(found)
    alone = [kind().score(found.take(np.array([i])))[0] for i in range(20)]
    np.testing.assert_array_equal(together, alone)
    assert kind().score(found.take(np.arange(0))).shape == (0,)


def test_probabilities_of_zero_have_no_entropy():
    np.testing.assert_array_equal(Entropy().score(VictimOutputs(np.array([[1.0, 0.0], [0.5, 0.5]]))), [0, math.log(2)])


def test_large_logits_do_not_overflow():
    np.testing.assert_allclose(Energy().score(outputs([[1000.0, 0.0], [-1000.0, -1000.0]])), [-1000, 1000 - np.log(2)])


@pytest.mark.parametrize("kind", [Energy, MaxLogit])
def test_logits_that_are_not_at_hand_are_told(kind):
    with pytest.raises(DataError, match="logits are not at hand"):
        kind().score(VictimOutputs(np.array([[0.5, 0.5]])))


def test_the_victims_own_logits_are_read(tiny_victim):
    found = tiny_victim.read(["good film", "a long dull plot"])
    expected = [ORACLES[Energy](row) for row in found.logits.tolist()]
    np.testing.assert_allclose(Energy().score(found), expected, rtol=1e-12)
