"""Two sets of adversarial rows side by side: rates, what both did to the same texts, and how their settings differ."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.core.errors import DataError
from harness.core.files import read_json
from harness.core.runs import MANIFEST, known_config
from harness.core.stats import iter_cluster_weights, percentile_interval
from harness.text.adversarial import SETTINGS, AdversarialRow, read_rows, summarise
from harness.text.datasets import source_key

_REPLICATES = 2000
_LEVEL = 0.95
# What a run's configuration knows and its rows do not.
_RUN_SETTINGS = ("command", "dataset_hash", "max_length", "dtype", "batch_size", "shard_size", "room")


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; None where nothing can be said.

    Attributes:
        value: The figure.
        low: Lower bound.
        high: Upper bound.
        n: Rows it stands on.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class SetFigures:
    """One set's figures.

    Attributes:
        name: What the set is called: its folder or file.
        texts: Rows in all.
        successes: Successful attacks.
        failures: Failed ones.
        maximized: Attacks that look for a best and not for a flip.
        skipped: Texts that were not attacked.
        accuracy: Of the victim, on all texts; Wilson's interval.
        accuracy_under_attack: The same on the attacked texts.
        success_rate: Successes among attacked texts; Wilson's interval.
        queries: Median over attacked texts; None where none was attacked.
        words_changed_percent: Median over successes.
    """

    name: str
    texts: int
    successes: int
    failures: int
    maximized: int
    skipped: int
    accuracy: Estimate
    accuracy_under_attack: Estimate
    success_rate: Estimate
    queries: float | None
    words_changed_percent: float | None


@dataclass(frozen=True)
class PairedFigures:
    """What two sets did to the texts that are in both.

    Attributes:
        by: Rows are paired by `id`, or by source `text` where no id is in both sets.
        texts: Texts in both sets.
        attacked: Texts that both attacked.
        only_a_attacked: Texts that the second set skipped.
        only_b_attacked: Texts that the first set skipped.
        both: Both attacks succeeded, of the texts that both attacked, like the next four.
        only_a: Only the first did.
        only_b: Only the second did.
        neither: None did.
        p_value: McNemar's exact test that neither succeeds more often; None where no text tells them apart.
        queries: Mean of (second - first) over texts that both attacked; bootstrap over source texts.
        words_changed_percent: The same of words changed, over texts where both succeeded.
        identical: Texts that both attacked and perturbed into the same text.
        identical_successes: Texts where both succeeded with the same text.
    """

    by: Literal["id", "text"]
    texts: int
    attacked: int
    only_a_attacked: int
    only_b_attacked: int
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float | None
    queries: Estimate
    words_changed_percent: Estimate
    identical: int
    identical_successes: int


@dataclass(frozen=True)
class SettingDifference:
    """A setting that is not the same in both sets; several values of one set stand in a list."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class SetComparison:
    """Two sets side by side.

    Attributes:
        a: Figures of the first set.
        b: Figures of the second.
        paired: What both did to the same texts; None where they share none.
        differences: Settings that differ.
    """

    a: SetFigures
    b: SetFigures
    paired: PairedFigures | None
    differences: list[SettingDifference]

    def as_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return asdict(self)


def compare_sets(first: Path, second: Path, *, seed: int = 0) -> SetComparison:
    """Compare two sets of adversarial rows.

    Args:
        first: A run folder, or a file of rows.
        second: Another.
        seed: Seed of the bootstrap.

    Raises:
        MissingFileError: There are no rows.
        DataError: A set is empty, or has a row twice.
    """
    a, b = read_rows(first), read_rows(second)
    names = (str(first), str(second))
    return SetComparison(
        set_figures(names[0], a),
        set_figures(names[1], b),
        paired_figures(a, b, names=names, seed=seed),
        _differences(_settings(first, a), _settings(second, b)),
    )


def set_figures(name: str, rows: Sequence[AdversarialRow]) -> SetFigures:
    """The figures of one set.

    Raises:
        DataError: There are no rows.
    """
    found = summarise(rows)
    right = sum(row.original_output == row.label for row in rows)
    right_after = sum(row.perturbed_output == row.label for row in rows)
    return SetFigures(
        name,
        found.texts,
        found.successes,
        found.failures,
        found.maximized,
        found.skipped,
        _rate(right, found.texts),
        _rate(right_after, found.texts),
        _rate(found.successes, found.texts - found.skipped),
        _median([row.queries for row in rows if row.result != "skipped"]),
        _median([row.words_changed_percent for row in rows if row.result == "success"]),
    )


