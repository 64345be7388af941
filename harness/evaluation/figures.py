"""ROC and score-histogram pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.core.pictures import COLOURS, new_figure, save_figure
from harness.evaluation.detection import AttackResult
from harness.evaluation.metrics import roc_points

_DASHES = ("-", "--", "-.", ":")
_FEW = 5  # detectors whose names leave room for their curves


def draw_roc(result: AttackResult, path: Path) -> None:
    """Draw the ROC curves of all detectors on the first seed's sample."""
    many = len(result.detectors) > _FEW
    figure, axes = new_figure(1, size=(9.0, 4.8) if many else None)
    for number, detector in enumerate(result.detectors):
        seed = detector.seeds[0]
        fpr, tpr = roc_points(seed.scores, seed.adversarial)
        auc = detector.rows[0]["metrics"]["auc"]["value"]
        # Straight from threshold to threshold: under the slope over tied scores they count half, as in the AUC.
        axes[0].plot(fpr, tpr, **_style(number), label=f"{detector.title}  AUC {100 * auc:.1f}")
    axes[0].plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
    axes[0].axvline(0.1, color="0.6", linewidth=0.8, linestyle=":")
    axes[0].set(xlabel="false-positive rate", ylabel="true-positive rate", xlim=(-0.01, 1), ylim=(0, 1.01))
    axes[0].set_title(_title(result))
    if many:  # their names would hide the curves
        figure.legend(loc="outside right center", frameon=False)
    else:
        axes[0].legend(loc="lower right", frameon=False)
    save_figure(figure, path)


def draw_histograms(result: AttackResult, path: Path) -> None:
    """Draw the scores of clean and adversarial texts, a panel a detector, on the first seed's sample.

    Scores are squeezed by signed log where their range asks for it; the dashed line is the threshold that
    held-out clean texts set for a false-positive rate of 10 %.
    """
    figure, axes = new_figure(len(result.detectors))
    for axis, detector in zip(axes, result.detectors, strict=True):
        seed = detector.seeds[0]
        values = seed.scores[np.isfinite(seed.scores)]
        wide = values.min() > 0 and values.max() / max(values.min(), 1e-12) > 50
        edges = np.histogram_bin_edges(np.log10(values) if wide else values, bins=40)
        edges = 10**edges if wide else edges
        for adversarial, colour, name in ((False, COLOURS[0], "clean"), (True, COLOURS[1], "adversarial")):
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
    save_figure(figure, path)


def _title(result: AttackResult) -> str:
    row = result.detectors[0].rows[0]
    return (
        f"{row['recipe']} on {row['dataset']}, victim {row['victim']}\n{row['scenario'].upper()}, seed {row['seed']}: "
        f"{row['n_adversarial']} adversarial, {row['n_clean']} clean"
    )


def _style(number: int) -> dict[str, str]:
    """The look of a curve, another one for each of some dozens."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": _DASHES[number // len(COLOURS) % len(_DASHES)],
    }
