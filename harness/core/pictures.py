"""What all pictures share: colours, a figure of panels, and how it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.core.files import atomic_writer

# Okabe and Ito's palette, told apart by colour-blind readers as well; their yellow is too pale for a line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def new_figure(
    panels: int, *, columns: int = 2, size: tuple[float, float] | None = None, share: bool = False
) -> tuple[Any, list[Any]]:
    """A figure of equal panels.

    Args:
        panels: How many there are.
        columns: How many stand beside each other at the most.
        size: Width and height of a panel in inches; by default by how many there are.
        share: Whether all panels have the same vertical axis.

    Returns:
        The figure and the axes of its panels.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    columns = min(panels, columns)
    rows = -(-panels // columns)
    width, height = size or (6.4 if panels == 1 else 4.8, 4.8 if rows == 1 else 3.6)
    figure = Figure(figsize=(width * columns, height * rows))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=share).ravel().tolist()
    for spare in axes[panels:]:
        spare.set_visible(False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:panels]


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG, atomically."""
    with atomic_writer(path) as handle:
        figure.savefig(handle, format="png", dpi=130)
