import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textadv.joining import Ended, Oracle, Task, elapsed, run_together


def together(computations: Sequence[Any], *, room: int = 100, weights: Sequence[int] | None = None) -> list[Ended[Any]]:
    tasks = [Task(c, w) for c, w in zip(computations, weights or [1] * len(computations), strict=True)]
    return sorted(run_together(tasks, room=room), key=lambda ended: ended.place)


class Counting:
    """Squares numbers, and says in which batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, numbers: list[int]) -> list[int]:
        self.batches.append(numbers)
        return [number**2 for number in numbers]


@given(
    st.lists(st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=5), max_size=7),
    st.integers(1, 9),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_computations_cannot_tell_that_they_are_not_alone(
    scripts: list[list[list[int]]], room: int, remember: bool
) -> None:
    """Each asks its lists in turn, draws a number after each answer, and returns all it saw."""

    def computation(oracle: Oracle[int, int], number: int, script: list[list[int]]) -> Any:
        def run() -> list[Any]:
            random.seed(number)
            np.random.seed(number)  # noqa: NPY002
            torch.manual_seed(number)
            seen: list[Any] = []
            for asked in script:
                seen.append(oracle.ask(asked))
                seen += [random.random(), np.random.random(), torch.rand(1).item()]  # noqa: NPY002
            return seen

        return run

    alone = Oracle(lambda numbers: [n**2 for n in numbers])
    expected = [computation(alone, number, script)() for number, script in enumerate(scripts)]
    counting = Counting()
    joined = Oracle(counting, remember=remember)
    outside = random.getstate(), torch.get_rng_state()
    found = together([computation(joined, number, script) for number, script in enumerate(scripts)], room=room)
    assert [ended.outcome for ended in found] == expected
    assert all(ended.error is None for ended in found)
    assert random.getstate() == outside[0]
    assert torch.equal(torch.get_rng_state(), outside[1])
    asked = [number for batch in counting.batches for number in batch]
    assert all(len(set(batch)) == len(batch) for batch in counting.batches)
    assert joined.asked == len(asked)
    if remember:
        assert sorted(asked) == sorted({n for script in scripts for part in script for n in part})


def test_questions_share_calls_and_room_bounds_them() -> None:
    def computation(oracle: Oracle[int, int], number: int) -> Any:
        return lambda: [oracle.ask([10 * number + step]) for step in range(3)]

    counting = Counting()
    together([computation(Oracle(counting), 0)])
    assert [len(batch) for batch in counting.batches] == [1, 1, 1]
    counting = Counting()
    oracle = Oracle(counting)
    together([computation(oracle, number) for number in range(8)])
    assert [len(batch) for batch in counting.batches] == [8, 8, 8]
    assert oracle.calls == 3
    counting = Counting()
    oracle = Oracle(counting)
    together([computation(oracle, number) for number in range(8)], room=10, weights=[4, 4, 4, 4, 25, 1, 1, 1])
    # 4 + 4; 4 + 4; the heavy one alone; then the light ones, which wait for their turn.
    starts = [[0, 10], [20, 30], [40], [50, 60, 70]]
    assert counting.batches == [[number + step for number in start] for start in starts for step in range(3)]


def test_same_computations_ask_the_same_batches() -> None:
    def run() -> list[list[int]]:
        counting = Counting()
        oracle = Oracle(counting)

        def computation(number: int) -> Any:
            def compute() -> None:
                draw = random.Random(number)
                for _ in range(draw.randint(1, 6)):
                    oracle.ask([draw.randint(0, 50) for _ in range(draw.randint(1, 5))])

            return compute

        together([computation(number) for number in range(20)], room=6)
        return counting.batches

    assert run() == run()


def test_an_error_ends_its_own_computation_only() -> None:
    def refuse_seven(numbers: list[int]) -> list[int]:
        if 7 in numbers:
            raise ValueError("seven")
        return [number**2 for number in numbers]

    oracle = Oracle(refuse_seven)

    def asks(*numbers: int) -> Any:
        return lambda: oracle.ask(numbers)

    def survives() -> Any:
        try:
            return oracle.ask([7])
        except ValueError:
            return oracle.ask([8])

    def breaks() -> Any:
        oracle.ask([1])
        raise KeyError("mine")

    found = together([asks(1, 2), asks(3, 7), survives, breaks, asks(4)])
    assert [ended.outcome for ended in found] == [[1, 4], None, [64], None, [16]]
    assert [type(ended.error) for ended in found] == [type(None), ValueError, type(None), KeyError, type(None)]


def test_a_block_without_gradients_is_one_computations_own() -> None:
    """TextAttack asks masked LMs inside `torch.no_grad()`."""
    oracle = Oracle(lambda numbers: numbers)

    def without() -> bool:
        with torch.no_grad():
            oracle.ask([1])
            inside = torch.is_grad_enabled()
            oracle.ask([2])
        return inside or not torch.is_grad_enabled()

    def withs() -> list[bool]:
        return [torch.is_grad_enabled() for number in (3, 4, 5) if oracle.ask([number])]

    found = together([without, withs, without, withs])
    assert [ended.outcome for ended in found] == [False, [True] * 3, False, [True] * 3]
    assert torch.is_grad_enabled()


def test_an_interruption_ends_all() -> None:
    oracle = Oracle(lambda numbers: numbers)

    def interrupted() -> None:
        oracle.ask([1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        together([lambda: oracle.ask([2]), interrupted])


def test_time_is_shared_by_what_was_asked() -> None:
    now = [0.0]

    def slow(numbers: list[int]) -> list[int]:
        now[0] += 8.0
        return numbers

    def computation(*numbers: int) -> Any:
        def compute() -> float:
            oracle.ask(numbers)
            now[0] += 0.5
            return elapsed()

        return compute

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("textadv.joining.time.perf_counter", lambda: now[0])
        oracle = Oracle(slow)
        found = together([computation(1), computation(2, 3, 4)])
    assert [ended.seconds for ended in found] == [2.5, 6.5]
    assert [ended.outcome for ended in found] == [2.5, 6.5]
    assert oracle.seconds == 8.0
    with pytest.raises(RuntimeError):
        elapsed()


def test_forgotten_answers_are_asked_again() -> None:
    counting = Counting()
    oracle = Oracle(counting)
    assert oracle.ask([1, 1, 2]) == [1, 1, 4]
    oracle.ask([2, 1])
    oracle.forget()
    oracle.ask([2])
    assert counting.batches == [[1, 2], [2]]