def paired_figures(
    a: Sequence[AdversarialRow], b: Sequence[AdversarialRow], *, names: tuple[str, str] = ("A", "B"), seed: int = 0
) -> PairedFigures | None:
    """What two sets did to the same source texts; None where they share none.

    Args:
        a: The first set.
        b: The second.
        names: What they are called in messages.
        seed: Seed of the bootstrap.

    Raises:
        DataError: A set has an id twice.
    """
    from scipy.stats import binomtest

    by: Literal["id", "text"] = "id"
    keyed = _by_id(a, names[0]), _by_id(b, names[1])
    if not keyed[0].keys() & keyed[1].keys():
        by, keyed = "text", (_by_text(a), _by_text(b))
    common = [(row, keyed[1][key]) for key, row in keyed[0].items() if key in keyed[1]]
    if not common:
        return None
    tried = Counter((x.result != "skipped", y.result != "skipped") for x, y in common)
    pairs = [(x, y) for x, y in common if "skipped" not in (x.result, y.result)]
    won = Counter((x.result == "success", y.result == "success") for x, y in pairs)
    apart = won[True, False] + won[False, True]
    winners = [(x, y) for x, y in pairs if x.result == y.result == "success"]
    return PairedFigures(
        by=by,
        texts=len(common),
        attacked=len(pairs),
        only_a_attacked=tried[True, False],
        only_b_attacked=tried[False, True],
        both=won[True, True],
        only_a=won[True, False],
        only_b=won[False, True],
        neither=won[False, False],
        p_value=float(binomtest(won[True, False], apart, 0.5).pvalue) if apart else None,
        queries=_mean_difference(pairs, lambda row: row.queries, seed),
        words_changed_percent=_mean_difference(winners, lambda row: row.words_changed_percent, seed),
        identical=sum(x.perturbed_text == y.perturbed_text for x, y in pairs),
        identical_successes=sum(x.perturbed_text == y.perturbed_text for x, y in winners),
    )


def _by_id(rows: Sequence[AdversarialRow], name: str) -> dict[Any, AdversarialRow]:
    found: dict[Any, AdversarialRow] = {}
    for row in rows:
        if row.id in found:
            raise DataError(
                f"{name} has row {row.id} twice: several attacks in one set cannot be paired with another.",
                "Compare sets of one attack; `harness attack verify` names the rows that are there twice.",
            )
        found[row.id] = row
    return found


def _by_text(rows: Sequence[AdversarialRow]) -> dict[Any, AdversarialRow]:
    """By text and label; the same text several times pairs in order."""
    count: defaultdict[Any, int] = defaultdict(int)
    found: dict[Any, AdversarialRow] = {}
    for row in rows:
        key = row.original_text, row.label
        found[*key, count[key]] = row
        count[key] += 1
    return found


def _rate(hits: int, n: int) -> Estimate:
    """A share with Wilson's interval."""
    from scipy.stats import binomtest

    if not n:
        return Estimate(None, None, None, 0)
    interval = binomtest(hits, n).proportion_ci(_LEVEL, method="wilson")
    return Estimate(hits / n, float(interval.low), float(interval.high), n)


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _mean_difference(
    pairs: Sequence[tuple[AdversarialRow, AdversarialRow]], read: Callable[[AdversarialRow], float], seed: int
) -> Estimate:
    if not pairs:
        return Estimate(None, None, None, 0)
    values = np.array([read(y) - read(x) for x, y in pairs], dtype=np.float64)
    _, clusters = np.unique([source_key(x.original_text) for x, _ in pairs], return_inverse=True)
    means = [
        (weights * values).sum(axis=1) / weights.sum(axis=1)
        for weights in iter_cluster_weights(clusters, _REPLICATES, seed)
    ]
    low, high = percentile_interval(np.concatenate(means), _LEVEL)
    # One source text says nothing of how others vary.
    known = len(np.unique(clusters)) > 1
    return Estimate(float(values.mean()), low if known else None, high if known else None, len(values))


def _settings(path: Path, rows: Sequence[AdversarialRow]) -> dict[str, Any]:
    """What made a set, by name: from its rows, and where it is a run from its configuration and manifest."""
    found: dict[str, Any] = {}
    for name in SETTINGS:
        values = sorted({getattr(row, name) for row in rows}, key=lambda value: (value is not None, str(value)))
        found[name] = values[0] if len(values) == 1 else values
    if isinstance(found["recipe_parameters"], str):
        found |= _parameters(found.pop("recipe_parameters"))
    folder = path if path.is_dir() else path.parent
    config = known_config(folder)
    found |= {name: config[name] for name in _RUN_SETTINGS if name in config}
    manifest = dict(read_json(folder / MANIFEST)) if config and (folder / MANIFEST).is_file() else {}
    for name, version in manifest.get("versions", {}).items():
        if name != "textattack":  # the rows have it
            found[f"version of {name}"] = version
    hardware = manifest.get("hardware", {})
    found |= {name: hardware[name] for name in ("processor", "accelerator") if name in hardware}
    return found


def _parameters(text: str) -> dict[str, Any]:
    """The parameters of a recipe one by one, so that only those that differ are shown."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        return {"recipe_parameters": text}
    return {f"parameter {name}": value for name, value in values.items()}


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[SettingDifference]:
    return [
        SettingDifference(name, a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]
