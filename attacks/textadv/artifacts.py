"""Where the external files are that recipes need, and what to do when they are not here.

An artifact is looked for in the folder that `--artifacts` names, then in the cache, then where its Python package
or NLTK keeps it. Nothing is downloaded here and nothing is ever put in another's place.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from harness.core.errors import DataError, MissingArtifactError, MissingFileError
from harness.core.files import cache_folder, hash_file, read_json
from textadv.artifact_catalogue import ARTIFACTS
from textadv.artifact_kinds import Artifact, Download, HubSnapshot, InstalledPackage, Made, Pickled

__all__ = [
    "ARTIFACTS",
    "Artifact",
    "Download",
    "HubSnapshot",
    "InstalledPackage",
    "Made",
    "Pickled",
    "artifacts_folder",
    "damages",
    "find_artifact",
    "is_here",
    "lacking",
    "locate",
    "missing_module",
    "module_folder",
    "proof",
    "read_manifest",
    "way_to_get",
]

MANIFEST = "manifest.json"
_PROGRAM_HINTS = {"java": "Install Java 17 or newer, such as Debian's default-jre-headless."}


def find_artifact(name: str, folder: Path | None = None) -> Path:
    """The folder of an artifact.

    Args:
        name: The artifact's name (`ARTIFACTS`).
        folder: The user's `--artifacts` folder; `folder/name` is looked at first.

    Raises:
        UnknownNameError: There is no such artifact.
        MissingFileError: There is no such folder.
        MissingArtifactError: It is not here, files of it are missing or of another size than its manifest says, or
            a program or package that it needs is missing.
    """
    artifact = ARTIFACTS.get(name)
    place = locate(artifact, folder)
    if place is None:
        raise MissingArtifactError(
            " ".join([f"the artifact {name!r} is not here ({artifact.summary}).", *_partly_here(artifact, folder)]),
            way_to_get(artifact, folder),
        )
    if wrong := damages(place):
        raise MissingArtifactError(
            f"the artifact {name!r} in {place} is damaged: {'; '.join(wrong[:3])}.", way_to_get(artifact, folder)
        )
    if module := missing_module(artifact):
        raise MissingArtifactError(
            f"the artifact {name!r} needs the Python package {module!r}, which is not installed.",
            _pip_line(artifact.source),  # type: ignore[arg-type]  # only a package has a module
        )
    for program in artifact.programs:
        if shutil.which(program) is None:
            raise MissingArtifactError(
                f"the artifact {name!r} needs the program {program!r}, which is not on the PATH.",
                _PROGRAM_HINTS.get(program, f"Install {program}."),
            )
    return place


def is_here(name: str, folder: Path | None = None) -> bool:
    """Whether `find_artifact` finds it.

    Raises:
        UnknownNameError: There is no such artifact.
        MissingFileError: There is no such folder.
    """
    try:
        find_artifact(name, folder)
    except MissingArtifactError:
        return False
    return True


def artifacts_folder(folder: Path | None = None) -> Path:
    """The folder that holds a folder for each artifact: `folder`, or the cache's."""
    return cache_folder("artifacts") if folder is None else Path(folder)


def locate(artifact: Artifact, folder: Path | None = None) -> Path | None:
    """The first place that has all the files that prove an artifact is here, or None.

    Raises:
        MissingFileError: There is no such `folder`.
    """
    if folder is not None and not Path(folder).is_dir():
        raise MissingFileError(
            f"there is no folder of artifacts {folder}.",
            f"Make it: harness fetch {artifact.name} --artifacts {shlex.quote(str(folder))}",
        )
    return next((place for place in _places(artifact, folder) if proof(artifact, place)), None)


def lacking(artifact: Artifact, place: Path) -> list[str]:
    """The files that `place` lacks of an artifact; of several sets that would do, those of the first."""
    if proof(artifact, place):
        return []
    return [name for name in artifact.files if not (place / name).is_file()]


