"""The page of an attack: what it did, how many words and queries it took, and examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.report.charts import histogram
from harness.report.document import (
    MISSING,
    Block,
    Cell,
    Charts,
    Notes,
    Page,
    Paragraph,
    Section,
    Table,
    TableRow,
    number,
    percent,
    span,
)
from harness.report.finished import FinishedRun
from harness.report.sources import class_names
from harness.report.texts import row_example
from harness.text.adversarial import ROWS_FILE, SETTINGS, AdversarialRow, read_rows
from harness.text.attack_stats import Estimate, set_figures

_RESULTS = ("success", "failure", "maximized", "skipped")


def build(run: FinishedRun, attacks: Sequence[Path] | None = None) -> Page:
    """The page of a run of `attack run` or `attack import`."""
    rows = read_rows(run.output(ROWS_FILE))
    if not rows:
        return Page(run.name, "An attack without a single row.", [])
    head = rows[0]
    names = class_names(run.folder)
    sections = [
        Section("figures", "Figures", _figures(run, rows)),
        Section("spread", "Words and queries", _spread(rows)),
        Section("classes", "Classes", [_classes(rows, names)]),
        Section("settings", "Settings of the attack", [_settings(rows)]),
        Section("examples", "Examples", _examples(rows, names)),
    ]
    title = f"{head.recipe} on {head.dataset} ({head.split})"
    return Page(title, f"Attack on the victim {head.victim}, run {run.name}", sections)


def _figures(run: FinishedRun, rows: Sequence[AdversarialRow]) -> list[Block]:
    found = set_figures(run.name, rows)
    counts = {"Succeeded": found.successes, "Failed": found.failures, "Skipped": found.skipped}
    if found.maximized:
        counts["Maximized"] = found.maximized
    lines: list[tuple[str, Cell | str]] = [
        ("Texts", f"{found.texts:,}"),
        *((name, f"{count:,}") for name, count in counts.items()),
        ("Clean accuracy, %", _rate(found.accuracy)),
        ("Accuracy under attack, %", _rate(found.accuracy_under_attack)),
        ("Success rate of attacked texts, %", _rate(found.success_rate)),
        ("Words changed, %, median of successes", number(found.words_changed_percent)),
        ("Queries a text, median of attacked texts", number(found.queries)),
    ]
    blocks: list[Block] = [
        Table("What the attack did; rates with Wilson's 95 % intervals.", ["Figure", "Value"], list(map(list, lines)))
    ]
    notes = []
    if found.skipped:
        notes.append(
            "Skipped texts are those that the victim got wrong, or that were of the target class, to begin with."
        )
    stopped = Counter(row.stopped_by for row in rows if row.stopped_by)
    notes += [f"{count} attacks were ended by their limit of {limit}." for limit, count in sorted(stopped.items())]
    if run.manifest.get("set_aside"):
        notes.append(f"{run.manifest['set_aside']} texts raised an error and were set aside: no row of theirs is here.")
    if run.manifest.get("truncated"):
        notes.append(f"{run.manifest['truncated']} texts are longer than the victim takes, and were cut.")
    if run.manifest.get("other_outcomes_in_fp32"):
        notes.append(f"Asked again in fp32, {run.manifest['other_outcomes_in_fp32']} rows end otherwise.")
    return [*blocks, Notes(notes)] if notes else blocks


def _rate(found: Estimate) -> Cell:
    return Cell(percent(found.value), span(found.low, found.high))


def _spread(rows: Sequence[AdversarialRow]) -> list[Block]:
    wins = [row for row in rows if row.result in ("success", "maximized")]
    tried = [row for row in rows if row.result not in ("skipped",)]
    charts = []
    if wins:
        changed = [("successes", [row.words_changed_percent for row in wins])]
        charts.append(histogram("Words changed, percent", changed, x_label="percent of the words"))
        counts = [("successes", [len(row.changed_positions) for row in wins])]
        charts.append(histogram("Words changed", counts, x_label="words", whole=True))
    if tried:
        groups = [(name, [row.queries for row in tried if row.result == name]) for name in _RESULTS]
        charts.append(histogram("Queries", [(n, v) for n, v in groups if v], x_label="queries a text", whole=True))
    sure = [(row.result, value) for row in tried if (value := _confidence(row)) is not None]
    if sure:
        groups_sure = [(name, [value for result, value in sure if result == name]) for name in _RESULTS]
        title = "Confidence in the perturbed text's class"
        charts.append(histogram(title, [(n, v) for n, v in groups_sure if v], x_label="probability"))
    return [Charts(charts)] if charts else [Paragraph("No text was attacked.")]


def _confidence(row: AdversarialRow) -> float | None:
    """The victim's probability of the class that it gives the perturbed text."""
    known = row.perturbed_probabilities
    return known[row.perturbed_output] if known is not None and 0 <= row.perturbed_output < len(known) else None


def _classes(rows: Sequence[AdversarialRow], names: dict[int, str]) -> Table:
    results = [result for result in _RESULTS if result != "maximized" or any(row.result == result for row in rows)]
    lines: list[TableRow] = []
    for label in sorted({row.label for row in rows}):
        count: Counter[str] = Counter(row.result for row in rows if row.label == label)
        attacked = sum(count.values()) - count["skipped"]
        rate = f"{100 * count['success'] / attacked:.1f}" if attacked else MISSING
        name = f"{names[label]} ({label})" if label in names else str(label)
        lines.append([name, *(f"{count[result]:,}" for result in results), rate])
    return Table("Results by class.", ["Class", *results, "Success rate, %"], lines)


def _settings(rows: Sequence[AdversarialRow]) -> Table:
    lines = []
    for name in SETTINGS:
        values = list(dict.fromkeys(getattr(row, name) for row in rows))
        told = [str(value) for value in values if value is not None]
        if told:
            more = f" and {len(told) - 3} more" if len(told) > 3 else ""
            lines.append([name.replace("_", " "), ", ".join(told[:3]) + more])
    return Table("What all rows say of how they were made.", ["Setting", "Value"], lines, words=True)


def _examples(rows: Sequence[AdversarialRow], names: dict[int, str]) -> list[Block]:
    """Few, median and most changed words, a failure and a skipped text; ties in order of row ids."""
    wins = sorted(
        (row for row in rows if row.result in ("success", "maximized")),
        key=lambda row: (row.words_changed_percent, row.id),
    )
    chosen = []
    if wins:
        chosen.append(("Success with the fewest words changed", wins[0]))
    if len(wins) > 2:
        chosen.append(("Success with the median of words changed", wins[len(wins) // 2]))
    if len(wins) > 1:
        chosen.append(("Success with the most words changed", wins[-1]))
    for result, title in (("failure", "Failed attack: its best attempt"), ("skipped", "Skipped text")):
        chosen += [(title, row) for row in sorted(rows, key=lambda row: row.id) if row.result == result][:1]
    note = "Marked words are underlined; a character that cannot be seen is shown by its code."
    return [Paragraph(note), *(row_example(title, row, names) for title, row in chosen)]
