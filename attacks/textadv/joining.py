"""Many computations in flight in one thread, their questions to slow models asked together.

A computation runs as plain sequential code in a greenlet. Where it asks an `Oracle` (a victim, a sentence encoder,
a masked language model), it is set aside; when every computation in flight waits, each oracle is asked once for all
that is wanted of it, without what it was asked before, and all go on. The computations cannot tell: each has its
own random state and its own clock, and what it is answered does not depend on the others but for the last digits
that batches of another shape bring. Which questions meet in a batch is a function of the computations alone, so the
same ones give the same answers to the last bit on the same machine.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import greenlet
import numpy as np

Question = TypeVar("Question", bound=Hashable)
Answer = TypeVar("Answer")
Outcome = TypeVar("Outcome")


class Oracle(Generic[Question, Answer]):
    """Something that answers many questions at once cheaper than one by one.

    Outside of `run_together` it answers on the spot.

    Args:
        answer: From n distinct questions to n answers; an answer depends on its question alone.
        remember: Whether a question that was answered is never asked again, until `forget`.
        joined: Whether to wait for the questions of others; not worth it for what answers one at a time.

    Attributes:
        asked: How many distinct questions were answered.
        calls: In how many calls of `answer`.
        seconds: Seconds spent in `answer`.
    """

    def __init__(
        self, answer: Callable[[list[Question]], Sequence[Answer]], *, remember: bool = True, joined: bool = True
    ) -> None:
        self._answer = answer
        self._joined = joined
        self._remember = remember
        self._known: dict[Question, Answer] = {}
        self.asked = 0
        self.calls = 0
        self.seconds = 0.0

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """The answers to `questions`, in their order; equal ones are asked once."""
        unknown = [question for question in dict.fromkeys(questions) if question not in self._known]
        answers: dict[Question, Answer] = {}
        if unknown:
            computation = greenlet.getcurrent()
            if self._joined and isinstance(computation, _Computation):
                assert computation.parent is not None
                answers = computation.parent.switch(_Wanted(self, unknown))
            else:
                answers, _ = self.learn(unknown)
        return [self._known[question] if question in self._known else answers[question] for question in questions]

    def learn(self, questions: Sequence[Question]) -> tuple[dict[Question, Answer], float]:
        """Answer what is not known yet: the new answers, and the seconds they took."""
        unknown = [question for question in dict.fromkeys(questions) if question not in self._known]
        if not unknown:
            return {}, 0.0
        started = time.perf_counter()
        answers = dict(zip(unknown, self._answer(unknown), strict=True))
        seconds = time.perf_counter() - started
        if self._remember:
            self._known.update(answers)
        self.asked += len(unknown)
        self.calls += 1
        self.seconds += seconds
        return answers, seconds

    def forget(self) -> None:
        """Drop all remembered answers."""
        self._known.clear()


@dataclass(frozen=True)
class Task(Generic[Outcome]):
    """A computation to run.

    Attributes:
        compute: Called without arguments; may ask oracles.
        weight: Its share of the room, in the unit of `run_together`'s `room`.
    """

    compute: Callable[[], Outcome]
    weight: int = 1


@dataclass(frozen=True)
class Ended(Generic[Outcome]):
    """A computation that came to its end.

    Attributes:
        place: Its position among the tasks.
        outcome: What it returned; None where it raised.
        error: What it raised.
        seconds: Time of its own, and its share of the answers it waited for.
    """

    place: int
    outcome: Outcome | None
    error: Exception | None
    seconds: float


class _Wanted:
    def __init__(self, oracle: Oracle[Any, Any], questions: list[Any]) -> None:
        self.oracle = oracle
        self.questions = questions


class _Computation(greenlet.greenlet):
    """A task in flight."""

    def __init__(self, place: int, task: Task[Any]) -> None:
        super().__init__(self._compute)
        self.place = place
        self.task = task
        self.seconds = 0.0
        self.wanted: _Wanted | None = None
        self.raised: Exception | None = None
        self._resumed = 0.0
        self._state = _State()

    def _compute(self) -> Any:
        try:
            return self.task.compute()
        except Exception as error:  # noqa: BLE001 (handed to whoever runs the tasks)
            self.raised = error
            return None

    def go_on(self, answers: dict[Any, Any] | Exception | None) -> Any:
        """Run until it asks or ends: its outcome, or None with `wanted` set."""
        begun, self.wanted = self.wanted is not None, None
        outside = _State()
        self._state.restore()
        self._resumed = time.perf_counter()
        if isinstance(answers, Exception):
            found = self.throw(answers)
        else:
            found = self.switch(answers) if begun else self.switch()
        self.seconds += time.perf_counter() - self._resumed
        self._state = _State()
        outside.restore()
        if isinstance(found, _Wanted):
            self.wanted = found
            return None
        return found

    def elapsed(self) -> float:
        """Seconds so far, while it runs."""
        return self.seconds + time.perf_counter() - self._resumed


def elapsed() -> float:
    """Seconds that the computation which calls this has taken: its own, and its share of the answers it waited for.

    Raises:
        RuntimeError: It is not called by a computation of `run_together`.
    """
    computation = greenlet.getcurrent()
    if not isinstance(computation, _Computation):
        raise RuntimeError("no computation of run_together is running")
    return computation.elapsed()


def run_together(tasks: Sequence[Task[Outcome]], *, room: int) -> Iterator[Ended[Outcome]]:
    """Run computations side by side and yield each as it ends.

    They start in order, as many as have room; the next starts when another ends. A computation that raises ends
    alone. Where an oracle cannot answer all that is wanted of it, it is asked for each computation apart, and those it
    cannot answer are raised to.

    Args:
        tasks: What to run.
        room: The weight that may be in flight; one task is, however heavy.
    """
    coming = iter(enumerate(tasks))
    following = next(coming, None)
    flight: list[_Computation] = []
    ready: list[tuple[_Computation, dict[Any, Any] | Exception | None]] = []
    while flight or following:
        while following and (not flight or sum(c.task.weight for c in flight) + following[1].weight <= room):
            computation = _Computation(*following)
            flight.append(computation)
            ready.append((computation, None))
            following = next(coming, None)
        for computation, answers in ready:
            outcome = computation.go_on(answers)
            if computation.dead:
                flight.remove(computation)
                yield Ended(computation.place, outcome, computation.raised, computation.seconds)
        ready = []
        if not following or sum(c.task.weight for c in flight) + following[1].weight > room:
            ready = list(_answer([c for c in flight if c.wanted]))


def _answer(waiting: list[_Computation]) -> Iterator[tuple[_Computation, dict[Any, Any] | Exception]]:
    """Ask every oracle for all that is wanted of it; who can go on, and with which answers or error."""
    for oracle in dict.fromkeys(c.wanted.oracle for c in waiting if c.wanted):
        wanted = {c: c.wanted.questions for c in waiting if c.wanted and c.wanted.oracle is oracle}
        try:
            answers, seconds = oracle.learn([question for questions in wanted.values() for question in questions])
        except Exception:  # noqa: BLE001 (asked again, one by one, to learn whose question it was)
            for asker, questions in wanted.items():
                try:
                    answers, seconds = oracle.learn(questions)
                except Exception as error:  # noqa: BLE001 (raised where it was asked)
                    yield asker, error
                else:
                    asker.seconds += seconds
                    yield asker, answers
            continue
        total = sum(map(len, wanted.values()))
        for asker, questions in wanted.items():
            asker.seconds += seconds * len(questions) / total
            yield asker, answers


@dataclass(frozen=True)
class _State:
    """What a computation may change for all: the generators that TextAttack draws from, and whether gradients are kept.

    It is as it is when this is made.
    """

    python: Any = field(default_factory=random.getstate)
    numpy: Any = field(default_factory=np.random.get_state)
    torch: Any = field(default_factory=lambda: _torch().get_rng_state())
    gradients: bool = field(default_factory=lambda: _torch().is_grad_enabled())

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002 (the global generator is the one that is drawn from)
        _torch().set_rng_state(self.torch)
        _torch().set_grad_enabled(self.gradients)


def _torch() -> Any:
    import torch

    return torch
