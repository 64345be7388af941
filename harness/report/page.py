"""One page a run: which part of the room reads it, and how the page is written."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError
from harness.core.files import write_text
from harness.core.runs import CONFIG, LOG, MANIFEST
from harness.report import attacks as attack_pages
from harness.report import detection, layers, pretraining, short
from harness.report.characters import visible
from harness.report.document import Notes, Page
from harness.report.finished import FinishedRun, open_run
from harness.report.run_facts import facts_section

REPORT_FILE = "report.html"
_BUILDERS: dict[str, Callable[[FinishedRun, Sequence[Path] | None], Page]] = {
    "eval detect": detection.build,
    "eval ssl": layers.build,
    "attack run": attack_pages.build,
    "attack import": attack_pages.build,
    "ssl train": pretraining.build,
    "victim train": short.build,
    "detect fit": short.build,
}


@dataclass(frozen=True)
class WrittenReport:
    """A page that was written, and what has to be said beside it."""

    path: Path
    notes: Sequence[str]


def write_report(folder: Path, out: Path | None = None, attacks: Sequence[Path] | None = None) -> WrittenReport:
    """Write the page of a finished run.

    Args:
        folder: The run's folder.
        out: The file to write; by default `report.html` in the folder.
        attacks: Of an `eval detect` run, where its attacks lie now, instead of where the run says they lay.

    Raises:
        MissingFileError: There is no such folder.
        ConfigurationError: It is no run, not finished, of a command without a report, or `out` would harm the run.
        DataError: A file of the run is damaged.
    """
    run = open_run(folder)
    if run.command not in _BUILDERS:
        raise ConfigurationError(
            f"there is no report of a run of `harness {run.command}`.", f"There are reports of: {', '.join(_BUILDERS)}."
        )
    if attacks and run.command != "eval detect":
        raise ConfigurationError(
            f"{run.folder} was made by `harness {run.command}`, which evaluates no attacks.", "Leave out --attacks."
        )
    path = run.folder / REPORT_FILE if out is None else Path(out)
    _check_out(path, run)
    page = _BUILDERS[run.command](run, attacks)
    made = facts_section(run.folder / CONFIG, run.config, run.manifest)
    write_text(path, render(Page(page.title, page.lead, [*page.sections, made], page.notes)))
    return WrittenReport(path, page.notes)


def _check_out(path: Path, run: FinishedRun) -> None:
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder.", "Give a file as --out.")
    own = {(run.folder / name).resolve() for name in (*run.manifest["outputs"], CONFIG, MANIFEST, LOG)}
    if path.resolve() in own:
        raise ConfigurationError(f"{path} is a file of the run itself.", "Give another --out.")


def render(page: Page) -> str:
    """The HTML of a page: one file that asks for nothing; it depends on nothing but the page."""
    import jinja2
    from markupsafe import Markup

    counters: dict[str, Any] = defaultdict(lambda: itertools.count(1))

    def shown(value: Any) -> Any:
        # What a macro made is HTML already; everything else that is a string came from somewhere else.
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = _file("report.css")
    return environment.get_template("page.html.j2").render(
        page=page,
        notes=Notes,
        number=lambda kind: next(counters[kind]),
        style=Markup(style),  # noqa: S704 - our own file, the only style that the page's policy lets in
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )


def _file(name: str) -> str:
    return resources.files("harness.report").joinpath(name).read_text(encoding="utf-8")
