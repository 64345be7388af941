"""The picture of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.core.pictures import COLOURS, new_figure, save_figure

CURVES = "curves.png"
_PANELS = (
    ("loss", "loss, weighted sum"),
    ("online_knn", "online k-NN accuracy"),
    ("alignment", "alignment"),
    ("uniformity", "uniformity"),
    ("rankme", "RankMe"),
    ("feature_std", "feature std"),
)


def draw_curves(lines: Sequence[Mapping[str, float | None]], path: Path) -> None:
    """Draws the loss of each layer and what was watched of the last one against optimiser steps.

    Args:
        lines: Readings, as `sdssl.watch.read_metrics` gives them.
        path: The PNG to write.
    """
    import matplotlib as mpl

    figure, axes = new_figure(2 + len(_PANELS), columns=4, size=(3.3, 3.3))
    layers = [name for name in lines[0] if name.startswith("loss_layer_")]
    shades = mpl.colormaps["viridis"]
    for number, name in enumerate(layers):
        colour = shades(0.9 * number / max(1, len(layers) - 1)) if len(layers) > 1 else COLOURS[0]
        axes[0].plot(*_points(lines, name), color=colour, linewidth=1.2, label=name.removeprefix("loss_layer_"))
    axes[0].set(title="loss of each layer", xlabel="step")
    axes[0].legend(title="layer", fontsize=7, ncols=2, frameon=False)
    for axis, (name, title) in zip(axes[1:], _PANELS, strict=False):
        steps, values = _points(lines, name)
        axis.plot(steps, values, color=COLOURS[0], linewidth=1.2, marker="o" if len(steps) < 40 else None, markersize=3)
        axis.set(title=title, xlabel="step")
        if not steps:
            axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes, color="0.4")
    axes[-1].plot(*_points(lines, "learning_rate"), color=COLOURS[0], label="learning rate")
    other = axes[-1].twinx()
    other.plot(*_points(lines, "alpha"), color=COLOURS[1], linestyle="--", label="alpha")
    axes[-1].set(title="learning rate (line), alpha (dashed)", xlabel="step")
    save_figure(figure, path)


def _points(lines: Sequence[Mapping[str, float | None]], name: str) -> tuple[list[float], list[float]]:
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [float(step or 0) for step, _ in found], [float(value or 0) for _, value in found]
