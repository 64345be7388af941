"""What is here and what is missing of all that attacks can use, and what that disables."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.core.errors import ConfigurationError, MissingArtifactError
from textadv.artifacts import ARTIFACTS, Made, Pickled, damages, find_artifact, locate, way_to_get

if TYPE_CHECKING:
    from packaging.requirements import Requirement

State = Literal["here", "missing", "damaged", "no safe format"]
_DISTRIBUTION = "palimpsest"
# What attacks run on; the other extras are shown, but nothing of attacks needs them.
NEEDED_EXTRAS = ("", "attack")
_SHOWN_EXTRAS = (*NEEDED_EXTRAS, "demo", "ray", "ssl", "standins")


@dataclass(frozen=True)
class ArtifactState:
    """How it stands with an artifact.

    Attributes:
        name: The artifact.
        state: Whether it can be used; "no safe format" where it exists only as a pickle.
        place: Where it lies; None where it is nowhere.
        needed_by: The recipes that need it, and the artifacts that are made from it.
        stand_in_for: What it replaces.
        note: What is wrong; empty where nothing is.
        way_to_get: How to get it or to mend it; empty where nothing is wrong.
    """

    name: str
    state: State
    place: Path | None
    needed_by: tuple[str, ...]
    stand_in_for: str | None
    note: str
    way_to_get: str


@dataclass(frozen=True)
class PackageState:
    """How it stands with a Python package.

    Attributes:
        extra: The extra of this project that asks for it; "" for what is always needed.
        requirement: What is asked for.
        version: The installed version, or None.
        fits: Whether that is a version that is asked for.
    """

    extra: str
    requirement: str
    version: str | None
    fits: bool


def artifact_states(
    names: Collection[str] = (), folder: Path | None = None, *, verify: bool = False
) -> list[ArtifactState]:
    """How it stands with artifacts.

    Args:
        names: Which ones; all where it is empty.
        folder: The user's `--artifacts` folder.
        verify: Read every file and compare it with the manifest; else only sizes are compared.

    Raises:
        UnknownNameError: There is no such artifact.
        MissingFileError: There is no such folder.
    """
    needed_by = _needed_by()
    return [_artifact_state(name, folder, verify, needed_by.get(name, ())) for name in names or ARTIFACTS.names()]


def _artifact_state(name: str, folder: Path | None, verify: bool, needed_by: tuple[str, ...]) -> ArtifactState:
    artifact = ARTIFACTS.get(name)
    place = locate(artifact, folder)
    state: State = "here"
    note = get = ""
    try:
        find_artifact(name, folder)
    except MissingArtifactError as error:
        pickled = isinstance(artifact.source, Pickled)
        state, note, get = "no safe format" if pickled else "missing", error.message, error.hint
    if place is not None and (wrong := damages(place, hashes=verify)):
        state, note, get = "damaged", f"{'; '.join(wrong)} (in {place})", way_to_get(artifact, folder)
    return ArtifactState(name, state, place, needed_by, artifact.stand_in_for, note, get)


def _needed_by() -> Mapping[str, tuple[str, ...]]:
    from textadv.recipes import RECIPES

    found = defaultdict(list)
    for entry in RECIPES.sound():
        for name in getattr(RECIPES.get(entry.name), "artifacts", ()):
            found[name].append(entry.name)
    for name in ARTIFACTS.names():
        source = ARTIFACTS.get(name).source
        for need in source.needs if isinstance(source, Made) else ():
            found[need].append(f"making {name}")
    return {name: tuple(users) for name, users in found.items()}


def package_states() -> list[PackageState]:
    """How it stands with the Python packages that this project asks for, extra by extra.

    Raises:
        ConfigurationError: The project itself is not installed.
    """
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(f"{_DISTRIBUTION} is not installed.", "Run: pip install -e .") from error
    states = []
    for extra in _SHOWN_EXTRAS:
        for wanted in map(Requirement, lines):
            # What holds without an extra is not the extra's.
            asked = _holds(wanted, extra) and not (extra and _holds(wanted, ""))
            if not asked or wanted.name == _DISTRIBUTION:
                continue
            version = _version(wanted.name)
            fits = version is not None and wanted.specifier.contains(version, prereleases=True)
            states.append(PackageState(extra, f"{wanted.name}{wanted.specifier}", version, fits))
    return states


def _holds(wanted: Requirement, extra: str) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def java_version() -> str | None:
    """The first line of `java -version`, or None where there is no Java that runs."""
    java = shutil.which("java")
    if java is None:
        return None
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    # It speaks on standard error.
    return next(iter(done.stderr.splitlines()), None) if done.returncode == 0 else None