def proof(artifact: Artifact, place: Path) -> tuple[str, ...]:
    """The files in `place` that prove that an artifact is there; empty where it is not."""
    sets = (artifact.files, *artifact.or_files)
    return next((files for files in sets if all((place / name).is_file() for name in files)), ())


def missing_module(artifact: Artifact) -> str:
    """The import name of the package whose code an artifact needs, where it is not installed; else empty."""
    source = artifact.source
    if isinstance(source, InstalledPackage) and source.is_code and module_folder(source.module) is None:
        return source.module
    return ""


def way_to_get(artifact: Artifact, folder: Path | None = None) -> str:
    """The sentence that says how to get an artifact."""
    source = artifact.source
    if isinstance(source, Pickled):
        return f"There is no safe copy to be had: it is {source.origin}."
    if isinstance(source, InstalledPackage) and source.is_code:
        return _pip_line(source)
    command = f"harness fetch {artifact.name}"
    if folder is not None:
        command += f" --artifacts {shlex.quote(str(folder))}"
    return f"Run: {command}"


def read_manifest(place: Path) -> Mapping[str, Any] | None:
    """The manifest of a fetched artifact, or None for a folder that was put together by hand.

    Raises:
        DataError: It is no manifest.
    """
    path = place / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    try:
        for name, facts in manifest["files"].items():
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise ValueError(name)
            int(facts["bytes"]), str(facts["sha256"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no manifest of an artifact.", f"Remove {place} and fetch it again.") from error
    return manifest  # type: ignore[no-any-return]


def damages(place: Path, *, hashes: bool = False) -> list[str]:
    """What is wrong with the files of a fetched artifact; empty where nothing is, or where there is no manifest.

    Args:
        place: Its folder.
        hashes: Read every file and compare its SHA-256; else only sizes are compared, which costs nothing.
    """
    try:
        manifest = read_manifest(place)
    except DataError as error:
        return [error.message.rstrip(".")]
    if manifest is None:
        return []
    wrong = []
    for name, facts in sorted(manifest["files"].items()):
        path = place / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (size := path.stat().st_size) != facts["bytes"]:
            wrong.append(f"{name} has {size:,} bytes instead of {facts['bytes']:,}")
        elif hashes and hash_file(path) != facts["sha256"]:
            wrong.append(f"{name} has another SHA-256 than the manifest says")
    return wrong


def _places(artifact: Artifact, folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield Path(folder) / artifact.name
    yield artifacts_folder() / artifact.name
    if isinstance(artifact.source, InstalledPackage):
        package = module_folder(artifact.source.module)
        if package is not None:
            yield package / artifact.source.path
    if artifact.in_nltk_data:
        yield from _nltk_folders()


def module_folder(module: str) -> Path | None:
    """The folder of an installed top-level package, found without importing it, or None."""
    spec = importlib.util.find_spec(module)
    return next((Path(place) for place in (spec and spec.submodule_search_locations) or ()), None)


def _nltk_folders() -> list[Path]:
    """Where NLTK looks for data; importing NLTK only to ask it would take a second."""
    loaded = sys.modules.get("nltk.data")
    if loaded is not None:
        return [Path(place) for place in loaded.path]
    own = [place for place in os.environ.get("NLTK_DATA", "").split(os.pathsep) if place]
    prefix = Path(sys.prefix)
    usual = [Path.home() / "nltk_data", prefix / "nltk_data", prefix / "share/nltk_data", prefix / "lib/nltk_data"]
    system = [Path(root) / "nltk_data" for root in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")]
    return [*map(Path, own), *usual, *system]


def _partly_here(artifact: Artifact, folder: Path | None) -> Iterator[str]:
    """A sentence for each place of ours that is there and not whole."""
    if not artifact.files:
        return
    for root in dict.fromkeys([artifacts_folder(folder), artifacts_folder()]):
        place = root / artifact.name
        if place.is_dir():
            yield f"{place} lacks {', '.join(lacking(artifact, place)[:3])}."


def _pip_line(source: InstalledPackage) -> str:
    return f"Run: pip install {source.requirement}"
