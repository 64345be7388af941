"""Pictures of an encoder's layers: accuracy by layer and cost, geometry, similarity of layers, a map of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.pictures import COLOURS, new_figure, save_figure
from harness.core.rows import Row

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# One of the palette's hues a family of protocols, lighter for more neighbours or more shots.
_SHADES = {
    "knn": ("#0072B2", "#3E9BD0", "#7DBFE3", "#AFD8EF"),
    "linear": ("#D55E00",),
    "fewshot": ("#7FD6BC", "#2FB592", "#006B4E"),
}
_MOST_CLASSES = 20
_MOST_CELLS = 16


def draw_layer_curves(row: Row, path: Path) -> None:
    """Top-1 by layer: a line a protocol with its 95 % interval, a panel a pooling."""
    poolings = _poolings(row)
    figure, axes = new_figure(len(poolings), share=True)
    names = _protocols(row)
    shades = _shades(names)
    for axis, pooling in zip(axes, poolings, strict=True):
        for number, name in enumerate(names):
            found = _readings(row, name, pooling)
            if not found:
                continue
            layers = [entry["layer"] for entry in found]
            value, low, high = _percent(found)
            axis.fill_between(layers, low, high, color=shades[name], alpha=0.12, linewidth=0)
            axis.plot(layers, value, color=shades[name], marker=_marker(number), markersize=4.5, label=name)
        _whole_layers(axis, row)
        axis.set(title=f"pooling {pooling}", xlabel="layer")
    axes[0].set_ylabel("top-1, %")
    _legend(figure, axes)
    figure.suptitle(_title(row, "accuracy by layer, 95 % intervals"))
    save_figure(figure, path)


def draw_exits(row: Row, path: Path) -> None:
    """Accuracy of an exit at each layer against what the forward has cost up to there."""
    flops = {entry["layer"]: entry["flops"] for entry in row["layers"]}
    figure, axes = new_figure(1)
    shown = [name for name in ("linear", "knn-20") if name in _protocols(row)] or _protocols(row)[:2]
    most = max((cost for cost in flops.values() if cost), default=0)
    unit, scale = ("G", 1e9) if most >= 1e8 else ("M", 1e6)
    for dashes, pooling in zip(("-", "--", ":"), _poolings(row), strict=False):
        for number, name in enumerate(shown):
            found = [entry for entry in _readings(row, name, pooling) if flops.get(entry["layer"])]
            if not found:
                continue
            value, low, high = _percent(found)
            cost = [flops[entry["layer"]] / scale for entry in found]
            error = [np.maximum(0, value - low), np.maximum(0, high - value)]
            axes[0].errorbar(
                cost,
                value,
                yerr=error,
                color=_shades(shown)[name],
                marker=_marker(number),
                markersize=5,
                linewidth=1.2,
                linestyle=dashes,
                elinewidth=0.8,
                capsize=2,
                label=f"{name}, {pooling}",
            )
    axes[0].set(xlabel=f"{unit}FLOPs of one item up to the exit (a multiply-add is two)", ylabel="top-1, %")
    axes[0].set_xlim(left=0)
    _legend(figure, axes)
    figure.suptitle(_title(row, "early exits"))
    save_figure(figure, path)


def draw_geometry(row: Row, path: Path) -> None:
    """Alignment, uniformity, effective rank and spread by layer."""
    layers = [entry["layer"] for entry in row["layers"]]
    figure, axes = new_figure(4)
    panels = (
        ("alignment, L2-normalised", (("positive_alignment_l2", "positive"), ("negative_alignment_l2", "negative"))),
        ("alignment, as it is", (("positive_alignment", "positive"), ("negative_alignment", "negative"))),
        ("uniformity (lower is more uniform)", (("uniformity", ""),)),
        ("RankMe (effective rank)", (("rankme", ""),)),
    )
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for number, (key, label) in enumerate(lines):
            values = [np.nan if entry[key] is None else entry[key] for entry in row["layers"]]
            axis.plot(layers, values, color=_colour(number), marker=_marker(number), markersize=4, label=label)
        shown = [entry[key] for entry in row["layers"] for key, _ in lines if entry[key]]
        if title.endswith("as it is") and shown and max(shown) > 30 * min(shown) > 0:
            axis.set_yscale("log")
        if len(lines) > 1:
            axis.legend(frameon=False)
        _whole_layers(axis, row)
        axis.set(title=title, xlabel="layer")
    facts = row["protocol"]["geometry"]
    figure.suptitle(_title(row, f"geometry of {facts['items']} class-balanced items, pooling {facts['pooling']}"))
    save_figure(figure, path)


def draw_cka(row: Row, path: Path) -> None:
    """Linear CKA between the layers, as a heat map."""
    facts = row["protocol"]["cka"]
    matrix, layers = np.array(facts["matrix"]), facts["layers"]
    figure, axes = new_figure(1)
    image = axes[0].imshow(matrix, vmin=0, vmax=1, cmap="cividis", origin="lower")
    ticks = range(0, len(layers), max(1, len(layers) // 12))
    axes[0].set_xticks(ticks, [str(layers[i]) for i in ticks])
    axes[0].set_yticks(ticks, [str(layers[i]) for i in ticks])
    axes[0].set(xlabel="layer", ylabel="layer")
    axes[0].spines[:].set_visible(False)
    if len(layers) <= _MOST_CELLS:
        for i, j in np.ndindex(*matrix.shape):
            colour = "black" if matrix[i, j] > 0.55 else "white"
            axes[0].text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    figure.colorbar(image, ax=axes[0], label="linear CKA")
    figure.suptitle(_title(row, "similarity of layers"))
    save_figure(figure, path)


def draw_tsne(
    row: Row,
    labels: NDArray[np.int64],
    features: dict[int, NDArray[np.float32]],
    label_names: Sequence[str] | None,
    path: Path,
    seed: int,
) -> None:
    """t-SNE (van der Maaten and Hinton 2008) of a middle layer and the last one read, coloured by class.

    Args:
        row: For the title.
        labels: (s,) classes of the sample.
        features: Layer -> (s, d).
        label_names: Class names, where they are known.
        path: Where the picture goes.
        seed: Seed of t-SNE.
    """
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import normalize

    layers = sorted(features)
    chosen = list(dict.fromkeys([layers[(len(layers) - 1) // 2], layers[-1]]))
    figure, axes = new_figure(len(chosen))
    classes = np.unique(labels)
    for axis, layer in zip(axes, chosen, strict=True):
        perplexity = float(min(30, max(2, (len(labels) - 1) // 3)))
        points = TSNE(
            perplexity=perplexity, init="pca" if features[layer].shape[1] > 1 else "random", random_state=seed
        )
        placed = points.fit_transform(normalize(features[layer].astype(np.float64)))
        for number, label in enumerate(classes[:_MOST_CLASSES]):
            at = labels == label
            axis.scatter(
                *placed[at].T,
                s=14,
                color=_colour(number),
                marker=_marker(number // len(COLOURS)),
                linewidths=0,
                alpha=0.85,
                label=str(label_names[label] if label_names else label),
            )
        rest = ~np.isin(labels, classes[:_MOST_CLASSES])
        if rest.any():
            axis.scatter(*placed[rest].T, s=8, color="0.75", linewidths=0, zorder=0, label="other classes")
        axis.set(title=f"layer {layer}", xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    _legend(figure, axes)
    figure.suptitle(_title(row, f"t-SNE of {len(labels)} test items, pooling {row['protocol']['geometry']['pooling']}"))
    save_figure(figure, path)


def _poolings(row: Row) -> list[str]:
    """Poolings that were read at more than the last layer, or all where there is no other."""
    names = list(dict.fromkeys(entry["pooling"] for entry in row["readings"]))
    return [name for name in names if name != "cls-last4"] or names


def _protocols(row: Row) -> list[str]:
    return list(dict.fromkeys(entry["protocol"] for entry in row["readings"]))


def _readings(row: Row, protocol: str, pooling: str) -> list[dict[str, Any]]:
    found = [entry for entry in row["readings"] if (entry["protocol"], entry["pooling"]) == (protocol, pooling)]
    return sorted(found, key=lambda entry: int(entry["layer"]))


def _percent(found: Sequence[dict[str, Any]]) -> tuple[NDArray[np.float64], ...]:
    def column(key: str) -> NDArray[np.float64]:
        return np.array([100 * (e["top1"]["value"] if e["top1"][key] is None else e["top1"][key]) for e in found])

    return column("value"), column("low"), column("high")


def _whole_layers(axis: Any, row: Row) -> None:
    layers = [entry["layer"] for entry in row["layers"]]
    step = max(1, -(-len(layers) // 12))
    axis.set_xticks(layers[::-1][::step][::-1])
    axis.grid(axis="y", color="0.9", linewidth=0.7)


def _shades(names: Sequence[str]) -> dict[str, str]:
    seen: dict[str, int] = {}
    found = {}
    for name in names:
        family = name.partition("-")[0]
        shades = _SHADES.get(family, COLOURS[3:])
        found[name] = shades[seen.get(family, 0) % len(shades)]
        seen[family] = seen.get(family, 0) + 1
    return found


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _marker(number: int) -> str:
    return _MARKERS[number % len(_MARKERS)]


def _title(row: Row, what: str) -> str:
    return f"{row['encoder']} on {row['eval_dataset']}: {what}"


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(3 if len(axes) == 1 else 5, len(handles)),
            frameon=False,
        )


Draw = Callable[[Row, Path], None]
# What can be drawn from a row alone, by the end of its file name.
PICTURES: dict[str, Draw] = {
    "layers": draw_layer_curves,
    "exits": draw_exits,
    "geometry": draw_geometry,
    "cka": draw_cka,
}
