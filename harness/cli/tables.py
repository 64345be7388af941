"""Tables and examples for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.cli.visible import visible
from harness.text.adversarial import AdversarialRow, summarise
from harness.text.words import changed_positions, find_words

if TYPE_CHECKING:
    from sdssl.compare import Comparison


def console() -> Console:
    """Standard output; wide enough for a table when it is no terminal."""
    found = Console(highlight=False, soft_wrap=False)
    if not found.is_terminal:
        found = Console(highlight=False, width=180)
    return found


def print_attack_summary(rows: Sequence[AdversarialRow]) -> None:
    """Print what an attack did, in TextAttack's figures."""
    found = summarise(rows)
    head = rows[0]
    table = Table(title=Text(visible(f"{head.recipe} on {head.dataset} ({head.split}), victim {head.victim}")))
    table.add_column("figure")
    table.add_column("value", justify="right")
    counts = {"successful": found.successes, "failed": found.failures, "skipped": found.skipped}
    if found.maximized:
        counts = {"successful": found.successes, "failed": found.failures, "maximized": found.maximized} | counts
    for name, value in (
        ("texts", str(found.texts)),
        (" / ".join(counts), " / ".join(map(str, counts.values()))),
        ("clean accuracy", _percent(found.accuracy)),
        ("accuracy under attack", _percent(found.accuracy_under_attack)),
        ("success rate", _percent(found.success_rate)),
        ("words changed (successes)", _percent(found.words_changed_percent / 100)),
        ("queries a text (attacked)", "-" if math.isnan(found.queries) else f"{found.queries:.1f}"),
    ):
        table.add_row(name, value)
    console().print(table)


def print_example(row: AdversarialRow) -> None:
    """Print a pair of texts with the changed words in colour."""
    out = console()
    before = [word.text for word in find_words(row.original_text)]
    after = [word.text for word in find_words(row.perturbed_text)]
    out.print()
    out.print(
        Text(
            f"{visible(row.id)}  label {row.label}: predicted {row.original_output} -> {row.perturbed_output}, "
            f"{len(row.changed_positions)} words changed, {row.queries} queries",
            style="bold",
        )
    )
    # Left to the terminal to wrap: a line break that is not the text's own would be copied with it.
    out.print(_coloured(row.original_text, changed_positions(before, after), "green"), soft_wrap=True)
    out.print(_coloured(row.perturbed_text, changed_positions(after, before), "red"), soft_wrap=True)


