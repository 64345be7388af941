"""Does a leaderboard hold? Every row alone, the rows against each other, and the files made from them.

A fault is what cannot be: a row that was edited, numbers that no counts give, two results of one experiment. A warning
is what a reader of the table should know, such as versions that differ; each row may be right by itself.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import DataError, MissingFileError
from harness.core.files import canonical_json, read_json
from harness.core.rows import BOARDS, Row, read_row, row_files
from harness.leaderboard.board import require, stale
from harness.leaderboard.detection_checks import check_detection
from harness.leaderboard.identity import dig, names, sample, settings
from harness.leaderboard.revisions import changes_since
from harness.leaderboard.ssl_checks import check_ssl

_CHECKS = {"detection": check_detection, "ssl": check_ssl}
# Packages whose version decides numbers, and not merely how a table is written.
_DECISIVE = ("palimpsest", "numpy", "scikit-learn", "textattack", "timm", "torch", "transformers")
# What a table of one comparison has in common.
_COMPARED = {
    "detection": ("dataset", "recipe", "goal", "victim", "scenario"),
    "ssl": ("eval_dataset", "train_dataset", "arch"),
}
_LEFT_BEHIND = re.compile(r"^\..+\.(staged|tmp)$")
_SHOWN = 4


@dataclass(frozen=True)
class Finding:
    """One sentence on a file, or on several; without `fatal` it is a warning."""

    files: tuple[Path, ...]
    message: str
    fatal: bool = True


@dataclass(frozen=True)
class Verification:
    """What was found: `rows` were read, and `findings` are in order of their files, faults first."""

    rows: int
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """What makes the leaderboard unsound."""
        return tuple(found for found in self.findings if found.fatal)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What a reader should know."""
        return tuple(found for found in self.findings if not found.fatal)


def verify(leaderboard: Path, only: Sequence[Path] | None = None, *, since: str | None = None) -> Verification:
    """Check a leaderboard; nothing is changed.

    Args:
        leaderboard: The folder that holds `results/`.
        only: Tell only what concerns these row files, which may lie elsewhere; all rows are read nevertheless, since
            a row is checked against the others.
        since: Tell only what concerns rows that came or were changed since this git revision; a changed row is a fault.

    Returns:
        The findings; none of them raises.

    Raises:
        MissingFileError: There is no such folder, or no file of `only`.
        DataError: The folder is no leaderboard.
        ConfigurationError: git does not know `since`.
    """
    leaderboard = require(leaderboard)
    chosen = None if only is None else {_existing(path).resolve() for path in only}
    findings: list[Finding] = []
    if since is not None:
        changes = changes_since(leaderboard, since)
        chosen = (chosen or set()) | {path.resolve() for path in (*changes.added, *changes.modified)}
        findings += [
            Finding((path,), f"it was changed since {since}, and rows never are.") for path in changes.modified
        ]
        gone = [path for path in changes.deleted if path not in changes.modified]
        findings += [Finding((path,), f"it was taken away since {since}.", fatal=False) for path in gone]
        chosen |= {path.resolve() for path in gone}
    files = {board: list(row_files(leaderboard, board)) for board in BOARDS}
    known = {path.resolve() for paths in files.values() for path in paths}
    for path in only or ():
        if path.resolve() not in known:
            files[_board_of(path)].append(path)
    rows: dict[str, list[tuple[Path, Row]]] = {board: [] for board in BOARDS}
    for board, paths in files.items():
        for path in paths:
            findings += _read(path, board, rows[board])
    findings += _strangers(leaderboard)
    for board, read in rows.items():
        findings += [*_twins(read), *_mixtures(board, read)]
    findings += _differences(rows["detection"])
    if chosen is not None:
        findings = [found for found in findings if chosen & {path.resolve() for path in found.files}]
        count = sum(path.resolve() in chosen for read in rows.values() for path, _ in read)
        return Verification(count, _ordered(findings))
    if not any(found.fatal for found in findings):
        told = stale(leaderboard, {board: [row for _, row in read] for board, read in rows.items()})
        findings += [Finding((path,), f"{why}; `harness leaderboard build` writes it anew.") for path, why in told]
    return Verification(sum(map(len, rows.values())), _ordered(findings))


def _ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda found: (not found.fatal, [str(path) for path in found.files])))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise MissingFileError(f"there is no file {path}.")
    return path


def _board_of(path: Path) -> str:
    """The board of a row that lies outside the leaderboard, as far as one can tell."""
    try:
        board = dig(read_json(path), "board")
    except DataError:
        board = None
    return board if board in BOARDS else path.parent.name if path.parent.name in BOARDS else BOARDS[0]


