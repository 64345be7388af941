"""Does self-distillation help, and at which layers? Pairs of runs that differ in nothing else, compared over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError
from harness.core.files import hash_json
from harness.core.pictures import COLOURS, new_figure, save_figure
from harness.core.rows import Row

LEVEL = 0.95
# In what a pair of training runs may differ; what is not in a baseline's settings at all is about distillation.
_MAY_DIFFER = {"seed", "self_distill", "active_layers", "layers", "sizes", "alpha", "alpha_schedule", "norm"}
_MAY_DIFFER |= {"head_width", "shared_heads"}
_BASELINE, _DISTILLED = COLOURS[5], COLOURS[1]


@dataclass(frozen=True)
class Comparison:
    """Baseline and self-distilled runs of one objective, read by one protocol on one dataset.

    Attributes:
        eval_dataset: What the layers were read on.
        train_dataset: What the encoders were trained on.
        arch: Their architecture.
        objective: Their objective.
        protocol: The reading, such as "knn-20".
        pooling: What was read of a layer.
        seeds: S training seeds, each with both runs.
        layers: L layer numbers.
        baseline: (S, L) top-1 without self-distillation.
        distilled: (S, L) top-1 with it.
    """

    eval_dataset: str
    train_dataset: str
    arch: str
    objective: str
    protocol: str
    pooling: str
    seeds: tuple[int, ...]
    layers: tuple[int, ...]
    baseline: NDArray[np.float64]
    distilled: NDArray[np.float64]

    @property
    def difference(self) -> NDArray[np.float64]:
        """(L,) mean over seeds of self-distilled minus baseline."""
        return np.asarray((self.distilled - self.baseline).mean(axis=0))

    @property
    def low(self) -> slice:
        """Where the lowest third of the layers stands, rounded down, at least one."""
        return slice(0, max(1, len(self.layers) // 3))

    @property
    def between(self) -> slice:
        """Where the layers between those and the last stand; there may be none."""
        return slice(self.low.stop, len(self.layers) - 1)

    def margin(self) -> NDArray[np.float64] | None:
        """(L,) half the width of the 95 % t-interval of the difference over seeds; None with one seed."""
        from scipy import stats

        n = len(self.seeds)
        if n < 2:
            return None
        spread = (self.distilled - self.baseline).std(axis=0, ddof=1) / np.sqrt(n)
        return np.asarray(stats.t.ppf((1 + LEVEL) / 2, n - 1) * spread)


def compare(rows: Sequence[Row], protocol: str, pooling: str) -> list[Comparison]:
    """Pairs up rows of the board "ssl" that differ in self-distillation alone.

    Args:
        rows: Finished rows.
        protocol: The reading to compare by, such as "knn-20" or "linear".
        pooling: What was read of a layer.

    Returns:
        A comparison for each evaluation dataset and kind of run that has a pair, sorted.

    Raises:
        DataError: There is no pair.
    """
    groups: dict[tuple[str, ...], dict[tuple[int, bool], dict[int, float]]] = {}
    images: dict[tuple[Any, ...], Any] = {}
    for row in rows:
        top1 = {
            reading["layer"]: reading["top1"]["value"]
            for reading in row["readings"]
            if (reading["protocol"], reading["pooling"]) == (protocol, pooling)
        }
        if row["objective"] is None or row["seed"] is None or not top1:
            continue
        facts = row["protocol"].get("encoder", {})
        settings = {k: v for k, v in facts.get("settings", {}).items() if k not in _MAY_DIFFER}
        same = hash_json([row["n_train"], row["n_test"], facts.get("train_images"), facts.get("steps"), settings])
        key = (row["eval_dataset"], str(row["train_dataset"]), row["arch"], row["objective"], same)
        groups.setdefault(key, {})[row["seed"], bool(row["self_distill"])] = top1
        # A seed also draws the images of a part of a dataset, so they differ between seeds but not within a pair.
        images[*key, row["seed"], bool(row["self_distill"])] = facts.get("dataset_hash")
    found = []
    for group, runs in sorted(groups.items()):
        eval_dataset, train_dataset, arch, objective, _ = group
        pairs = [seed for seed, distils in runs if distils and (seed, False) in runs]
        seeds = tuple(sorted(seed for seed in pairs if images[*group, seed, True] == images[*group, seed, False]))
        if not seeds:
            continue
        layers = sorted(set.intersection(*(set(runs[seed, way]) for seed in seeds for way in (False, True))))

        def table(way: bool, runs: Any = runs, seeds: Any = seeds, layers: Any = layers) -> NDArray[np.float64]:
            return np.array([[runs[seed, way][layer] for layer in layers] for seed in seeds])

        names = (eval_dataset, train_dataset, arch, objective, protocol, pooling)
        found.append(Comparison(*names, seeds, tuple(layers), table(False), table(True)))
    if not found:
        raise DataError(
            f"no two rows differ in self-distillation alone and hold {protocol!r} on {pooling!r}.",
            "Train both with the same settings and seeds, and read them on the same data.",
        )
    return found


def draw_comparisons(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draws layer curves, a panel a comparison: means over seeds, each seed as a thin line."""
    figure, axes = new_figure(len(comparisons))
    for axis, one in zip(axes, comparisons, strict=True):
        for name, values, colour, dashes, marker in (
            ("baseline", one.baseline, _BASELINE, "--", "o"),
            ("self-distilled", one.distilled, _DISTILLED, "-", "s"),
        ):
            for seed in 100 * values:
                axis.plot(one.layers, seed, color=colour, linewidth=0.7, alpha=0.4, linestyle=dashes)
            mean = 100 * values.mean(axis=0)
            axis.plot(one.layers, mean, color=colour, linestyle=dashes, marker=marker, markersize=4.5, label=name)
        seeds = f"{len(one.seeds)} seeds" if len(one.seeds) > 1 else f"seed {one.seeds[0]}"
        axis.set(title=f"{one.objective}, read on {one.eval_dataset}", xlabel=f"layer ({seeds})")
        axis.set_ylabel(f"{one.protocol} on {one.pooling}, top-1 in %")
        axis.set_xticks(one.layers)
        axis.legend(frameon=False)
    save_figure(figure, path)
