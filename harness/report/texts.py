"""An adversarial row as an example: its two texts with changed words marked, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.report.characters import Piece, excerpt, pair, pieces
from harness.report.document import Example, MarkedText, Table
from harness.text.adversarial import AdversarialRow


def row_example(
    title: str,
    row: AdversarialRow,
    names: Mapping[int, str],
    *,
    table: Table | None = None,
    original_only: bool = False,
) -> Example:
    """An example of a row.

    Args:
        title: Why it is shown.
        row: The row.
        names: Names of classes, where they are known.
        table: What detectors thought of its texts.
        original_only: Whether the perturbed text is left out.
    """
    attacked = row.result != "skipped" and not original_only
    facts = [("Row", row.id), ("Class", _class(row.label, names)), ("Attack", row.result)]
    if attacked:
        words = len(row.changed_positions)
        facts += [("Words changed", f"{words} ({row.words_changed_percent:.1f} %)"), ("Queries", f"{row.queries:,}")]
    before, after = pair(row.original_text, row.perturbed_text) if attacked else (pieces(row.original_text), [])
    told = _told(row.original_output, row.original_probabilities, names)
    texts = [_marked("Original text", told, before, row.original_text)]
    if attacked:
        told = _told(row.perturbed_output, row.perturbed_probabilities, names)
        texts.append(_marked("Perturbed text", told, after, row.perturbed_text))
    return Example(title, facts, texts, table)


def _marked(name: str, about: str, parts: Sequence[Piece], text: str) -> MarkedText:
    return MarkedText(name, about, parts, excerpt(parts), len(text))


def _class(label: int, names: Mapping[int, str]) -> str:
    return f"{names[label]} ({label})" if label in names else str(label)


def _told(output: int, probabilities: Sequence[float] | None, names: Mapping[int, str]) -> str:
    sure = ""
    if probabilities is not None and 0 <= output < len(probabilities):
        sure = f", {100 * probabilities[output]:.1f} % sure"
    return f"the attacked victim says {_class(output, names)}{sure}"
