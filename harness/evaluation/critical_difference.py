"""The critical-difference picture: methods on an axis of average ranks, bars joining those not told apart."""

from __future__ import annotations

from pathlib import Path

from harness.core.pictures import COLOURS, new_figure, save_figure
from harness.core.ranks import CriticalDifference

_LINE = 0.30  # inches between two lines of text


def draw_critical_difference(path: Path, found: CriticalDifference, *, title: str = "") -> None:
    """Draw average ranks in the manner of Demšar (JMLR 2006), the best method at the left.

    Args:
        path: The PNG.
        found: The ranks.
        title: What was ranked, such as "AUC over 32 cells, regular".
    """
    count = len(found.names)
    left = (count + 1) // 2
    # Lines below the axis: the bars first, then names, the outermost rank on the lowest shelf of its side.
    bars = len(found.cliques)
    names_from = bars * 0.5 + 1.0
    depth = names_from + max(left, count - left)
    head = 2.2 + (0.8 if title else 0)
    figure, (axis,) = new_figure(1, size=(9.0, _LINE * (depth + head + 1.6)))
    margin = 0.45 * (count - 1) + 0.2
    axis.set(xlim=(1 - margin, count + margin), ylim=(depth + 1.4, -head))
    axis.set_axis_off()

    axis.plot([1, count], [0, 0], color="black", linewidth=1.2)
    step = max(1, -(-count // 15))
    for tick in range(1, count + 1):
        axis.plot([tick, tick], [0, -0.25], color="black", linewidth=1)
        if (tick - 1) % step == 0:
            axis.text(tick, -0.35, str(tick), ha="center", va="bottom", fontsize=9)

    # Wider than the axis, it reaches beyond its end: no two methods can differ then.
    axis.plot([1, 1 + found.difference], [-1.5, -1.5], color=COLOURS[1], linewidth=1.6, solid_capstyle="butt")
    for place in (1.0, 1 + found.difference):
        axis.plot([place, place], [-1.65, -1.35], color=COLOURS[1], linewidth=1.6)
    axis.text(1, -1.75, f"critical difference {found.difference:.2f}", ha="left", va="bottom", fontsize=9)

    beyond = 0.006 * (count - 1)  # so that a bar is seen to hold its ends
    for number, (first, last) in enumerate(found.cliques):
        ends = [found.ranks[first] - beyond, found.ranks[last] + beyond]
        axis.plot(ends, [0.5 * (number + 1)] * 2, color=COLOURS[0], linewidth=3.5, solid_capstyle="round")

    for order, (name, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
        at_left = order < left
        height = names_from + (order if at_left else count - 1 - order)
        edge, side = (1 - 0.05 * margin, "right") if at_left else (count + 0.05 * margin, "left")
        axis.plot([rank, rank, edge], [0, height, height], color="0.35", linewidth=0.9)
        shown = f"{name}  {rank:.2f}" if at_left else f"{rank:.2f}  {name}"
        # The dollar would begin a formula.
        axis.text(edge, height, f" {shown} ".replace("$", r"\$"), ha=side, va="center", fontsize=9)

    left_out = f", {found.left_out} left out" if found.left_out else ""
    axis.text(
        (1 + count) / 2,
        depth + 0.7,
        f"average rank over {found.cells} cells{left_out}; bars join methods that are not told apart (Nemenyi, "
        f"level {found.alpha:g}); Friedman p = {found.friedman.p:.2g}",
        ha="center",
        va="center",
        fontsize=8,
        color="0.3",
    )
    if title:
        axis.set_title(title.replace("$", r"\$"))
    save_figure(figure, path)
