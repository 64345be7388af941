"""Runs the steps of a suite, each a command of this program, and prints what they say together."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer

from harness.core.errors import HarnessError
from harness.evaluation.suites import Step, get_suite, plan_suite


@dataclass(frozen=True)
class SuiteRequest:
    """What `harness eval detect --suite` was asked."""

    name: str
    out: Path
    data: Path | None
    artifacts: Path | None
    attack_set: Path | None
    only: tuple[str, ...]
    detectors: tuple[str, ...]
    dear: bool
    dry_run: bool
    leaderboard: Path | None


def run_suite(request: SuiteRequest, evaluate: Callable[[list[str]], object]) -> None:
    """Run every step that is not finished (a finished cell is read back); one that fails is marked, the others go on.

    Args:
        request: Which suite, and what of it.
        evaluate: Runs `harness eval ...`, given what follows `harness`.
    """
    from harness.core.runs import run_finished
    from harness.evaluation.suite_report import read_cell, write_report

    steps = plan_suite(
        get_suite(request.name),
        request.out,
        data=request.data,
        artifacts=request.artifacts,
        attack_set=request.attack_set,
        only=request.only,
        detectors=request.detectors,
        dear=request.dear,
    )
    if request.dry_run:
        for step in steps:
            typer.echo(_command(step))
        return
    missing: dict[str, str] = {}
    for number, step in enumerate(steps, start=1):
        lacking = [folder for folder in step.needs if not run_finished(folder)]
        if lacking:
            missing[step.name] = f"{lacking[0].name} is not there"
            continue
        if step.kind != "cell" and run_finished(step.folder):
            continue
        typer.echo(f"[{number}/{len(steps)}] {_command(step)}")
        why = _in_process(step, evaluate) if step.kind == "cell" else _subprocess(step)
        if why:
            missing[step.name] = why
            typer.echo(f"not finished: {why}", err=True)
    cells = [read_cell(step) for step in steps if step.kind == "cell" and step.name not in missing]
    if not cells:
        raise HarnessError("no cell of the suite is finished.", next(iter(missing.values()), ""))
    report = write_report(request.out, cells, missing)
    for path in report.files:
        typer.echo(f"written: {path}")
    typer.echo(f"{len(cells)} cells, {len(report.rows)} rows" + (f", {len(missing)} steps missing" if missing else ""))
    if request.leaderboard is not None:
        from harness.leaderboard.board import add

        for path in add(request.leaderboard, report.rows):
            typer.echo(f"leaderboard: {path}")


def _command(step: Step) -> str:
    return shlex.join(["harness", *step.arguments])


def _subprocess(step: Step) -> str:
    """Run an attack in a process of its own, which gives its memory back; why it failed, or nothing."""
    done = subprocess.run([sys.executable, "-m", "harness", *step.arguments], check=False)  # noqa: S603 - our own
    return f"exit code {done.returncode}" if done.returncode else ""


def _in_process(step: Step, evaluate: Callable[[list[str]], object]) -> str:
    """Run a cell here, which spares the imports; why it failed, or nothing."""
    from harness.core.runs import command_line

    try:
        with command_line(step.arguments):
            evaluate(list(step.arguments))
    except HarnessError as error:
        return f"{error.message} {error.hint}".strip()
    return ""
