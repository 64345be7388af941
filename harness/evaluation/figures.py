"""ROC and score-histogram pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.core.files import atomic_writer
from harness.evaluation.detection import AttackResult
from harness.evaluation.metrics import roc_points

_WIDTH, _HEIGHT = 6.0, 4.5
# Okabe and Ito's palette, told apart by colour-blind readers as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def draw_roc(result: AttackResult, path: Path) -> None:
    """Draw the ROC curves of all detectors on the first seed's sample."""
    figure, axes = _figure(1)
    for detector, colour in zip(result.detectors, _cycle(len(result.detectors)), strict=True):
        seed = detector.seeds[0]
        fpr, tpr = roc_points(seed.scores, seed.adversarial)
        auc = detector.rows[0]["metrics"]["auc"]["value"]
        axes[0].plot(fpr, tpr, drawstyle="steps-post", color=colour, label=f"{detector.title}  AUC {100 * auc:.1f}")
    axes[0].plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
    axes[0].axvline(0.1, color="0.6", linewidth=0.8, linestyle=":")
    axes[0].set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
    axes[0].set_title(_title(result))
    axes[0].legend(loc="lower right", frameon=False)
    _save(figure, path)


def draw_histograms(result: AttackResult, path: Path) -> None:
    """Draw the scores of clean and adversarial texts, a panel a detector, on the first seed's sample.

    Scores are squeezed by signed log where their range asks for it; the dashed line is the threshold that
    held-out clean texts set for a false-positive rate of 10 %.
    """
    figure, axes = _figure(len(result.detectors))
    for axis, detector in zip(axes, result.detectors, strict=True):
        seed = detector.seeds[0]
        values = seed.scores[np.isfinite(seed.scores)]
        wide = values.min() > 0 and values.max() / max(values.min(), 1e-12) > 50
        edges = np.histogram_bin_edges(np.log10(values) if wide else values, bins=40)
        edges = 10**edges if wide else edges
        for adversarial, colour, name in ((False, _COLOURS[0], "clean"), (True, _COLOURS[1], "adversarial")):
            axis.hist(seed.scores[seed.adversarial == adversarial], edges, alpha=0.55, color=colour, label=name)
        threshold = detector.rows[0]["protocol"]["calibration"]["thresholds"].get("10")
        if threshold is not None:
            axis.axvline(threshold, color="0.2", linestyle="--", linewidth=1, label="held-out threshold, 10 %")
        if wide:
            axis.set_xscale("log")
        axis.set(title=detector.title, xlabel="score", ylabel="texts")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(_title(result))
    _save(figure, path)


def _title(result: AttackResult) -> str:
    row = result.detectors[0].rows[0]
    return (
        f"{row['recipe']} on {row['dataset']}, victim {row['victim']}\n{row['scenario'].upper()}, seed {row['seed']}: "
        f"{row['n_adversarial']} adversarial, {row['n_clean']} clean"
    )


def _cycle(count: int) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    columns = min(panels, 2)
    rows = -(-panels // columns)
    figure = Figure(
        figsize=(_WIDTH * columns / (1 if panels == 1 else 1.2), _HEIGHT * rows / (1 if rows == 1 else 1.3))
    )
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[panels:]:
        spare.set_visible(False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:panels]


def _save(figure: Any, path: Path) -> None:
    with atomic_writer(path) as handle:
        figure.savefig(handle, format="png", dpi=130)
