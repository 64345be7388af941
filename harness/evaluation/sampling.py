"""Which rows of an attack are scored: the published sampling protocol, to the row.

Source: Yoo, Kim, Jang, Kwak, "Detection of Word Adversarial Examples in Text Classification: Benchmark and
Baseline via Robust Density Estimation", Findings of ACL 2022, and its public code. Every draw uses NumPy's
legacy generator seeded anew, as that code does, so that one seed names one set of rows; the global generator
is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, UnknownNameError

Scenario = Literal["s1", "s2", "matched"]

_SCENARIOS = ("s1", "s2")
_RESULTS = ("success", "failure", "maximized", "skipped")
# Scenario 1 looks below this share of the rows, so that enough others remain for the clean half.
_LARGEST_RATIO = 0.4
_TARGET_STEP = 10


@dataclass(frozen=True)
class Protocol:
    """Settings that the paper fixes by dataset.

    Attributes:
        target: Adversarial texts aimed at.
        validation_fraction: Share of the rows set aside for detectors that tune.
    """

    target: int
    validation_fraction: float


def published_protocol(dataset: str) -> Protocol:
    """The paper's settings for a dataset.

    Args:
        dataset: Name, with or without an owner and in any spelling: `sst2`, `SST-2`, `stanfordnlp/sst2`.

    Returns:
        Target 1,000 and no validation rows for SST-2; target 2,000 and 30 % validation for all others.
    """
    name = re.sub(r"[^a-z0-9]", "", dataset.lower().rsplit("/", 1)[-1])
    return Protocol(1000, 0.0) if name == "sst2" else Protocol(2000, 0.3)


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows drawn from one attack for one seed; all arrays are int64 positions into the attack's rows.

    Attributes:
        scenario: `s1` (disjoint sources, classes 1:1), `s2` (paired, unbalanced) or `matched` (disjoint sources,
            classes 1:1, paired by confidence; `harness.evaluation.matching`).
        seed: Seed of every draw.
        validation: Rows set aside for tuning, in drawn order.
        test: All other rows, in drawn order.
        subset: Test rows among which the adversarial texts were looked for.
        adversarial: Rows whose perturbed text is scored.
        clean: Rows whose original text is scored, misclassified ones included.
        matching: Of a matched sample, how many texts found a partner (`harness.evaluation.matching.Matching`).
    """

    scenario: Scenario
    seed: int
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    subset: NDArray[np.int64]
    adversarial: NDArray[np.int64]
    clean: NDArray[np.int64]
    matching: dict[str, float] | None = None

    @property
    def unsampled(self) -> NDArray[np.int64]:
        """Test rows in neither the subset nor the clean half, in test order, shape (m,), int64.

        Their original texts have no part in the sample: a threshold may be set on them. A matched sample looks at all
        test rows, and those in neither half are left; they are the more confident ones, not exchangeable with its clean
        half, so a threshold set on them promises nothing for that half.
        """
        searched = self.adversarial if self.scenario == "matched" else self.subset
        return self.test[~np.isin(self.test, np.concatenate([searched, self.clean]))]


def failed_rows(results: Sequence[str], sample: Sample) -> NDArray[np.int64]:
    """Test rows on which the attack failed, in test order, shape (m,), int64.

    Their perturbed texts are a class of their own, neither clean nor adversarial, and are reported apart.

    Args:
        results: `success`, `failure`, `maximized` or `skipped` for each of the attack's rows.
        sample: A sample of those rows.
    """
    failed = np.array([results[row] == "failure" for row in sample.test], dtype=np.bool_)
    return sample.test[failed]


