from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError
from harness.text.adversarial import AdversarialRow
from harness.text.datasets import TextDataset
from harness.text.victims import Victim
from textadv.goals import Evasion, Goal
from textadv.parts import Parts
from textadv.plan import AttackPlan
from textadv.recipes import RECIPES
from textadv.shards import ShardWorker


@pytest.fixture(scope="module")
def three(tiny_victim_folder: Any) -> Victim:
    """A victim with three classes, one text a forward."""
    return Victim.load(str(tiny_victim_folder("bert", 3)), device="cpu", batch_size=1)


@pytest.fixture(scope="module")
def dataset(three: Victim, sentences: Any) -> TextDataset:
    texts = sentences(40, seed=2)
    labels = three.read(texts).predictions
    labels[::8] = (labels[::8] + 1) % 3
    return TextDataset("tiny", "test", texts, labels, np.arange(len(texts)), None, {})


def attack(victim: Victim, dataset: TextDataset, goal: Goal, recipe: str = "pwws") -> list[AdversarialRow]:
    found = ShardWorker(Parts(victim, goal), RECIPES.get(recipe), 0).attack(dataset)
    rows = [text.row for text in found if text.row]
    assert len(rows) == len(dataset)
    return rows


def probabilities(rows: Sequence[AdversarialRow]) -> NDArray[np.float64]:
    return np.array([row.perturbed_probabilities for row in rows])


@pytest.mark.parametrize("kind", ["untargeted", "targeted"])
def test_plain_goals_are_textattacks(kind: str, three: Victim, dataset: TextDataset) -> None:
    from textattack import Attack
    from textattack.goal_functions import TargetedClassification, UntargetedClassification

    goal = Goal(target_class=1 if kind == "targeted" else None)
    rows = attack(three, dataset, goal)
    parts = Parts(three)
    plain = RECIPES.get("pwws").build(parts)
    function = (
        TargetedClassification(parts.model(), target_class=1)
        if kind == "targeted"
        else UntargetedClassification(parts.model())
    )
    constraints = [*plain.pre_transformation_constraints, *plain.constraints]
    theirs = Attack(function, constraints, plain.transformation, plain.search_method)
    compared = 0
    for row in rows:
        if row.original_output != row.label:
            assert row.result == "skipped"  # TextAttack's targeted goal goes on with these
            continue
        theirs.clear_cache()
        result = theirs.attack(row.original_text, row.label)
        assert row.perturbed_text == result.perturbed_result.attacked_text.tokenizer_input
        assert row.queries == result.num_queries
        assert row.result[:4] == type(result).__name__.lower()[:4].replace("fail", "fail")
        compared += 1
    assert compared > 30
    assert {row.result for row in rows} == {"success", "failure", "skipped"}


def test_targeted_rows_reach_the_class(three: Victim, dataset: TextDataset) -> None:
    rows = attack(three, dataset, Goal(target_class=2))
    wins = [row for row in rows if row.result == "success"]
    assert wins
    assert {row.perturbed_output for row in wins} == {2}
    assert {(row.goal, row.target_class) for row in rows} == {("targeted", 2)}
    of_the_class = [row for row in rows if row.label == 2]
    assert of_the_class
    assert {row.result for row in of_the_class} == {"skipped"}
    assert all(row.perturbed_output != 2 for row in rows if row.result == "failure")


@pytest.mark.parametrize("floor", [0.45, 0.55])
def test_far_boundary_rows_are_that_confident(floor: float, three: Victim, dataset: TextDataset) -> None:
    rows = attack(three, dataset, Goal(min_confidence=floor))
    near = attack(three, dataset, Goal())
    wins = [row for row in rows if row.result == "success"]
    found = probabilities(wins)
    assert len(wins) > 3
    assert (found.max(axis=1) >= floor).all()
    assert all(row.perturbed_output != row.label for row in wins)
    assert {row.min_confidence for row in rows} == {floor}
    # A text whose label changed without reaching the floor is not adversarial here.
    short = [row for row in rows if row.result == "failure" and row.perturbed_output != row.label]
    assert (probabilities(short).max(axis=1) < floor).all() if short else True
    assert [row.result == "skipped" for row in rows] == [row.result == "skipped" for row in near]
    weak = [row for row in near if row.result == "success" and max(row.perturbed_probabilities or [1]) < floor]
    assert weak  # the plain attack stops short of the floor on some


def letters(texts: Sequence[str]) -> NDArray[np.float64]:
    """A detector that knows nothing of attacks: how many letters a text has."""
    return np.array([float(len(text)) for text in texts])


def test_evasive_rows_pass_the_detector(three: Victim, dataset: TextDataset) -> None:
    threshold = 24.0
    asked: list[int] = []

    def score(texts: Sequence[str]) -> NDArray[np.float64]:
        asked.append(len(texts))
        return letters(texts)

    plain = attack(three, dataset, Goal())
    rows = attack(three, dataset, Goal(evasion=Evasion(score, threshold, '{"detector": "letters"}')))
    wins = [row for row in rows if row.result == "success"]
    assert len(wins) > 3
    assert (letters([row.perturbed_text for row in wins]) <= threshold).all()
    assert all(row.perturbed_output != row.label for row in wins)
    caught = [row for row in plain if row.result == "success" and len(row.perturbed_text) > threshold]
    assert caught  # the plain attack would have been seen
    assert {row.evaded for row in rows} == {'{"detector": "letters"}'}
    assert max(asked) > 1  # it is asked in batches
    # One that was seen and has words left goes on: some texts that pass took more queries than the plain attack.
    by_index = {row.index: row for row in plain}
    assert any(
        row.queries > by_index[row.index].queries for row in wins if len(by_index[row.index].perturbed_text) > threshold
    )


def test_a_detector_that_sees_everything_cannot_be_passed(three: Victim, dataset: TextDataset) -> None:
    rows = attack(three, dataset, Goal(evasion=Evasion(letters, -1.0, "{}")))
    assert not [row for row in rows if row.result == "success"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_confidence": 0.0},
        {"min_confidence": 1.0},
        {"min_confidence": float("nan")},
        {"query_limit": 0},
        {"seconds_limit": 0.0},
        {"seconds_limit": float("nan")},
        {"input_reduction": True, "target_class": 1},
        {"input_reduction": True, "min_confidence": 0.9},
    ],
)
def test_goals_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Goal(**wrong)


def test_a_target_the_victim_does_not_know_is_refused(tiny_victim_folder: Any, three: Victim) -> None:
    plan = AttackPlan(str(tiny_victim_folder("bert", 3)), "pwws", target_class=3)
    with pytest.raises(ConfigurationError, match="--target-class 3 is no class of the victim"):
        plan.build(three)
    assert Path(plan.victim).is_dir()
