"""What the verbs share: how their apps are made, and common options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from harness.core.errors import ConfigurationError


def verb(description: str) -> typer.Typer:
    """A Typer app of one verb. Plain help: drawing it with rich takes longer than all the rest of `--help`."""
    return typer.Typer(
        help=description,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


Dataset = Annotated[
    str, typer.Option("--dataset", help="A name (harness list datasets), or a path to a file or folder.")
]
VictimSpec = Annotated[str, typer.Option("--victim", help="A hub id, a folder, or `embedded` (trained on first use).")]
TextColumn = Annotated[str | None, typer.Option(help="Column of the texts, where it is not `text`.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the labels, where it is not `label`.")]
LARGEST_SEED = 2**32 - 1  # NumPy and scikit-learn take seeds of 32 bits
Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of every random choice.")]
Out = Annotated[Path, typer.Option("--out", help="The run folder to make, or to resume.")]
Dtype = Annotated[str, typer.Option(help="fp32, or bf16 where the hardware has it.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens a text may have; by default what the victim takes.")]
Layer = Annotated[
    str | None,
    typer.Option(metavar="LAYER", help="The layer to read: a number, last or all (joined); by default the last."),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts in one forward of the victim.")]

WithTexts = Annotated[
    bool, typer.Option("--with-texts", help="Include texts whose licence does not grant it: you have the right.")
]
Licence = Annotated[
    str | None, typer.Option("--license", help="Licence of what the set adds to the texts, such as cc-by-4.0.")
]

Artifacts = Annotated[
    Path | None, typer.Option("--artifacts", metavar="DIR", help="A folder with artifacts, looked into first.")
]


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Different whole numbers separated by commas.

    Raises:
        ConfigurationError: It is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    # `isdigit` alone also takes digits that `int` does not read, such as superscripts.
    found = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
    if len(set(found)) < len(parts):
        raise ConfigurationError(
            f"{option} {text!r} is not a list of different numbers.", "Give whole numbers such as 0,1,2."
        )
    return found


def layer(text: str | None) -> int | str | None:
    """A layer as `--layer` gives it: its number, with "last" as -1, "all", or None where it was not given.

    Raises:
        ConfigurationError: It is something else.
    """
    if text is None or text == "all":
        return text
    digits = text.removeprefix("-")
    if text != "last" and not (digits.isascii() and digits.isdigit()):
        raise ConfigurationError(f"--layer {text!r} is no layer.", "Give its number, such as 6 or -1, or last, or all.")
    return -1 if text == "last" else int(text)


def seconds(option: str, text: str) -> float:
    """A time span such as 90s, 50m or 3h, in seconds.

    Raises:
        ConfigurationError: It is something else.
    """
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        span = float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        span = -1.0
    if not 0 < span < math.inf:
        raise ConfigurationError(f"{option} {text!r} is no time span.", "Give a number with s, m or h, such as 50m.")
    return span


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas; none where the text is empty."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