def print_detectors(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of detectors, a line each, in percent with 95 % intervals.

    Args:
        title: The table's title.
        rows: Each with `detector`, `metrics` (name -> value, low, high), `comparisons` (reference -> difference) and
            `cost`.
    """
    compared = [name for name in ("rde", "msp") if any(name in row["comparisons"] for row in rows)]
    caption = "percent, with 95 % intervals; bootstrap over source texts"
    if compared:
        caption += "; * differs from 0 at 5 % after Holm's correction"
    table = Table(title=escape(title), caption=caption)
    table.add_column("detector")
    for name in ("AUC", *(f"less {name.upper()}" for name in compared), "TPR@10%FPR", "F1@10%FPR"):
        table.add_column(name, justify="right")
    for name in ("held-out TPR", "realised FPR"):
        table.add_column(name, justify="right")
    table.add_column("forwards", justify="right")
    table.add_column("ms/text", justify="right")
    for row in rows:
        metrics, cost = row["metrics"], row["cost"]
        table.add_row(
            escape(row["detector"]),
            _interval(metrics["auc"]),
            *(_difference(row["comparisons"].get(name)) for name in compared),
            *(
                _interval(metrics[name])
                for name in ("tpr_at_fpr_10", "f1_at_fpr_10", "heldout_tpr_10", "realised_fpr_10")
            ),
            f"{cost['forwards_per_text']:g}",
            f"{cost['ms_per_text']:.1f}",
        )
    console().print(table)


def print_layers(row: Mapping[str, Any]) -> None:
    """Print an encoder's readings: a line a layer, a column a protocol, a table a pooling, in percent.

    Args:
        row: A row of the board "ssl".
    """
    names = list(dict.fromkeys(entry["protocol"] for entry in row["readings"]))
    poolings = list(dict.fromkeys(entry["pooling"] for entry in row["readings"]))
    found = {(e["protocol"], e["layer"], e["pooling"]): e["top1"] for e in row["readings"]}
    flops = {entry["layer"]: entry["flops"] for entry in row["layers"]}
    for pooling in poolings:
        shown = [name for name in names if any(key[::2] == (name, pooling) for key in found)]
        layers = sorted({key[1] for key in found if key[2] == pooling})
        if len(layers) == len(shown) == 1 and len(poolings) > 1:  # the joined class tokens of the last four layers
            only = _half_interval(found[shown[0], layers[0], pooling])
            console().print(escape(f"{shown[0]} on {pooling}: {only}"))
            continue
        table = Table(
            title=escape(
                f"{row['encoder']} on {row['eval_dataset']}, pooling {pooling} "
                f"({row['n_train']} train, {row['n_test']} test)"
            ),
            caption="top-1 in percent, with half a 95 % interval; the best layer is bold",
        )
        for name in ("layer", "GFLOPs", *shown):
            table.add_column(name, justify="right")
        best = {
            name: max(found[name, layer, pooling]["value"] for layer in layers if (name, layer, pooling) in found)
            for name in shown
        }
        for layer in layers:
            cells = [str(layer), "-" if flops.get(layer) is None else f"{flops[layer] / 1e9:.3g}"]
            for name in shown:
                top1 = found.get((name, layer, pooling))
                cell = "-" if top1 is None else _half_interval(top1)
                is_best = top1 is not None and len(layers) > 1 and top1["value"] == best[name]
                cells.append(f"[bold]{cell}[/bold]" if is_best else cell)
            table.add_row(*cells)
        console().print(table)


def _half_interval(metric: Mapping[str, float | None]) -> str:
    value, low, high = metric["value"], metric["low"], metric["high"]
    assert value is not None
    if low is None or high is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ±{50 * (high - low):.1f}"


def print_comparison(found: Comparison) -> None:
    """Print baseline and self-distilled top-1 of each layer, in percent, and how they differ over seeds."""
    seeds = ", ".join(str(seed) for seed in found.seeds)
    table = Table(
        title=escape(
            f"{found.objective} on {found.train_dataset}, read on {found.eval_dataset} by {found.protocol} "
            f"({found.pooling}), seeds {seeds}"
        ),
        caption="top-1 in percent, mean over seeds; the difference with half its 95 % t-interval over seeds",
    )
    for name in ("layer", "baseline", "self-distilled", "difference"):
        table.add_column(name, justify="right")
    margin = found.margin()
    means = (found.baseline.mean(axis=0), found.distilled.mean(axis=0), found.difference)
    for number, (layer, before, after, difference) in enumerate(zip(found.layers, *means, strict=True)):
        spread = "" if margin is None else f" ±{100 * margin[number]:.1f}"
        table.add_row(str(layer), f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * difference:+.1f}{spread}")
    out = console()
    out.print(table)
    better = int((found.difference > 0).sum())
    clear = 0 if margin is None else int((found.difference > margin).sum())
    worse = 0 if margin is None else int((found.difference < -margin).sum())
    out.print(
        f"self-distilled higher at {better} of {len(found.layers)} layers; "
        f"interval above 0 at {clear}, below 0 at {worse}"
    )
    parts = [("last", slice(-1, None)), ("lowest", found.low), ("between", found.between)]
    shown = [
        f"{name} {_span(found.layers[part])} {100 * found.difference[part].mean():+.1f}"
        for name, part in parts
        if found.layers[part]
    ]
    out.print(f"mean difference by layers: {'; '.join(shown)}")


def _span(layers: Sequence[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"


def _coloured(text: str, positions: Sequence[int], colour: str) -> Text:
    shown = Text(visible(text))
    words = find_words(text)
    for position in positions:
        shown.stylize(f"bold {colour}", words[position].start, words[position].end)
    return shown


def _interval(metric: Mapping[str, float | None]) -> str:
    if metric["value"] is None:
        return "-"
    value = f"{100 * metric['value']:.1f}"
    if metric["low"] is None or metric["high"] is None:
        return value
    return f"{value} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"


def _difference(found: Mapping[str, Any] | None) -> str:
    """A paired difference in points; a star where it is clear."""
    if found is None:
        return "-"
    clear = found["p_holm"] is not None and found["p_holm"] < 0.05
    return f"{100 * found['auc_difference']['value']:+.1f}{'*' if clear else ''}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1%}"
