"""The page of an `eval detect` run: tables, ROC curves, histograms, decisions, layers, words and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError
from harness.evaluation.metrics import roc_points
from harness.report.charts import Series, histogram, line_chart, percent_series
from harness.report.document import (
    MISSING,
    Block,
    Cell,
    Charts,
    Fold,
    Notes,
    Page,
    Paragraph,
    Section,
    Table,
    TableRow,
    number,
)
from harness.report.document import percent as _percent
from harness.report.document import span as _span
from harness.report.evaluated import Evaluated, EvaluatedDetector, read_evaluated
from harness.report.examples import example_blocks
from harness.report.finished import FinishedRun
from harness.report.sources import find_rows

_FORMAT = 2
_MAIN = (
    ("auc", "AUC"),
    ("tpr_at_fpr_10", "TPR at 10 % FPR"),
    ("f1_at_fpr_10", "F1 at 10 % FPR"),
    ("heldout_tpr_10", "Held-out TPR"),
    ("realised_fpr_10", "Realised FPR"),
)
_REFERENCES = ("rde", "msp")
_WORD_METRICS = (
    ("auc_per_text", "AUC within texts"),
    ("auc_pooled", "AUC over all words"),
    ("r_precision", "R-precision"),
    ("precision_at_1", "Precision at 1"),
    ("precision_at_3", "Precision at 3"),
)


def build(run: FinishedRun, attacks: Sequence[Path] | None) -> Page:
    """The page of an evaluation.

    Args:
        run: The run.
        attacks: Where its attacks lie; by default where its manifest says they lay.
    """
    if run.config.get("format") != _FORMAT:
        raise ConfigurationError(
            f"{run.folder} was written in format {run.config.get('format')}, this reads {_FORMAT}.",
            "Run the evaluation again in a new folder.",
        )
    evaluated = read_evaluated(run)
    sections, notes = [], []
    for place, one in enumerate(evaluated):
        found, why = find_rows(run, place, attacks)
        many = len(evaluated) > 1
        prefix, suffix = (f"{one.name}: ", f"-{place + 1}") if many else ("", "")
        parts = _parts(one)
        if found is None:
            notes.append(f"{one.name}: {why}" if many else why)
            parts.append(("examples", "Examples", [Paragraph(why)]))
        else:
            parts.append(("examples", "Examples", example_blocks(one, found)))
        sections += [Section(f"{id_}{suffix}", f"{prefix}{title}", blocks) for id_, title, blocks in parts if blocks]
    first = evaluated[0]
    title = f"Detection of {first.name}" + (f" and {len(evaluated) - 1} more" if len(evaluated) > 1 else "")
    return Page(title, f"Evaluation run {run.name}", sections, notes)


def _parts(one: Evaluated) -> list[tuple[str, str, list[Block]]]:
    return [
        ("summary", "Summary", _summary(one)),
        ("roc", "ROC curves", _roc(one)),
        ("scores", "Scores", _histograms(one)),
        ("decisions", "Decisions at held-out thresholds", _decisions(one)),
        ("layers", "Layers", _layers(one)),
        ("words", "Words", _words(one)),
    ]


def _metric(found: Mapping[str, Any]) -> Cell:
    return Cell(_percent(found["value"]), _span(found["low"], found["high"]))


def _summary(one: Evaluated) -> list[Block]:
    compared = [
        name
        for name in _REFERENCES
        if any(name == found["reference"] for detector in one.detectors for found in detector.mean["comparisons"])
    ]
    rows: list[TableRow] = []
    for detector in one.detectors:
        differences = {found["reference"]: found for found in detector.mean["comparisons"]}
        cost = detector.mean["cost"]
        auc, *others = (_metric(detector.mean["metrics"][name]) for name, _ in _MAIN)
        note = "trained on adversarial texts" if detector.mean["trains_on_adversarial_texts"] else ""
        rows.append(
            [
                Cell(detector.title, note),
                auc,
                *(_difference(differences.get(name)) for name in compared),
                *others,
                number(cost["forwards_per_text"]),
                f"{cost['ms_per_text']:,.1f}",
            ]
        )
    (_, auc_title), *titles = _MAIN
    columns = [
        "Detector",
        auc_title,
        *(f"AUC less {name.upper()}'s" for name in compared),
        *(text for _, text in titles),
    ]
    caption = f"{one.title}. Percent, with 95 % intervals from a bootstrap over source texts"
    if compared:
        caption += "; a difference with * is not 0 at the 5 % level after Holm's correction"
    blocks: list[Block] = [Table(f"{caption}.", [*columns, "Forwards a text", "ms a text"], rows)]
    if one.notes:
        blocks.append(Notes(one.notes))
    blocks.append(Fold("All metrics", [_all_metrics(one)]))
    if len(one.detectors[0].rows) > 1:
        blocks.append(Fold("Each seed", [_each_seed(one)]))
    return blocks


def _difference(found: Mapping[str, Any] | None) -> Cell | str:
    if found is None:
        return MISSING
    apart, p = found["auc_difference"], found["p_holm"]
    star = "*" if p is not None and p < 0.05 else ""
    ends = (
        ""
        if apart["low"] is None or apart["high"] is None
        else f"{100 * apart['low']:+.1f} to {100 * apart['high']:+.1f}"
    )
    return Cell(f"{100 * apart['value']:+.1f}{star}", f"{ends}{'' if p is None else f', p {p:.2g}'}")


def _all_metrics(one: Evaluated) -> Table:
    names = list(one.detectors[0].mean["metrics"])
    rows: list[TableRow] = [
        [name, *(_metric(detector.mean["metrics"][name]) for detector in one.detectors)] for name in names
    ]
    return Table("Every metric, mean over seeds, in percent.", ["Metric", *(d.title for d in one.detectors)], rows)


def _each_seed(one: Evaluated) -> Table:
    rows: list[TableRow] = [
        [
            Cell(detector.title, f"seed {row['seed']}"),
            *(_metric(row["metrics"][name]) for name, _ in _MAIN),
            str(row["n_adversarial"]),
            str(row["n_clean"]),
            str(row["n_calibration"]),
        ]
        for detector in one.detectors
        for row in detector.rows
    ]
    columns = ["Detector", *(text for _, text in _MAIN), "Adversarial texts", "Clean texts", "Held-out texts"]
    return Table("Each seed's sample, in percent.", columns, rows)


def _roc(one: Evaluated) -> list[Block]:
    series = []
    for detector in one.detectors:
        sample = detector.samples[0]
        fpr, tpr = roc_points(sample.scores, sample.adversarial)
        metrics = detector.rows[0]["metrics"]
        auc, at_ten = metrics["auc"]["value"], metrics["tpr_at_fpr_10"]["value"]
        points = [(float(fpr[0]), float(tpr[0]))]
        for x, y in zip(fpr[1:].tolist(), tpr[1:].tolist(), strict=True):
            points += [(x, points[-1][1]), (x, y)]
        note = (
            f"{detector.title}: AUC {_percent(auc)} %, true-positive rate {_percent(at_ten)} % at 10 % false positives."
        )
        series.append(Series(f"{detector.title}, AUC {_percent(auc)}", points, note=note))
    chart = line_chart(
        f"ROC curves, seed {one.detectors[0].samples[0].seed}",
        series,
        x_label="false-positive rate",
        y_label="true-positive rate",
        x_range=(0, 1),
        y_range=(0, 1),
        diagonal=True,
        rule=(0.1, "10 % false positives"),
    )
    return [Charts([chart])]


def _histograms(one: Evaluated) -> list[Block]:
    charts = []
    for detector in one.detectors:
        sample = detector.samples[0]
        name = "held-out threshold, 10 %" if sample.heldout else "threshold of the sampled clean texts, 10 %"
        charts.append(
            histogram(
                detector.title,
                [("clean", sample.scores[~sample.adversarial]), ("adversarial", sample.scores[sample.adversarial])],
                x_label="score",
                rule=(sample.threshold, name),
            )
        )
    seed = one.detectors[0].samples[0].seed
    return [
        Paragraph(f"Scores of the texts of seed {seed}; higher means more adversarial, in units of each detector."),
        Charts(charts),
    ]


def _decisions(one: Evaluated) -> list[Block]:
    rates = ("1", "5", "10")
    known = [
        d for d in one.detectors if any(d.mean["metrics"][f"realised_fpr_{r}"]["value"] is not None for r in rates)
    ]
    if not known:
        return [Paragraph("There are no held-out figures: the run held no clean texts out, or too few.")]
    rows: list[TableRow] = []
    for detector in known:
        metrics = detector.mean["metrics"]
        texts = sorted({row["protocol"]["calibration"]["texts"] for row in detector.rows})
        held = str(texts[0]) if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"
        cells = [_metric(metrics[f"{kind}_{rate}"]) for rate in rates for kind in ("realised_fpr", "heldout_tpr")]
        rows.append([detector.title, held, *cells])
    source = known[0].rows[0]["protocol"]["calibration"]["source"]
    promised = Table(
        f"What thresholds set on held-out clean texts ({source}) did on the sampled texts; percent, mean over seeds.",
        ["Detector", "Held-out texts", *(name for _ in rates for name in ("Realised FPR", "TPR"))],
        rows,
        groups=[("", 2), *((f"Promised FPR {rate} %", 2) for rate in rates)],
    )
    return [promised, *_rare(known), *_failures(known)]


def _rare(detectors: Sequence[EvaluatedDetector]) -> list[Block]:
    """Precision where few texts are adversarial, first seed."""
    shares = [share for share in detectors[0].rows[0].get("prevalence") or {}]
    known = [d.rows[0]["prevalence"][share]["precision_10"] for d in detectors for share in shares]
    if all(value is None for value in known):
        return []
    shares.sort(key=float, reverse=True)
    rows: list[TableRow] = [
        [detector.title, *(_percent(detector.rows[0]["prevalence"][share]["precision_10"]) for share in shares)]
        for detector in detectors
    ]
    columns = ["Detector", *(f"{100 * float(share):g} % adversarial" for share in shares)]
    caption = (
        "How many of 100 flagged texts are adversarial, at the 10 % threshold, if fewer texts are; first seed. No "
        "figure where no clean text was flagged."
    )
    return [Fold("Where adversarial texts are rare", [Table(caption, columns, rows)])]


def _failures(detectors: Sequence[EvaluatedDetector]) -> list[Block]:
    """How texts score on which the attack failed, first seed."""
    rows: list[TableRow] = []
    for detector in detectors:
        found = detector.rows[0].get("failures")
        if found:
            flagged = _percent(found["flagged"].get("10"))
            rows.append([detector.title, str(found["texts"]), flagged, _percent(found["auc_against_clean"])])
    if not rows:
        return []
    caption = "Texts on which the attack failed, neither clean nor adversarial; percent, first seed."
    columns = ["Detector", "Texts", "Flagged at 10 %", "AUC against clean texts"]
    return [Fold("Failed attacks", [Table(caption, columns, rows)])]


def _layers(one: Evaluated) -> list[Block]:
    """AUC by layer, where a detector was evaluated on several layers and in nothing else differs."""
    groups: dict[str, dict[int, EvaluatedDetector]] = {}
    for detector in one.detectors:
        layer = (detector.rows[0]["protocol"]["detector"].get("parameters") or {}).get("layer")
        if isinstance(layer, int) and not isinstance(layer, bool):
            groups.setdefault(_without_layer(detector.spec), {})[layer] = detector
    charts = []
    for metric, title in (("auc", "AUC by layer"), ("heldout_tpr_10", "Held-out TPR at 10 % by layer")):
        series = []
        for name, layers in groups.items():
            found = {layer: layers[layer].mean["metrics"][metric] for layer in sorted(layers)}
            found = {layer: one for layer, one in found.items() if one["value"] is not None}
            if len(found) > 1:
                series.append(percent_series(name, [(layer, one) for layer, one in found.items()]))
        if series:
            charts.append(line_chart(title, series, x_label="layer", y_label="percent", layers=True, marks=True))
    return [Paragraph("Means over seeds, with 95 % intervals."), Charts(charts)] if charts else []


def _without_layer(spec: str) -> str:
    name, _, rest = spec.partition(":")
    kept = [part for part in rest.split(",") if part and part.partition("=")[0].strip() != "layer"]
    return ":".join(filter(None, (name, ",".join(kept))))


def _words(one: Evaluated) -> list[Block]:
    rows: list[TableRow] = []
    for detector in one.detectors:
        found = detector.mean.get("words")
        if found:
            cells = [_metric(found["metrics"][name]) for name, _ in _WORD_METRICS]
            rows.append([detector.title, *cells, str(found["texts"]), str(found["substituted"]), str(found["words"])])
    if not rows:
        return []
    columns = ["Detector", *(text for _, text in _WORD_METRICS), "Texts", "Words put in", "Words"]
    caption = "How well a detector's word scores find the words that the attack put in; percent, with 95 % intervals."
    return [Table(caption, columns, rows)]
