"""`harness attack push`, `detect push` and `ssl push`: publish to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options

if TYPE_CHECKING:
    from harness.hub.names import Kind

Repo = Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository on the hub.")]
Public = Annotated[bool, typer.Option("--public", help="Let everybody see it; by default only its owner does.")]
Update = Annotated[bool, typer.Option("--update", help="Put these files in place of those that the repository has.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the files and their sizes; send nothing.")]
# Writes what may leave into an empty folder and returns the names of the files.
Stage = Callable[[Path], list[str]]


def register(attack: typer.Typer, detect: typer.Typer, ssl: typer.Typer) -> None:
    """Add `push` to the apps of these verbs."""
    for app, command in ((attack, push_attacks), (detect, push_detector), (ssl, push_encoder)):
        app.command("push")(command)


def push_attacks(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="An attack's run folder, a suite's, a folder of attack runs, or what `harness attack release` made.",
        ),
    ],
    repo: Repo,
    public: Public = False,
    update: Update = False,
    dry_run: DryRun = False,
    with_texts: options.WithTexts = False,
    licence: options.Licence = None,
) -> None:
    """Publish attacks as a dataset that `datasets.load_dataset` opens.

    The token comes from HF_TOKEN or `hf auth login`.
    """
    from harness.core.errors import ConfigurationError
    from harness.text.release import stage_attacks
    from harness.text.release.released import is_released, stage_released

    if is_released(source) and (with_texts or licence):
        raise ConfigurationError(
            f"the set in {source} is made already, so it is published as it is.",
            "Give --with-texts and --license to `harness attack release`.",
        )

    def stage(folder: Path) -> list[str]:
        if is_released(source):
            return stage_released(source, folder)
        return stage_attacks(source, folder, repo=repo, with_texts=with_texts, licence=licence)

    _push(stage, repo, "dataset", public, update, dry_run)


def push_detector(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A fitted detector's run folder.")],
    repo: Repo,
    public: Public = False,
    update: Update = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a fitted detector; anybody who may see it scores texts with hub:ORG/NAME.

    The token comes from HF_TOKEN or `hf auth login`.
    """
    from harness.detectors.publishing import stage_detector

    _push(lambda folder: stage_detector(run, folder, repo=repo), repo, "model", public, update, dry_run)


def push_encoder(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder of `harness ssl train`.")],
    repo: Repo,
    public: Public = False,
    update: Update = False,
    dry_run: DryRun = False,
    evaluations: Annotated[
        list[Path] | None,
        typer.Option("--evaluation", metavar="RUN", help="A run of `harness eval ssl` whose figures the card tells."),
    ] = None,
) -> None:
    """Publish an encoder that `timm.create_model("hf_hub:ORG/NAME")` opens.

    The token comes from HF_TOKEN or `hf auth login`.
    """
    from sdssl.publishing import stage_encoder

    def stage(folder: Path) -> list[str]:
        return stage_encoder(run, folder, repo=repo, evaluations=evaluations or ())

    _push(stage, repo, "model", public, update, dry_run)


def _push(stage: Stage, repo: str, kind: Kind, public: bool, update: bool, dry_run: bool) -> None:
    import tempfile

    from harness.core.files import disk_errors
    from harness.hub.names import target
    from harness.hub.outgoing import in_units, outgoing_files
    from harness.hub.publishing import publish

    where = target(repo, kind)  # a wrong id is told before anything is made
    with tempfile.TemporaryDirectory(prefix="palimpsest-push-") as name:
        folder = Path(name, "staging")
        with disk_errors(folder):
            names = stage(folder)
        files = outgoing_files(folder, names)
        for file in files:
            typer.echo(f"{file.size:>14,}  {file.name}")
        total = f"{len(files)} files, {in_units(sum(file.size for file in files))}"
        goal = f"the {'public' if public else 'private'} {where}"
        if dry_run:
            typer.echo(f"{total}; without --dry-run they go to {goal}")
            return
        typer.echo(f"{total}, to {goal}")
        done = publish(folder, names, repo, kind, private=not public, update=update)
    typer.echo(f"{'published' if done.changed else 'it holds these files already'}: {done.url}")
    typer.echo(f"commit: {done.commit}")
