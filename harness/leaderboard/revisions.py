"""Leaderboards as git keeps them: the rows of an earlier revision, and what was done to rows since."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.core.errors import ConfigurationError

_RESULTS = "results"


@dataclass(frozen=True)
class Changes:
    """Files under `results/` that came, were changed, or went since a revision; what git ignores is not seen."""

    added: tuple[Path, ...]
    modified: tuple[Path, ...]
    deleted: tuple[Path, ...]


def changes_since(leaderboard: Path, revision: str) -> Changes:
    """What was done to a leaderboard's rows since a revision, committed or not.

    Args:
        leaderboard: The folder that holds `results/`, in a git checkout.
        revision: Anything that git takes for a commit.

    Raises:
        ConfigurationError: There is no checkout, no git, or no such revision.
    """
    commit = _commit(leaderboard, revision)
    told = _git(leaderboard, "diff", "--name-status", "--no-renames", "--relative", "-z", commit, "--", _RESULTS)
    fields = told.decode("utf-8", "surrogateescape").split("\0")[:-1]
    files: dict[str, list[Path]] = {}
    for status, name in zip(fields[::2], fields[1::2], strict=True):
        files.setdefault(status[0], []).append(leaderboard / name)
    untracked = _git(leaderboard, "ls-files", "--others", "--exclude-standard", "-z", "--", _RESULTS)
    new = [leaderboard / name for name in untracked.decode("utf-8", "surrogateescape").split("\0")[:-1]]
    added = sorted({*files.pop("A", []), *new})
    deleted = files.pop("D", [])
    return Changes(
        tuple(added), tuple(sorted(path for rest in files.values() for path in rest)), tuple(sorted(deleted))
    )


@contextmanager
def leaderboard_at(leaderboard: Path, revision: str) -> Iterator[Path]:
    """A leaderboard's rows as they were at a revision, in a folder that lasts as long as the block.

    Args:
        leaderboard: The folder, in a git checkout.
        revision: Anything that git takes for a commit.

    Yields:
        A folder that holds `results/`, empty where the revision had no rows.

    Raises:
        ConfigurationError: There is no checkout, no git, or no such revision.
    """
    commit = _commit(leaderboard, revision)
    with TemporaryDirectory(prefix="palimpsest-leaderboard-") as name:
        folder = Path(name)
        (folder / _RESULTS).mkdir()
        if _git(leaderboard, "ls-tree", "-z", commit, "--", _RESULTS):
            archive = _git(leaderboard, "archive", "--format=tar", commit, "--", _RESULTS)
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder, filter="data")
        yield folder


def _commit(leaderboard: Path, revision: str) -> str:
    try:
        _git(leaderboard, "rev-parse", "--show-toplevel")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{leaderboard} is in no git checkout.", "Leave out what asks for a revision."
        ) from error
    try:
        found = _git(leaderboard, "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"git knows no revision {revision!r} in {leaderboard}.", "Give a branch, a tag or a commit, such as HEAD."
        ) from error
    return found.decode().strip()


def _git(folder: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout  # noqa: S603
    except FileNotFoundError as error:
        raise ConfigurationError(
            "git is not installed.", "Install it, or leave out what asks for a revision."
        ) from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ConfigurationError(
            f"git {arguments[0]} failed in {folder}: {(reason or ['no reason given'])[-1]}"
        ) from error
