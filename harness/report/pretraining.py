"""The page of an `ssl train` run: how the loss fell, and what was watched of the last layer."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from harness.core.errors import DataError
from harness.core.files import read_json
from harness.report.charts import Chart, Series, line_chart
from harness.report.document import Block, Charts, Notes, Page, Section, Table, number
from harness.report.finished import FinishedRun

METRICS_FILE, FACTS_FILE = "metrics.csv", "encoder.json"
_WATCHED = (
    ("online_knn", "Online k-NN accuracy"),
    ("rankme", "RankMe"),
    ("feature_std", "Feature std"),
    ("alignment", "Alignment of the two views"),
    ("uniformity", "Uniformity"),
    ("gradient_norm", "Norm of the gradient"),
    ("learning_rate", "Learning rate"),
    ("alpha", "Weight of the intermediate loss"),
    ("momentum", "Momentum of the teacher"),
)
_LAYER = "loss_layer_"
_FACTS = (
    *("arch", "objective", "self_distill", "num_layers", "active_layers", "image_size", "dataset", "train_images"),
    *("epochs", "steps", "batch_size", "preset", "norm", "seed", "weights_hash"),
)

Line = dict[str, float | None]


def build(run: FinishedRun, attacks: Sequence[Path] | None = None) -> Page:
    """The page of a training run."""
    facts = dict(read_json(run.output(FACTS_FILE)))
    lines = _read(run.output(METRICS_FILE))
    if not lines:
        raise DataError(f"{run.folder / METRICS_FILE} holds no readings.")
    layers = [name for name in lines[0] if name.startswith(_LAYER)]
    loss = [_chart("Loss, weighted sum", [("loss", "Loss, weighted sum")], lines)]
    if len(layers) > 1:
        named = [(name, f"layer {name.removeprefix(_LAYER)}") for name in layers]
        loss.append(_chart("Loss of each layer", named, lines))
    watched = [_chart(title, [(name, title)], lines) for name, title in _WATCHED if _points(lines, name)]
    end = [[name.replace("_", " "), number(lines[-1].get(name))] for name in lines[-1] if name not in layers]
    rows = [[name.replace("_", " "), _told(facts[name])] for name in _FACTS if facts.get(name) is not None]
    corrupt = facts.get("corrupt_images") or []
    blocks: list[Block] = [Table("The encoder.", ["Fact", "Value"], rows, words=True)]
    if corrupt:
        blocks.append(Notes([f"{len(corrupt)} images could not be read: {', '.join(map(str, corrupt[:5]))}."]))
    sections = [
        Section("loss", "Loss", [Charts(loss)]),
        Section("watched", "What was watched of the last layer", [Charts(watched)]),
        Section("end", "Last reading", [Table("The last line of metrics.csv.", ["Figure", "Value"], end)]),
        Section("encoder", "Encoder", blocks),
    ]
    how = "self-distilled" if facts.get("self_distill") else "plain"
    title = f"Training of {run.name}: {facts.get('objective')}, {how}"
    return Page(title, f"{facts.get('arch')} on {facts.get('dataset')}", sections)


def _read(path: Path) -> list[Line]:
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return [
                {name: float(value) if value else None for name, value in line.items()}
                for line in csv.DictReader(handle)
            ]
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is not a file of readings: {error}.") from error


def _points(lines: Sequence[Line], name: str) -> list[tuple[float, float]]:
    found = [(line.get("step"), line.get(name)) for line in lines]
    return [(step, value) for step, value in found if step is not None and value is not None and math.isfinite(value)]


def _chart(title: str, names: Sequence[tuple[str, str]], lines: Sequence[Line]) -> Chart:
    series = [Series(label, _points(lines, name)) for name, label in names]
    few = max(len(one.points) for one in series) < 40
    return line_chart(title, series, x_label="step", y_label="", marks=few)


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
