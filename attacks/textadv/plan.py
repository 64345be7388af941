"""All that an attack is made of, in plain values: a process of its own, here or elsewhere, builds it from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import ConfigurationError
from harness.text.victims import Victim
from textadv.answers import AnswerFile
from textadv.goals import Evasion, Goal, ScoringFunction
from textadv.parts import Parts
from textadv.recipes import RECIPES
from textadv.shards import ShardWorker


@dataclass(frozen=True)
class EvasionPlan:
    """A detector to pass.

    Attributes:
        scoring: Gives the detector's scoring function on a loaded victim; a function of a module, so that other
            processes find it.
        threshold: The highest score that passes.
        facts: What rows say of the detector, as a JSON object.
    """

    scoring: Callable[[Victim], ScoringFunction]
    threshold: float
    facts: str


@dataclass(frozen=True)
class AttackPlan:
    """An attack on a victim, before anything is loaded.

    Attributes:
        victim: A name, folder or hub id that `Victim.load` takes.
        recipe: A name in `RECIPES`.
        seed: Seed of the recipe's random choices.
        max_length: Tokens a text may have; None for what the victim takes.
        dtype: "fp32" or "bf16".
        batch_size: Texts in one forward.
        target_class: See `textadv.goals.Goal`, like the four that follow.
        min_confidence: The confidence to reach.
        query_limit: Queries a text may cost.
        seconds_limit: Seconds a text may take.
        evasion: A detector to pass.
        artifacts: A folder that is looked into first for artifacts.
        answers: A file of answers (`textadv.answers`).
    """

    victim: str
    recipe: str
    seed: int = 0
    max_length: int | None = None
    dtype: str = "fp32"
    batch_size: int = 32
    target_class: int | None = None
    min_confidence: float | None = None
    query_limit: int | None = None
    seconds_limit: float | None = None
    evasion: EvasionPlan | None = None
    artifacts: Path | None = None
    answers: Path | None = None

    def load_victim(self) -> Victim:
        """The victim, loaded."""
        return Victim.load(self.victim, max_length=self.max_length, dtype=self.dtype, batch_size=self.batch_size)

    def build(self, victim: Victim | None = None) -> ShardWorker:
        """Load what is needed and make a worker.

        Args:
            victim: The victim, where it is loaded already.

        Raises:
            ConfigurationError: The goal fits neither recipe nor victim, or the recipe cannot run.
            MissingArtifactError: An artifact is not here.
            DataError: The file of answers cannot be used.
        """
        recipe = RECIPES.get(self.recipe)
        recipe.check()
        victim = victim or self.load_victim()
        if self.target_class is not None and not 0 <= self.target_class < victim.num_labels:
            raise ConfigurationError(
                f"--target-class {self.target_class} is no class of the victim {victim.name!r}.",
                f"It knows 0 to {victim.num_labels - 1}.",
            )
        evasion = self.evasion
        goal = Goal(
            target_class=self.target_class,
            min_confidence=self.min_confidence,
            evasion=Evasion(evasion.scoring(victim), evasion.threshold, evasion.facts) if evasion else None,
            query_limit=self.query_limit,
            seconds_limit=self.seconds_limit,
            input_reduction=recipe.goal == "input-reduction",
        )
        answers = AnswerFile(self.answers) if self.answers else None
        parts = Parts(victim, goal, artifacts=self.artifacts, answers=answers)
        return ShardWorker(parts, recipe, self.seed)