def _read(path: Path, board: str, into: list[tuple[Path, Row]]) -> Iterator[Finding]:
    if path.is_symlink():
        yield Finding((path,), "it is a link; a row is a file of its own.")
        return
    try:
        row = read_row(path, board)
    except DataError as error:
        yield Finding((path,), error.message.removeprefix(f"{path} "))
        return
    into.append((path, row))
    for problem in _CHECKS[board](row):
        yield Finding((path,), problem.message, problem.fatal)


def _strangers(leaderboard: Path) -> Iterator[Finding]:
    """What lies under `results/` and is no row: nobody would ever read it."""
    for path in sorted((leaderboard / "results").rglob("*")):
        inside = path.relative_to(leaderboard / "results").parts
        if path.is_dir():
            continue
        if _LEFT_BEHIND.match(path.name):
            said = "a process that was killed, or is still at work, left it; delete it when none is."
            yield Finding((path,), said, fatal=False)
        elif path.name.startswith("."):
            continue
        elif len(inside) != 2 or inside[0] not in BOARDS:
            yield Finding(
                (path,), f"rows lie in {' and '.join(f'results/{board}/' for board in BOARDS)}, and nowhere else."
            )
        elif path.suffix != ".json":
            yield Finding((path,), "it is no row, whose name ends in .json.")


def _twins(rows: Sequence[tuple[Path, Row]]) -> Iterator[Finding]:
    """Rows of one experiment with two results."""
    groups: dict[bytes, list[tuple[Path, Row]]] = defaultdict(list)
    for path, row in rows:
        groups[canonical_json([names(row), row["seed"], settings(row)])].append((path, row))
    for group in groups.values():
        first, *others = group
        for path, row in others:
            if row["id"] == first[1]["id"]:
                yield Finding((path,), f"the same row lies in {first[0]}.")
            elif row["protocol"] == first[1]["protocol"]:
                yield Finding(
                    (path, first[0]), f"names, seed and protocol are those of {first[0].name}, the results are not."
                )
            else:
                said = f"{first[0].name} is the same experiment with other results; keep one of them."
                yield Finding((path, first[0]), said, fatal=False)


def _mixtures(board: str, rows: Sequence[tuple[Path, Row]]) -> Iterator[Finding]:
    """Rows that stand in one table and were not made alike."""
    tables: dict[tuple[Any, ...], list[tuple[Path, Row]]] = defaultdict(list)
    for path, row in rows:
        table = {**row, **names(row)}
        tables[tuple(table[key] for key in _COMPARED[board])].append((path, row))
    for names_of, group in tables.items():
        title = ", ".join("unknown" if name is None else str(name) for name in names_of)
        for package in _DECISIVE:
            found = _by(group, _minor(package))
            if len(found) > 1:
                yield _mixed(f"{title}: rows of {package} {' and '.join(sorted(found))} are compared.", found)
        found = _by(group, lambda row: str(row["schema"]))
        if len(found) > 1:
            yield _mixed(f"{title}: rows of schema {' and '.join(sorted(found))} are compared.", found)
        if board == "detection":
            found = _by(group, lambda row: dig(row["protocol"], "victim", "hash"))
            if len(found) > 1:
                yield _mixed(f"{title}: victims of {len(found)} different weights have one name.", found)


def _minor(package: str) -> Any:
    def version(row: Row) -> str | None:
        text = dig(row["protocol"], "versions", package)
        return ".".join(text.split("+")[0].split(".")[:2]) if isinstance(text, str) else None

    return version


def _by(rows: Sequence[tuple[Path, Row]], key: Any) -> dict[str, list[Path]]:
    """Files by what `key` says of their rows; rows that it says nothing of are left out."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path, row in rows:
        value = key(row)
        if isinstance(value, str):
            found[value].append(path)
    return found


def _mixed(message: str, found: dict[str, list[Path]]) -> Finding:
    """A warning that names the rows that are fewer; of equally many, those that sort last."""
    *fewer, _ = sorted(found.items(), key=lambda item: (len(item[1]), item[0]))
    return Finding(tuple(sorted(path for _, paths in fewer for path in paths)), message, fatal=False)


def _differences(rows: Sequence[tuple[Path, Row]]) -> Iterator[Finding]:
    """A stored difference is that of the two stored AUCs, where both rows are of one run and the same texts."""

    def key(row: Row, detector: str) -> tuple[Any, ...]:
        known = {**names(row), "detector": detector}
        return (*known.values(), row["seed"], row["run"], row["n_clean"], row["n_adversarial"], sample(row))

    aucs = {key(row, row["detector"]): row["metrics"]["auc"]["value"] for _, row in rows}
    for path, row in rows:
        auc = row["metrics"]["auc"]["value"]
        for found in row.get("comparisons", ()):
            other, gap = aucs.get(key(row, found["reference"])), found["auc_difference"]["value"]
            if None not in (auc, other, gap) and abs(auc - other - gap) > 1e-9:
                yield Finding(
                    (path,),
                    f"comparisons: its AUC is {auc - other:+.6g} from that of {found['reference']}, not {gap:+.6g}.",
                )
