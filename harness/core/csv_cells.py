"""Text cells that a spreadsheet shows and does not run (CWE-1236)."""

from __future__ import annotations

_ESCAPE = "'"
# What makes a spreadsheet take a cell for a formula; the control characters are skipped before it looks.
# Some spreadsheets read the full-width forms as the plain ones.
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def safe_cell(text: str) -> str:
    """Mark a text that a spreadsheet would run as a formula with a leading apostrophe.

    A text that begins with an apostrophe gets one more, so that `unsafe_cell` gives every text back.

    Args:
        text: Any text.

    Returns:
        The text, with at most one character before it.
    """
    return _ESCAPE + text if text.startswith((*_DANGEROUS, _ESCAPE)) else text


def unsafe_cell(cell: str) -> str:
    """The text that `safe_cell` was given.

    Args:
        cell: What `safe_cell` returned.

    Returns:
        The text without its mark.
    """
    return cell.removeprefix(_ESCAPE)
