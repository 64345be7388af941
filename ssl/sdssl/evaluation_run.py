"""A layer-wise evaluation as a run: from an encoder and datasets to rows, a CSV and pictures in a folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.core.csv_cells import safe_cell
from harness.core.errors import ConfigurationError
from harness.core.features import FeatureStore
from harness.core.files import cache_folder, hash_json, read_json, write_json, write_text
from harness.core.rows import Row, finish_row, with_provenance
from harness.core.runs import Run
from sdssl.evaluate import LayerResult, ReadingSettings, evaluate_layers
from sdssl.layer_pictures import PICTURES, draw_tsne
from sdssl.layer_reading import LayerData, LayerReader

RESULTS_FILE, READINGS_FILE = "results.json", "readings.csv"
COMMAND = "eval ssl"
# Fewer points than this are no map.
_FEWEST_POINTS = 10


@dataclass(frozen=True)
class EvaluatedLayers:
    """Where an evaluation left what it found.

    Attributes:
        folder: The run folder.
        rows: A finished row a dataset.
        notes: What has to be said beside each row.
        fresh: Whether anything was computed; False where the run was finished before.
    """

    folder: Path
    rows: list[Row]
    notes: list[list[str]]
    fresh: bool


def run_evaluation(
    reader: LayerReader,
    datasets: Sequence[LayerData],
    settings: ReadingSettings,
    out: Path | None = None,
    *,
    device: str = "cpu",
    store: FeatureStore | None = None,
) -> EvaluatedLayers:
    """Evaluate an encoder's layers on datasets, and keep rows, readings and pictures in a run folder.

    Args:
        reader: The encoder.
        datasets: One or more; each gives a row with readings of its own.
        settings: What to read, and how.
        out: The run folder; by default `runs/eval-ssl-ID`, ID from the configuration.
        device: Where readings are computed.
        store: Where representations are kept; by default in the user's cache folder.

    Raises:
        HarnessError: Whatever is wrong with the input; nothing is written then.
    """
    for data in datasets:
        if data.unit != reader.unit:
            raise ConfigurationError(
                f"the encoder {reader.name!r} reads {reader.unit}s, and {data.name!r} holds {data.unit}s.",
                f"Give {reader.unit}s as --data, or an encoder of {data.unit}s.",
            )
        data.check()
    config = {
        "encoder": reader.name,
        "encoder_hash": reader.hash,
        "input": dict(reader.settings),
        "data": [{"name": data.name, "hashes": dict(data.hashes), **data.facts} for data in datasets],
        **asdict(settings),
    }
    with Run(out or Path("runs", f"eval-ssl-{hash_json(config)[:8]}"), COMMAND, config) as run:
        if run.finished:
            found = read_json(run.path(RESULTS_FILE))
            rows = [with_provenance(row, run.manifest) for row in found["rows"]]
            return EvaluatedLayers(run.folder, rows, found["notes"], fresh=False)
        store = store or FeatureStore(cache_folder("features"))
        results = [evaluate_layers(reader, data, settings, store, run.id, device) for data in datasets]
        rows = [finish_row(result.row) for result in results]
        outputs = _write(run, results, rows, settings)
        run.finish(outputs, seeds=[settings.seed], corrupt=[row["protocol"]["corrupt"] for row in rows])
        rows = [with_provenance(row, run.manifest) for row in rows]
    return EvaluatedLayers(run.folder, rows, [result.notes for result in results], fresh=True)


def _write(run: Run, results: Sequence[LayerResult], rows: Sequence[Row], settings: ReadingSettings) -> list[str]:
    """Write pictures, readings and results, and return their names."""
    names = [READINGS_FILE, RESULTS_FILE]
    for number, (result, row) in enumerate(zip(results, rows, strict=True)):
        named_before = [other["eval_dataset"] for other in rows[:number]]
        stem = row["eval_dataset"] + (f"-{number}" if row["eval_dataset"] in named_before else "")
        stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)
        for kind, draw in PICTURES.items():
            if kind == "cka" and row["protocol"]["cka"]["matrix"] is None:
                continue
            draw(row, run.path(f"{stem}-{kind}.png"))
            names.append(f"{stem}-{kind}.png")
        geometry = result.geometry
        if len(geometry.labels) >= _FEWEST_POINTS:
            path = run.path(f"{stem}-tsne.png")
            draw_tsne(row, geometry.labels, geometry.features, result.label_names, path, settings.seed)
            names.append(path.name)
    write_text(run.path(READINGS_FILE), readings_csv(rows))
    write_json(run.path(RESULTS_FILE), {"rows": list(rows), "notes": [result.notes for result in results]})
    return names


def readings_csv(rows: Sequence[Row]) -> str:
    """Every reading of the rows, a line each, with the operations up to its layer."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["encoder", "eval_dataset", "protocol", "layer", "pooling", "top1", "top1_low", "top1_high", "flops"]
    )
    for row in rows:
        flops = {entry["layer"]: entry["flops"] for entry in row["layers"]}
        for entry in row["readings"]:
            top1 = entry["top1"]
            cells: list[Any] = [safe_cell(row["encoder"]), safe_cell(row["eval_dataset"]), entry["protocol"]]
            cells += [entry["layer"], entry["pooling"], top1["value"], top1["low"], top1["high"]]
            writer.writerow([*cells, flops.get(entry["layer"])])
    return buffer.getvalue()
