"""What an attack wants: another label, a given label, far from the boundary, past a detector, within limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.core.errors import ConfigurationError
from textadv.joining import elapsed

# n texts in, n scores out, higher = more adversarial: all that an attack knows of a detector.
ScoringFunction = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class Evasion:
    """A detector that an adversarial text has to pass.

    Attributes:
        score: From n texts to n scores, higher = more adversarial.
        threshold: The highest score that passes.
        facts: What rows say of the detector, as a JSON object.
    """

    score: ScoringFunction
    threshold: float
    facts: str


@dataclass(frozen=True)
class Goal:
    """When an attack on a text has succeeded, and when it has to stop.

    Attributes:
        target_class: The label that is wanted; None for any wrong one.
        min_confidence: Confidence that the victim must have in the wrong label (the far-boundary adversary of ADDMU,
            Yin et al., EMNLP 2022); None for a plain flip.
        evasion: A detector to pass as well; None for no detector.
        query_limit: Queries a text may cost.
        seconds_limit: Seconds a text may take: its own, and its share of joined batches (`joining.elapsed`).
        input_reduction: Instead of all this, keep the label with as few words as possible (Feng et al., EMNLP 2018).

    Raises:
        ConfigurationError: A value that makes no sense, or input reduction with another aim.
    """

    target_class: int | None = None
    min_confidence: float | None = None
    evasion: Evasion | None = None
    query_limit: int | None = None
    seconds_limit: float | None = None
    input_reduction: bool = False

    def __post_init__(self) -> None:
        if self.min_confidence is not None and not 0.0 < self.min_confidence < 1.0:
            raise ConfigurationError(f"--min-confidence {self.min_confidence} is not between 0 and 1.")
        if self.query_limit is not None and self.query_limit < 1:
            raise ConfigurationError(f"--query-limit {self.query_limit} allows no query.")
        if self.seconds_limit is not None and not self.seconds_limit > 0:
            raise ConfigurationError(f"--time-limit {self.seconds_limit} allows no time.")
        aims = (self.target_class, self.min_confidence, self.evasion)
        if self.input_reduction and any(aim is not None for aim in aims):
            raise ConfigurationError(
                "input reduction keeps the label: it has no target, no confidence to reach and no detector to pass.",
                "Use another recipe with --target-class, --min-confidence and --evade.",
            )

    @property
    def kind(self) -> Literal["untargeted", "targeted", "input-reduction"]:
        """The goal's name in rows."""
        if self.input_reduction:
            return "input-reduction"
        return "untargeted" if self.target_class is None else "targeted"

    def build(self, model: Any, *, score: ScoringFunction | None = None) -> Any:
        """A TextAttack goal function.

        Args:
            model: The victim as a `textattack.models.wrappers.ModelWrapper`.
            score: Asks for the detector's scores; by default `evasion.score` itself.

        Returns:
            A goal function with an attribute `stopped_by`: the limit that ended the last attack, or None.
        """
        from textattack.goal_functions import InputReduction

        base = _limited(InputReduction) if self.input_reduction else _limited(_flip())
        options: dict[str, Any] = {"maximizable": True} if self.input_reduction else {}
        # All of a call's texts go out at once; who answers makes the batches. Nothing is remembered here: the one
        # who answers does that with less memory.
        function = base(model, use_cache=False, model_batch_size=2**30, **options)
        function.limits = self
        function.score = score or (self.evasion.score if self.evasion else None)
        return function


def _limited(base: Any) -> Any:
    class Limited(base):  # type: ignore[misc]
        """Ends the search when a limit is reached, through TextAttack's own query budget."""

        limits: Goal
        score: ScoringFunction | None
        stopped_by: Literal["queries", "seconds"] | None = None

        def init_attack_example(self, attacked_text: Any, ground_truth_output: int) -> Any:
            self.stopped_by = None
            self.query_budget = math.inf if self.limits.query_limit is None else self.limits.query_limit
            return super().init_attack_example(attacked_text, ground_truth_output)

        def get_results(self, attacked_text_list: list[Any], check_skip: bool = False) -> Any:
            limit = self.limits.seconds_limit
            if limit is not None and self.stopped_by is None and elapsed() > limit:
                # These are the last: with none at all, search methods have nothing to choose from.
                self.query_budget = min(self.query_budget, self.num_queries + len(attacked_text_list))
                self.stopped_by = "seconds"
            results, over = super().get_results(attacked_text_list, check_skip)
            if over and self.stopped_by is None:
                self.stopped_by = "queries"
            return results, over

    return Limited


def _flip() -> Any:
    from textattack.goal_functions.classification import ClassificationGoalFunction

    class Flip(ClassificationGoalFunction):  # type: ignore[misc]
        """The label changes: to any other or to a given one, by a margin, past a detector.

        Without margin and detector this is TextAttack's untargeted or targeted classification, but for one thing: a
        text that the victim gets wrong is always skipped.
        """

        limits: Goal
        score: ScoringFunction | None

        def _label_changed(self, output: Any) -> bool:
            predicted = int(output.argmax())
            target = self.limits.target_class
            changed = predicted != self.ground_truth_output if target is None else predicted == target
            confidence = self.limits.min_confidence
            return bool(changed) and (confidence is None or float(output[predicted]) >= confidence)

        def _should_skip(self, output: Any, _: Any) -> bool:
            wrong = int(output.argmax()) != self.ground_truth_output
            return wrong or bool(self.ground_truth_output == self.limits.target_class)

        def _is_goal_complete(self, output: Any, attacked_text: Any) -> bool:
            return self._label_changed(output) and (
                self.limits.evasion is None or self._detector_score(attacked_text) <= self.limits.evasion.threshold
            )

        def _get_score(self, output: Any, attacked_text: Any) -> Any:
            """In [0, 1) on the way to the label; from there, with a detector, in [1, 2] on the way past it."""
            if self.limits.evasion is not None and self._label_changed(output):
                threshold = self.limits.evasion.threshold
                excess = (self._detector_score(attacked_text) - threshold) / max(abs(threshold), 1e-6)
                return 1.0 + 0.5 * (1.0 - math.tanh(excess))
            if self.limits.target_class is not None:
                return output[self.limits.target_class]
            if self.limits.min_confidence is not None:
                # The most probable wrong label: with more than two classes 1 - p(label) could rise without it.
                others = [float(p) for label, p in enumerate(output) if label != self.ground_truth_output]
                return max(others)
            return 1 - output[self.ground_truth_output]

        def _detector_score(self, attacked_text: Any) -> float:
            assert self.score is not None
            return float(np.asarray(self.score([attacked_text.tokenizer_input]), dtype=np.float64)[0])

        def _call_model_uncached(self, attacked_text_list: list[Any]) -> Any:
            outputs = super()._call_model_uncached(attacked_text_list)
            if self.score is not None:
                # All at once, so that they share batches; asked for again one by one, they are known.
                changed = [
                    text.tokenizer_input
                    for text, output in zip(attacked_text_list, outputs, strict=True)
                    if self._label_changed(output)
                ]
                if changed:
                    self.score(changed)
            return outputs

    return Flip
