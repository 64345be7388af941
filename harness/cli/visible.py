"""Texts of others as a terminal can show them."""

from __future__ import annotations

# Control characters would move the cursor, ring, or change what the terminal shows; a picture of each stands in.
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_IN_A_LINE = {ord("\n"): 0x240A, ord("\t"): 0x2409}


def visible(text: str) -> str:
    """A text of the user's as it can be shown: the same but for control characters, and as long."""
    return text.translate(_PICTURES)


def visible_line(text: str) -> str:
    """The same in one line: line breaks and tabs have their pictures too."""
    return visible(text).translate(_IN_A_LINE)
