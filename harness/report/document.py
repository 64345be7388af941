"""What a page is made of: sections of blocks, without a word of HTML; one template draws them.

Every string here may hold what others wrote. The template escapes all of them, and `harness.report.characters` says
how characters that cannot be seen are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from harness.report.characters import Piece
from harness.report.charts import Chart

MISSING = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A table's cell: what it says, the small print below it, and whether it is to be seen first."""

    text: str
    small: str = ""
    strong: bool = False


# Cells in a row; a string is a cell too.
TableRow = list[Cell | str]


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    kind: ClassVar[str] = "paragraph"
    text: str


@dataclass(frozen=True)
class Notes:
    """What has to be said beside figures, a line each."""

    kind: ClassVar[str] = "notes"
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text in fixed width, such as a command."""

    kind: ClassVar[str] = "code"
    label: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its header.

    Attributes:
        caption: What it shows.
        columns: Headers.
        rows: As many cells a row as there are columns.
        groups: Headers above the columns: text and how many columns it spans; empty text for none.
        words: Whether the cells hold words, which wrap and stand left, and not numbers.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    groups: Sequence[tuple[str, int]] = ()
    words: bool = False


@dataclass(frozen=True)
class Charts:
    """Pictures beside each other."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]


@dataclass(frozen=True)
class MarkedText:
    """A text with its changed words marked.

    Attributes:
        name: What it is, such as "original".
        about: What is known of it, such as its predicted class.
        pieces: The whole text.
        excerpt: Where the text is very long, the part around the first change, which stands above the folded whole.
        length: Characters of the text.
    """

    name: str
    about: str
    pieces: Sequence[Piece]
    excerpt: Sequence[Piece] = ()
    length: int = 0


@dataclass(frozen=True)
class Example:
    """One text, or a pair of them, with what is known of it.

    Attributes:
        title: Why it is shown.
        facts: Short facts: labels, queries.
        texts: The texts.
        table: What detectors thought of them.
    """

    kind: ClassVar[str] = "example"
    title: str
    facts: Sequence[tuple[str, str]]
    texts: Sequence[MarkedText]
    table: Table | None = None


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when asked for."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: Sequence[Block]


Block = Paragraph | Notes | Code | Table | Charts | Example | Fold


@dataclass(frozen=True)
class Section:
    """A part of the page, with a heading that the list of contents leads to."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: Heading, and title of the window.
        lead: One line below it.
        sections: The parts.
        notes: What whoever asked for the page has to be told at once.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()


def percent(value: float | None) -> str:
    """A share of 1 in percent, without the sign."""
    return MISSING if value is None else f"{100 * value:.1f}"


def span(low: float | None, high: float | None) -> str:
    """The ends of an interval in percent; empty where one is not known."""
    return "" if low is None or high is None else f"{percent(low)} to {percent(high)}"


def number(value: float | None) -> str:
    """A number with four digits that count."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