def draw_sample(
    results: Sequence[str],
    scenario: Scenario,
    seed: int,
    *,
    target: int = 2000,
    validation_fraction: float = 0.3,
    include_failures: bool = False,
    sources: Sequence[str] | None = None,
) -> Sample:
    """Draws validation, adversarial and clean rows from one attack.

    The rows are permuted with the seed and split; the test rows, in permuted order, are shuffled with the
    same seed again. Scenario 1 takes its adversarial texts from the first rows and its clean texts from the
    next ones; scenario 2 takes both from the same first rows.

    Args:
        results: `success`, `failure`, `maximized` or `skipped` for each of the attack's rows, length n. A maximized
            row was attacked, but its text keeps its label: it is never adversarial.
        scenario: `s1` or `s2`.
        seed: Seed, 0 to 2**32 - 1.
        target: Adversarial texts aimed at; see `published_protocol`.
        validation_fraction: Share of the rows set aside first, at least 0 and below 1.
        include_failures: Count failed attacks as adversarial too, not the successes alone.
        sources: The source text of each row, where several rows may be of one, which the published protocol does not
            look for: of the rows it draws, those of a validation row's source are then left out, and in scenario 1
            clean texts whose own attacked text is drawn. None for a source of its own each.

    Returns:
        The sample.

    Raises:
        ConfigurationError: If the target, the fraction or the seed is out of range, or the scenario is `matched`.
        DataError: If a result is unknown, or there are too few successes.
        UnknownNameError: If there is no such scenario.
    """
    if scenario == "matched":
        raise ConfigurationError(
            "a matched sample needs the victim's confidences.", "Use harness.evaluation.matching.draw_matched_sample."
        )
    if scenario not in _SCENARIOS:
        raise UnknownNameError("scenario", scenario, [*_SCENARIOS, "matched"])
    outcome, validation, test = split_rows(results, seed, validation_fraction=validation_fraction, target=target)
    succeeded = outcome[test] == "success"
    attacked = outcome[test] != "skipped"
    n, n_success = int(test.size), int(succeeded.sum())
    size = _subset_size(scenario, n, n_success, int(attacked.sum()), target)

    # Seeded again, not carried on: the published code does so, and the rows depend on it.
    shuffled = np.arange(n, dtype=np.int64)
    np.random.RandomState(seed).shuffle(shuffled)
    subset = shuffled[:size]
    counted = attacked & (outcome[test] != "maximized") if include_failures else succeeded
    keys = source_names(sources, outcome.size)
    apart = ~np.isin(keys[test], keys[validation])
    adversarial = subset[(counted & apart)[subset]]
    if adversarial.size == 0:
        raise DataError(
            f"none of the {n_success} successes of {n} test rows is among the {size} drawn with seed {seed}.",
            "Attack more texts.",
        )
    clean = subset[apart[subset]]
    if scenario == "s1":
        others = shuffled[size:]
        other = apart & ~np.isin(keys[test], keys[test[adversarial]])
        clean = others[other[others]][: adversarial.size]
    if clean.size == 0:
        raise DataError(
            f"no clean text of another source is left beside {adversarial.size} adversarial ones.",
            "Attack more texts.",
        )
    return Sample(
        scenario=scenario,
        seed=seed,
        validation=validation,
        test=test,
        subset=test[subset],
        adversarial=test[adversarial],
        clean=test[clean],
    )


def split_rows(
    results: Sequence[str], seed: int, *, validation_fraction: float, target: int
) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.int64]]:
    """Permute an attack's rows and set the validation rows aside, as all scenarios do.

    Args:
        results: `success`, `failure`, `maximized` or `skipped` for each row, length n.
        seed: Seed, 0 to 2**32 - 1.
        validation_fraction: Share of the rows set aside, at least 0 and below 1.
        target: Texts aimed at; only checked.

    Returns:
        The results as an array, the validation rows and the test rows in drawn order.

    Raises:
        ConfigurationError: If the target, the fraction or the seed is out of range.
        DataError: If a result is unknown, or no attack on the test rows succeeded.
    """
    if target < 1 or not 0 <= validation_fraction < 1 or not 0 <= seed < 2**32:
        raise ConfigurationError(
            f"cannot sample with target {target}, validation fraction {validation_fraction} and seed {seed}.",
            "The target is at least 1, the fraction at least 0 and below 1, the seed from 0 to 4294967295.",
        )
    outcome = np.asarray(results, dtype=np.str_).reshape(-1)
    unknown = sorted(set(np.unique(outcome).tolist()) - set(_RESULTS))
    if unknown:
        raise DataError(f"unknown attack result {unknown[0]!r}.", f"Results are one of: {', '.join(_RESULTS)}.")

    indices = np.random.RandomState(seed).permutation(outcome.size).astype(np.int64)
    split_point = int(outcome.size * validation_fraction)
    validation, test = indices[:split_point], indices[split_point:]

    if "success" not in outcome[test]:
        keeps_labels = "maximized" in outcome[test]
        raise DataError(
            f"no attack succeeded on the {test.size} test rows, so there is nothing to detect.",
            "Input reduction keeps every label; use an attack that changes them."
            if keeps_labels
            else "Attack more texts, or another victim.",
        )
    return outcome, validation, test


def source_names(sources: Sequence[str] | None, rows: int) -> NDArray[np.generic]:
    """What names the source of each row, shape (rows,): a number of its own where `sources` is None.

    Raises:
        ValueError: There is not one source for each row.
    """
    names: NDArray[np.generic] = np.arange(rows) if sources is None else np.asarray(sources)
    if names.shape != (rows,):
        raise ValueError(f"there must be one source for each of {rows} rows.")
    return names


def _subset_size(scenario: Scenario, n: int, n_success: int, n_attacked: int, target: int) -> int:
    """Number of test rows to look for adversarial texts in.

    The expressions keep the published order of floating-point operations, since one rounding moves a whole
    row in or out. That the success rate is already a share of all rows, so that dividing by the accuracy as
    well asks for more than the target, is how the protocol is.
    """
    success_rate = n_success / n
    task_accuracy = n_attacked / n
    if scenario == "s2":
        return min(n, int(target / (success_rate * task_accuracy)))

    remaining = target
    ratio = target * (1 / success_rate) * (1 / task_accuracy) / n
    while ratio >= _LARGEST_RATIO and remaining > 0:
        ratio = remaining / n_success
        remaining -= _TARGET_STEP
    if ratio >= _LARGEST_RATIO or remaining < 0:
        raise DataError(
            f"scenario s1 needs more than {n_success} successful attacks "
            f"({n} test rows, {n_attacked} attacked, target {target}).",
            "Attack more texts, or use scenario s2.",
        )
    return int(n * ratio)
