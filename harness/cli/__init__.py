"""The command `harness`: one Typer app a verb; they parse, call and print, and hold no logic.

Nothing heavy is imported here or at the top of a verb's module: `harness --help` must answer at once.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

import harness
from harness.cli import (
    artifacts,
    attack,
    detect,
    evaluate,
    leaderboard,
    options,
    pushing,
    report,
    self_supervised,
    victim,
)
from harness.cli.listing import list_names
from harness.cli.visible import visible
from harness.core.errors import EXIT_CODE, HarnessError
from harness.core.runs import command_line

_INTERRUPTED = 130

app = options.verb("Is this text adversarial, and how good is each layer? Attack, detect, train encoders, compare.")
app.add_typer(victim.app, name="victim")
app.add_typer(attack.app, name="attack")
app.add_typer(detect.app, name="detect")
app.add_typer(evaluate.app, name="eval")
app.add_typer(self_supervised.app, name="ssl")
app.add_typer(leaderboard.app, name="leaderboard")
app.command("list")(list_names)
app.command("fetch", no_args_is_help=True)(artifacts.fetch)
app.command("doctor")(artifacts.doctor)
app.command("report", no_args_is_help=True)(report.report)
pushing.register(attack.app, detect.app, self_supervised.app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"palimpsest {harness.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; expected errors become one sentence, a hint and exit code 2."""
    # Threads that spin while they wait make a busy machine many times slower; it is read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The hub's client reports every retry; one sentence at the end says it all.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        # A text may hold what the terminal's encoding cannot say; that is no reason to stop.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        with command_line(sys.argv[1:]):
            app(args=evaluate.spread(sys.argv[1:]))
    except HarnessError as error:
        _complain(error.message, error.hint)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _complain("no space left on the device.", "Free some space and run the same command again.")
        if not isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError):
            raise
        # A rename names its temporary file first.
        _complain(f"{error.filename2 or error.filename} cannot be used: {error.strerror}.", "Give another path.")
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:  # what Typer makes of Ctrl-C
            typer.echo("interrupted; run the same command again to resume.", err=True)
        raise


def _complain(message: str, hint: str) -> None:
    # Names in it may be those of files and rows that others made.
    typer.echo(visible(f"error: {message}"), err=True)
    if hint:
        typer.echo(visible(f"hint: {hint}"), err=True)
    sys.exit(EXIT_CODE)
