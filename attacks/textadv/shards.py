"""Attack some texts together, in one process: the unit of work that is done whole or done again.

What a shard's rows hold is a function of its texts, the victim, the recipe and the seed: batches, and the memory of
what was asked, never reach across shards, and every text's random choices are seeded by the text.
"""

from __future__ import annotations

import hashlib
import json
import random
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.text.adversarial import AdversarialRow, Result, compare_words
from harness.text.datasets import TextDataset, row_id
from textadv.joining import Task, run_together
from textadv.journal import Finished
from textadv.parts import Parts
from textadv.recipes import RECIPES, Recipe
from textadv.runtime import textattack_version

# Words of texts in flight: enough to fill batches, and few enough that what TextAttack keeps of each of their
# candidates stays small.
ROOM = 2048
_RESULTS: dict[str, Result] = {
    "SuccessfulAttackResult": "success",
    "FailedAttackResult": "failure",
    "MaximizedAttackResult": "maximized",
    "SkippedAttackResult": "skipped",
}


@dataclass
class ShardWorker:
    """Attacks shards of one run, one after the other.

    Args:
        parts: Victim, goal and models.
        recipe: How to attack.
        seed: Seed of the recipe's random choices.

    Attributes:
        facts: The columns that all rows share.

    Raises:
        ConfigurationError: The recipe cannot run, or not on this victim.
        MissingArtifactError: An artifact is not here.
    """

    parts: Parts
    recipe: Recipe
    seed: int
    facts: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.recipe.check()
        self.recipe.build(self.parts)  # what is missing is missed before any work is done
        self.facts = row_facts(self.parts, self.recipe, self.seed)

    def attack(self, texts: TextDataset, ended: Callable[[Finished], None] = lambda _: None) -> list[Finished]:
        """Attack every one of `texts`.

        Args:
            texts: The shard.
            ended: Called as each text ends.

        Returns:
            What became of each, in their order; one that raised has its traceback and no row.
        """
        tasks = [self._task(texts, i) for i in range(len(texts))]
        found: dict[int, Finished] = {}
        try:
            for task in run_together(tasks, room=ROOM):
                index = int(texts.indices[task.place])
                told = "".join(traceback.format_exception(task.error)) if task.error else ""
                found[task.place] = Finished(index, task.seconds, task.outcome, told)
                ended(found[task.place])
        finally:
            self.parts.forget()
        return [found[i] for i in range(len(texts))]

    def _task(self, texts: TextDataset, i: int) -> Task[AdversarialRow]:
        text, label, index = texts.texts[i], int(texts.labels[i]), int(texts.indices[i])
        identity = row_id(text, texts.name, index)

        def compute() -> AdversarialRow:
            seed_generators(self.seed, identity)
            attack = self.recipe.build(self.parts)
            result = attack.attack(text, label)
            return make_row(
                result,
                text,
                label,
                id=identity,
                dataset=texts.name,
                split=texts.split,
                index=index,
                stopped_by=attack.goal_function.stopped_by,
                **self.facts,
            )

        return Task(compute, weight=max(1, len(text.split())))


def row_facts(parts: Parts, recipe: Recipe, seed: int) -> dict[str, Any]:
    """The columns that all rows of a run share."""
    goal = parts.goal
    parameters = dict(recipe.parameters)
    if added := RECIPES.add_on(recipe.name):
        parameters["add_on"] = added
    if parts.hashes:
        parameters["artifacts"] = dict(sorted(parts.hashes.items()))
    return {
        "goal": goal.kind,
        "min_confidence": goal.min_confidence,
        "target_class": goal.target_class,
        "evaded": goal.evasion.facts if goal.evasion else None,
        "query_limit": goal.query_limit,
        "seconds_limit": goal.seconds_limit,
        "recipe": recipe.name,
        "recipe_parameters": json.dumps(parameters, sort_keys=True),
        "victim": parts.victim.name,
        "victim_hash": parts.victim.hash,
        "seed": seed,
        "textattack_version": textattack_version(),
    }


def make_row(result: Any, text: str, label: int, **facts: Any) -> AdversarialRow:
    """The row of a TextAttack `AttackResult`.

    Args:
        result: What `Attack.attack` returned.
        text: The source text.
        label: Its gold label.
        **facts: The columns that the result does not hold.
    """
    before, after = result.original_result, result.perturbed_result
    # Not `AttackedText.text`: what the victim was asked about is what counts.
    perturbed = after.attacked_text.tokenizer_input
    changed, percent = compare_words(text, perturbed)
    probabilities = [np.asarray(side.raw_output, dtype=np.float64).tolist() for side in (before, after)]
    return AdversarialRow(
        label=label,
        original_text=text,
        perturbed_text=perturbed,
        changed_positions=changed,
        original_output=int(before.output),
        perturbed_output=int(after.output),
        original_score=1.0 - probabilities[0][label],
        perturbed_score=1.0 - probabilities[1][label],
        original_probabilities=probabilities[0],
        perturbed_probabilities=probabilities[1],
        result=_RESULTS[type(result).__name__],
        queries=int(result.num_queries),
        words_changed_percent=percent,
        **facts,
    )


def seed_generators(seed: int, identity: str) -> None:
    """Seed every generator a recipe may use, from the run's seed and the text: order and resuming don't matter."""
    import torch

    number = int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode()).digest()[:4], "little")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 (TextAttack draws from the global generator)
    torch.manual_seed(number)
