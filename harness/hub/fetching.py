"""Fetch named files of a repository into the hub's own cache: data only, bounded, each with its right bytes."""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import harness
from harness.core.errors import ConfigurationError, DataError
from harness.core.files import disk_errors, hash_file
from harness.hub.asking import HubError, ask, discreet_logs
from harness.hub.names import Kind, Repository, repository, unsafe
from harness.hub.outgoing import in_units

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

# Nothing that runs or unpickles: no .py, .pkl, .pt, .bin, .joblib, no archives.
_DATA = {".safetensors", ".json", ".jsonl", ".parquet", ".csv", ".tsv", ".txt", ".md", ".yaml"}
MAX_BYTES = 4 * 10**9
_MAX_JSON_BYTES = 64 * 10**6
_MAX_FILES = 1000


def fetch(
    spec: str,
    kind: Kind,
    patterns: Sequence[str],
    *,
    required: Collection[str] = (),
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Fetch files of a repository; those that the cache has already are not fetched again.

    Args:
        spec: `ORG/NAME` or `ORG/NAME@REVISION`; `hub:` may stand before it.
        kind: "dataset" or "model".
        patterns: What to fetch: names, or patterns such as `data/*.parquet`. Nothing else is.
        required: Names that have to be there.
        max_bytes: What all of them may be in size; known before anything is fetched.

    Returns:
        The folder with the files, in the hub's cache. It is shared: do not write into it.

    Raises:
        ConfigurationError: The spec is none.
        DataError: The repository lacks a required file, or a file is too large, has a name that leads elsewhere or
            is of a kind that is not read.
        HubError: The hub or the way to it fails.
    """
    repo = repository(spec, kind)
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _from_cache(repo, patterns, required)
    with discreet_logs():
        return _from_hub(repo, patterns, required, max_bytes)


def _from_hub(repo: Repository, patterns: Sequence[str], required: Collection[str], max_bytes: int) -> Path:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.hf_api import RepoFile

    # Without a token public repositories can be fetched still.
    api = HfApi(library_name="palimpsest", library_version=harness.__version__)
    doing, kind, revision = f"Fetching the {repo}", repo.kind, repo.revision or "main"
    commit = ask(repo, doing, lambda: api.repo_info(repo.id, repo_type=kind, revision=revision)).sha
    listed = ask(
        repo, doing, lambda: list(api.list_repo_tree(repo.id, recursive=True, revision=commit, repo_type=kind))
    )
    chosen = [
        entry
        for entry in listed
        if isinstance(entry, RepoFile) and any(fnmatchcase(entry.path, pattern) for pattern in patterns)
    ]
    names = sorted(file.path for file in chosen)
    _check_complete(repo, names, required)
    _check_files(repo, chosen, max_bytes)

    def download() -> str:
        with disk_errors(Path(constants.HF_HUB_CACHE)):
            exactly = [glob.escape(name) for name in names]
            return api.snapshot_download(repo.id, repo_type=kind, revision=revision, allow_patterns=exactly)

    folder = Path(ask(repo, doing, download))
    if folder.name != commit:
        raise HubError(f"the {repo} was changed while it was fetched.", "Run the same command again.")
    for file in chosen:
        _check_bytes(repo, folder / file.path, file)
    return folder


def _from_cache(repo: Repository, patterns: Sequence[str], required: Collection[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    folder = None
    with suppress(LocalEntryNotFoundError):
        found = snapshot_download(
            repo.id, repo_type=repo.kind, revision=repo.revision, allow_patterns=list(patterns), local_files_only=True
        )
        folder = Path(found)
    if folder is None or any(not (folder / name).is_file() for name in required):
        raise HubError(
            f"the {repo} is not in the hub's cache, and offline mode is on.", "Unset HF_HUB_OFFLINE to fetch it."
        )
    return folder


def _check_complete(repo: Repository, names: Collection[str], required: Collection[str]) -> None:
    if lacking := sorted(set(required) - set(names)):
        raise DataError(f"the {repo} has no file {lacking[0]}.", "It was not published by this command, or not whole.")
    if not names:
        raise DataError(f"the {repo} has none of the files that are looked for.")


def _check_files(repo: Repository, files: Sequence[RepoFile], max_bytes: int) -> None:
    """Refuse what is listed before any of it is fetched."""
    for file in files:
        if wrong := unsafe(file.path):
            raise DataError(f"the {repo} has a file {file.path!r} whose name {wrong}, so it is not fetched.")
        suffix = PurePosixPath(file.path).suffix.lower()
        if suffix not in _DATA:
            raise ConfigurationError(f"files such as {file.path} of the {repo} are not fetched.")
        if not isinstance(file.size, int) or file.size < 0:
            raise DataError(f"the hub does not say how large {file.path} of the {repo} is.")
        if suffix == ".json" and file.size > _MAX_JSON_BYTES:
            raise DataError(f"{file.path} of the {repo} has {in_units(file.size)}, too much for a JSON file.")
    total = sum(file.size for file in files)
    if total > max_bytes or len(files) > _MAX_FILES:
        raise DataError(
            f"the {repo} has {len(files)} files of {in_units(total)} to fetch; "
            f"at most {_MAX_FILES} files and {in_units(max_bytes)} are fetched."
        )


def _check_bytes(repo: Repository, path: Path, file: RepoFile) -> None:
    """Compare a fetched file with what the repository says of it; a wrong one leaves the cache."""
    from huggingface_hub.utils.sha import git_hash

    sound = path.stat().st_size == file.size
    if sound and file.lfs is not None:
        sound = hash_file(path) == file.lfs.sha256
    elif sound and file.blob_id is not None:
        sound = git_hash(path.read_bytes()) == file.blob_id
    if not sound:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(
            f"the hub sent other bytes for {file.path} of the {repo} than it should have.",
            "Run the same command again; if it stays so, do not trust the repository.",
        )
