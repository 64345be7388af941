"""What the verbs share: how their apps are made, and common options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Out = Annotated[Path, typer.Option("--out", help="The run folder to make, or to resume.")]
Dtype = Annotated[str, typer.Option(help="fp32, or bf16 where the hardware has it.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens a text may have; by default what the victim takes.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts in one forward of the victim.")]
