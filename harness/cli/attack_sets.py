"""`harness attack release` and `restore`: attack runs as a set that others can load, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options


def register(app: typer.Typer) -> None:
    """Add these commands to the app of `harness attack`."""
    app.command("release")(release)
    app.command("restore")(restore)


def release(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="An attack's run folder, a suite's, or a folder of attack runs.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder to make.")],
    with_texts: options.WithTexts = False,
    licence: options.Licence = None,
    repo: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Where it will be published, for the card.")
    ] = None,
) -> None:
    """Build the folder that a push to the Hub sends: Parquet, dataset card, datasheet; nothing is sent."""
    from harness.text.release import release_attacks
    from harness.text.release.description import read_description

    files = release_attacks(source, out, repo=repo, with_texts=with_texts, licence=licence)
    described = read_description(out)
    for name, facts in described["configurations"].items():
        counts = facts["counts"]
        typer.echo(
            f"{name}: {counts['rows']} rows, {counts['success']} successful / {counts['failure']} failed / "
            f"{counts['skipped']} skipped, source texts {facts['texts']}"
            + (f", {counts['withheld']} perturbed texts withheld too" if counts["withheld"] else "")
        )
    if described["unfinished"]:
        typer.echo(f"not finished, so left out: {', '.join(described['unfinished'])}", err=True)
    size = sum((out / file).stat().st_size for file in files)
    typer.echo(f"{len(files)} files, {size:,} bytes: {out}")


def restore(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a set, or hub:ORG/NAME.")],
    out: Annotated[
        Path, typer.Option("--out", help="The run folder to make; of more configurations, the folder of theirs.")
    ],
    dataset: Annotated[
        str | None, typer.Option(help="Your own copy of the corpus: a name, or a path to a file or folder.")
    ] = None,
    configuration: Annotated[
        str | None, typer.Option("--config", help="The configuration; by default the only one, or all of the corpus.")
    ] = None,
    victim: Annotated[
        str | None, typer.Option(help="Where the attacked victim is, for `verify` and `eval`; they can be told later.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out rows whose source text your copy lacks.")
    ] = False,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
) -> None:
    """Rebuild attack runs of a set from your own copy of the corpus; every text is checked by its hash."""
    from harness.cli.hub_folders import set_folder
    from harness.text.release.restoring import restore_attacks

    for restored in restore_attacks(
        set_folder(folder),
        out,
        dataset=dataset,
        configuration=configuration,
        victim=victim,
        allow_missing=allow_missing,
        text_column=text_column,
        label_column=label_column,
    ):
        for line in restored.notes():
            typer.echo(line, err=True)
        typer.echo(f"{restored.name}: {len(restored.rows)} rows restored")
        typer.echo(f"run folder: {restored.folder}")
