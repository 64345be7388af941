"""The page of an `eval ssl` run: readings of every layer, their curves, and the layers' geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.core.files import read_json
from harness.report.charts import Series, line_chart, percent_series
from harness.report.document import MISSING, Block, Cell, Charts, Fold, Notes, Page, Paragraph, Section, Table
from harness.report.document import number as _number
from harness.report.document import percent as _percent
from harness.report.document import span as _span
from harness.report.finished import FinishedRun

RESULTS_FILE = "results.json"
_GEOMETRY = {
    "positive_alignment": "Distance of pairs",
    "positive_alignment_l2": "The same, normalised",
    "negative_alignment": "Distance of classes",
    "negative_alignment_l2": "The same, normalised",
    "uniformity": "Uniformity",
    "rankme": "RankMe",
    "feature_std": "Feature std",
}
_DRAWN = {
    "Distances on the sphere": ("positive_alignment_l2", "negative_alignment_l2"),
    "Uniformity": ("uniformity",),
    "RankMe": ("rankme",),
    "Feature std": ("feature_std",),
}


def build(run: FinishedRun, attacks: Sequence[Path] | None = None) -> Page:
    """The page of an evaluation of an encoder's layers."""
    found = read_json(run.output(RESULTS_FILE))
    rows, notes = found["rows"], found["notes"]
    if not rows:
        raise DataError(f"{run.folder / RESULTS_FILE} holds no rows.")
    sections = []
    for place, (row, said) in enumerate(zip(rows, notes, strict=True)):
        prefix, suffix = (f"{row['eval_dataset']}: ", f"-{place + 1}") if len(rows) > 1 else ("", "")
        for id_, title, blocks in (
            ("curves", "Layer curves", _curves(row)),
            ("readings", "Readings", [*_readings(row), *([Notes(said)] if said else [])]),
            ("geometry", "Geometry", _geometry(row)),
            ("similarity", "Similarity of layers", _similarity(row)),
        ):
            if blocks:
                sections.append(Section(f"{id_}{suffix}", f"{prefix}{title}", blocks))
    datasets = ", ".join(dict.fromkeys(row["eval_dataset"] for row in rows))
    head = rows[0]
    how = f"{head['arch']}, " + (f"trained with {head['objective']}" if head["objective"] else "training not known")
    if head["train_dataset"]:
        how += f" on {head['train_dataset']}"
    if head["self_distill"] is not None:
        how += ", self-distilled" if head["self_distill"] else ", not self-distilled"
    return Page(f"Layers of {head['encoder']} on {datasets}", f"{how}; evaluation run {run.name}", sections)


def _names(row: Mapping[str, Any], key: str) -> list[str]:
    return list(dict.fromkeys(reading[key] for reading in row["readings"]))


def _at(row: Mapping[str, Any], protocol: str, pooling: str) -> dict[int, Mapping[str, Any]]:
    """Layer -> top-1, in order of layers."""
    found = {
        reading["layer"]: reading["top1"]
        for reading in row["readings"]
        if (reading["protocol"], reading["pooling"]) == (protocol, pooling)
    }
    return dict(sorted(found.items()))


def _curves(row: Mapping[str, Any]) -> list[Block]:
    charts = []
    for pooling in _names(row, "pooling"):
        found = {name: _at(row, name, pooling) for name in _names(row, "protocol")}
        series = [percent_series(name, list(layers.items())) for name, layers in found.items() if len(layers) > 1]
        if series:
            charts.append(
                line_chart(
                    f"Pooling {pooling}", series, x_label="layer", y_label="top-1, percent", layers=True, marks=True
                )
            )
    if not charts:
        return []
    return [Paragraph("Top-1 accuracy by layer; bands are 95 % intervals."), Charts(charts)]


def _readings(row: Mapping[str, Any]) -> list[Block]:
    flops = {entry["layer"]: entry["flops"] for entry in row["layers"]}
    blocks: list[Block] = []
    for pooling in _names(row, "pooling"):
        found = {name: _at(row, name, pooling) for name in _names(row, "protocol")}
        found = {name: layers for name, layers in found.items() if layers}
        best = {name: max(top1["value"] for top1 in layers.values()) for name, layers in found.items()}
        lines = []
        for layer in sorted({layer for layers in found.values() for layer in layers}):
            spent = flops.get(layer)
            cells: list[Cell | str] = [str(layer), MISSING if spent is None else f"{spent / 1e9:.3g}"]
            for name, layers in found.items():
                top1 = layers.get(layer)
                is_best = top1 is not None and len(layers) > 1 and top1["value"] == best[name]
                cells.append(_cell(top1, best=is_best))
            lines.append(cells)
        caption = (
            f"Pooling {pooling}: top-1 in percent with 95 % intervals, {row['n_train']:,} training and "
            f"{row['n_test']:,} test items; the best layer is named."
        )
        blocks.append(Table(caption, ["Layer", "GFLOPs", *found], lines))
    return blocks


def _cell(top1: Mapping[str, Any] | None, *, best: bool) -> Cell | str:
    if top1 is None:
        return MISSING
    return Cell(_percent(top1["value"]) + (" (best)" if best else ""), _span(top1["low"], top1["high"]))


def _geometry(row: Mapping[str, Any]) -> list[Block]:
    layers = sorted(row["layers"], key=lambda entry: int(entry["layer"]))
    known = [name for name in _GEOMETRY if any(entry[name] is not None for entry in layers)]
    if not known:
        return []
    charts = []
    for title, names in _DRAWN.items():
        series = []
        for name in names:
            points = [(float(entry["layer"]), entry[name]) for entry in layers if entry[name] is not None]
            label = {"positive_alignment_l2": "positive pairs", "negative_alignment_l2": "different classes"}.get(
                name, title
            )
            if len(points) > 1:
                series.append(Series(label, points))
        if series:
            charts.append(line_chart(title, series, x_label="layer", y_label="", layers=True, marks=True))
    lines = [[str(entry["layer"]), *(_number(entry[name]) for name in known)] for entry in layers]
    caption = "Geometry of each layer's representations of a class-balanced sample."
    table = Table(caption, ["Layer", *(_GEOMETRY[name] for name in known)], lines)
    return [*([Charts(charts)] if charts else []), Fold("The numbers of the pictures", [table])]


def _similarity(row: Mapping[str, Any]) -> list[Block]:
    """Linear CKA of every pair of layers, where the run holds it."""
    cka = row["protocol"].get("cka") or {}
    matrix = cka.get("matrix")
    if not matrix:
        return []
    layers = cka.get("layers") or [entry["layer"] for entry in row["layers"]]
    lines = [[str(layer), *(f"{value:.2f}" for value in values)] for layer, values in zip(layers, matrix, strict=True)]
    return [
        Table(
            "Linear CKA of every pair of layers; 1 is the same but for rotation and scale.",
            ["Layer", *map(str, layers)],
            lines,
        )
    ]
