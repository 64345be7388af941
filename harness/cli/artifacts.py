"""`harness fetch` and `harness doctor`: the external files that attacks need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options
from harness.core.errors import ConfigurationError, HarnessError


def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Artifacts (harness doctor shows all).")],
    artifacts: Annotated[
        Path | None,
        typer.Option(
            "--artifacts", metavar="DIR", help="A folder to bring them to, for other machines too; else the cache."
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="For what learns from texts: a dataset's name, or a path.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="For what learns from texts: how many of them.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=options.LARGEST_SEED, help="Seed of what is made here.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Fetch or make it also where it is here.")] = False,
) -> None:
    """Bring artifacts to the cache or to a folder: downloads are resumed, checked and unpacked safely."""
    from textadv.artifacts import ARTIFACTS, Made
    from textadv.fetching import Settings
    from textadv.fetching import fetch as fetch_one

    sources = [ARTIFACTS.get(name).source for name in names]  # a wrong name stops before anything is downloaded
    learns = any(isinstance(source, Made) and source.takes_dataset for source in sources)
    if not learns and (dataset is not None or limit is not None):
        raise ConfigurationError("--dataset and --limit are for artifacts that learn from texts; none of these does.")
    settings = Settings(dataset, limit, seed)
    failed: dict[str, HarnessError] = {}
    for name in dict.fromkeys(names):
        try:
            found = fetch_one(name, artifacts, settings=settings, again=again, say=_say)
        except HarnessError as error:  # the others can still be had
            failed[name] = error
        else:
            typer.echo(f"{name}: {found.note} ({found.place})")
    if len(failed) > 1:
        for found_wrong in failed.values():
            _say(f"{found_wrong.message} {found_wrong.hint}")
        raise HarnessError(f"{len(failed)} artifacts could not be fetched: {', '.join(failed)}.")
    for found_wrong in failed.values():
        raise found_wrong


def _say(line: str) -> None:
    typer.echo(line, err=True)


def doctor(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Artifacts; all by default.")] = None,
    artifacts: options.Artifacts = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file and compare it with its manifest; 1 where one differs.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Leave with exit code 1 where anything that can be had is missing.")
    ] = False,
) -> None:
    """Say which artifacts, packages and programs are here, what is missing, and what that disables."""
    from harness.cli.health import print_artifacts, print_packages
    from harness.cli.listing import add_on_problems
    from textadv.diagnosis import NEEDED_EXTRAS, artifact_states, java_version, package_states

    states = artifact_states(names or (), artifacts, verify=verify)
    print_artifacts(states)
    missing = any(state.state in ("missing", "damaged") for state in states)
    if not names:
        packages = package_states()
        print_packages(packages, java_version())
        for problem in add_on_problems():
            typer.echo(f"an add-on is broken: {problem}")
        missing |= any(not package.fits and package.extra in NEEDED_EXTRAS for package in packages)
    damaged = any(state.state == "damaged" for state in states)
    if (strict and missing) or (verify and damaged):
        raise typer.Exit(1)
