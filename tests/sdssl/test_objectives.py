"""Losses of each layer against slow NumPy versions written from the formulas alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdssl.objectives.base import OBJECTIVES
from sdssl.objectives.byol import BYOL
from sdssl.objectives.mocov3 import MoCoV3
from sdssl.objectives.simclr import SimCLR

SIZES = {"layers": st.integers(1, 4), "n": st.integers(2, 6), "d": st.integers(2, 8), "seed": st.integers(0, 10**6)}
TEMPERATURES = st.sampled_from([0.05, 0.2, 1.0])


def draw(layers: int, n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(layers, 2, n, d)), rng.normal(size=(2, n, d))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a, b) / math.sqrt(np.dot(a, a)) / math.sqrt(np.dot(b, b)))


def cross_entropy(logits: list[float], target: int) -> float:
    top = max(logits)
    return math.log(sum(math.exp(value - top) for value in logits)) + top - logits[target]


def slow_moco(outputs: np.ndarray, targets: np.ndarray, tau: float) -> list[float]:
    losses = []
    for layer in outputs:
        total = 0.0
        for view in (0, 1):
            for i, query in enumerate(layer[view]):
                logits = [cosine(query, key) / tau for key in targets[1 - view]]
                total += 2 * tau * cross_entropy(logits, i) / len(layer[view])
        losses.append(total)
    return losses


def slow_byol(outputs: np.ndarray, targets: np.ndarray) -> list[float]:
    return [
        sum(
            (2 - 2 * cosine(query, targets[1 - view][i])) / len(layer[view])
            for view in (0, 1)
            for i, query in enumerate(layer[view])
        )
        for layer in outputs
    ]


def slow_simclr(outputs: np.ndarray, finals: np.ndarray, tau: float) -> list[float]:
    losses = []
    for layer in outputs:
        total = 0.0
        for view in (0, 1):
            for i, anchor in enumerate(layer[view]):
                logits, positive = [], -1
                for other_view in (0, 1):
                    for j, key in enumerate(finals[other_view]):
                        if (other_view, j) == (view, i):
                            continue  # the same view of the same image
                        if j == i:
                            positive = len(logits)
                        logits.append(cosine(anchor, key) / tau)
                total += cross_entropy(logits, positive) / len(layer[view])
        losses.append(total)
    return losses


@settings(max_examples=30, deadline=None)
@given(**SIZES, tau=TEMPERATURES)
def test_moco_is_the_formula(layers: int, n: int, d: int, seed: int, tau: float) -> None:
    outputs, targets = draw(layers, n, d, seed)
    found = MoCoV3(tau)(torch.tensor(outputs), torch.tensor(targets))
    np.testing.assert_allclose(found.numpy(), slow_moco(outputs, targets, tau), rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(**SIZES)
def test_byol_is_the_formula(layers: int, n: int, d: int, seed: int) -> None:
    outputs, targets = draw(layers, n, d, seed)
    found = BYOL()(torch.tensor(outputs), torch.tensor(targets))
    np.testing.assert_allclose(found.numpy(), slow_byol(outputs, targets), rtol=1e-9, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(**SIZES, tau=TEMPERATURES)
def test_simclr_is_the_formula(layers: int, n: int, d: int, seed: int, tau: float) -> None:
    outputs, _ = draw(layers, n, d, seed)
    found = SimCLR(tau)(torch.tensor(outputs), torch.tensor(outputs[-1]))
    # A loss near 0 is a difference of large logits.
    np.testing.assert_allclose(found.numpy(), slow_simclr(outputs, outputs[-1], tau), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_the_offset_says_which_targets_are_own(name: str) -> None:
    """The losses of a part of the batch against all targets average to those of the whole."""
    outputs, targets = (torch.tensor(values) for values in draw(3, 6, 5, 1))
    objective = OBJECTIVES.get(name)()
    if not objective.info.teacher:
        targets = outputs[-1]
    whole = objective(outputs, targets)
    halves = [objective(outputs[:, :, start : start + 3], targets, start) for start in (0, 3)]
    torch.testing.assert_close(sum(halves) / 2, whole)


@pytest.mark.parametrize("name", ["mocov3", "byol"])
def test_no_gradient_reaches_a_teacher(name: str) -> None:
    outputs, targets = (torch.tensor(values, requires_grad=True) for values in draw(2, 4, 5, 0))
    OBJECTIVES.get(name)()(outputs, targets).sum().backward()
    assert targets.grad is None
    assert outputs.grad is not None
    assert outputs.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_lower_layers_of_simclr_do_not_pull_the_last_one() -> None:
    outputs = torch.tensor(draw(3, 4, 5, 0)[0])
    lower, last = outputs[:2].requires_grad_(), outputs[2:].clone().requires_grad_()
    SimCLR()(torch.cat([lower, last]), last[-1])[:2].sum().backward()
    assert lower.grad is not None
    # The last layer's part is in the graph, with a gradient of zero.
    assert last.grad is None or last.grad.abs().max() == 0
    SimCLR()(torch.cat([lower, last]), last[-1])[2].backward()
    assert last.grad is not None
    assert last.grad.abs().max() > 0


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_scale_of_the_projections_does_not_count(name: str) -> None:
    outputs, targets = (torch.tensor(values) for values in draw(2, 4, 5, 3))
    objective = OBJECTIVES.get(name)()
    torch.testing.assert_close(objective(7 * outputs, 0.1 * targets), objective(outputs, targets))


def test_facts_of_the_objectives() -> None:
    facts = {name: OBJECTIVES.get(name).info for name in OBJECTIVES.names()}
    assert {name for name, info in facts.items() if info.teacher} == {"byol", "mocov3"}
    assert {name for name, info in facts.items() if info.predictor} == {"byol", "mocov3"}
    assert {name: info.alpha for name, info in facts.items()} == {"simclr": 0.8, "byol": 0.8, "mocov3": 1.0}
    assert {name for name, info in facts.items() if not info.last_norm} == {"byol"}
