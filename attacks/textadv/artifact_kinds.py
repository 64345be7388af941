"""What an artifact is: files that a recipe reads at run time, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Archive = Literal["", "zip", "tar.gz", "gz"]


@dataclass(frozen=True)
class Download:
    """A file of the web.

    Attributes:
        url: Its address; that of a git host names a commit, so that the bytes stay the same.
        sha256: SHA-256 of the file as downloaded (hex), or None where no certain one is known: it is recorded then.
        archive: How it is packed: "zip", "tar.gz", "gz" (one file), or "" for a plain file.
        into: Where it goes in the artifact's folder: a folder for "zip" and "tar.gz", else the file.
    """

    url: str
    sha256: str | None = None
    archive: Archive = ""
    into: str = ""


@dataclass(frozen=True)
class HubSnapshot:
    """Files of a model repository on the Hugging Face Hub.

    Attributes:
        repo_id: The repository.
        revision: A commit, or "main" where no certain one is known: the commit is recorded then.
        allow_patterns: What is fetched; never a pickle.
    """

    repo_id: str
    revision: str
    allow_patterns: tuple[str, ...]


@dataclass(frozen=True)
class InstalledPackage:
    """Files inside a Python package.

    Attributes:
        module: The package's import name.
        path: The folder of the files inside it.
        requirement: What pip installs.
        sha256: SHA-256 of its wheel (hex).
        is_code: Whether the package's own code is needed to read the files, so that it has to be installed. A
            package without this is used as a container of files: it is found and never imported.
    """

    module: str
    path: str
    requirement: str
    sha256: str
    is_code: bool = False


@dataclass(frozen=True)
class Made:
    """Files that are computed from other artifacts.

    Attributes:
        maker: "module:function", called as `make(target, sources, dataset=, limit=, seed=)`: `target` is an empty
            folder to fill, `sources` maps each name in `needs` to its folder; `dataset` and `limit` may be None.
        needs: Names of artifacts.
        takes_dataset: Whether it learns from the texts of a dataset where one is named.
    """

    maker: str
    needs: tuple[str, ...]
    takes_dataset: bool = False


@dataclass(frozen=True)
class Pickled:
    """Files that exist only as pickles, which can run any code when they are opened and are never loaded here.

    Attributes:
        origin: What they are, upstream.
    """

    origin: str


Source = tuple[Download, ...] | HubSnapshot | InstalledPackage | Made | Pickled


@dataclass(frozen=True)
class Artifact:
    """An artifact.

    Attributes:
        name: How commands and recipes call it; also its folder's name.
        kind: What it is for, such as "sentence encoder".
        summary: One line on it.
        files: Paths in its folder that prove it is here; empty where no safe format exists.
        source: Where it comes from.
        licence: The licence of the files.
        size_mb: About how much disk it takes, in MB.
        stand_in_for: What it replaces where that cannot be had. A recipe with a stand-in has a name of its own.
        or_files: Other sets of files that will do, such as a copy in another format.
        programs: Programs that have to be on the PATH.
        in_nltk_data: Whether NLTK's own data folders may have it; its folder is laid out as one of those.
    """

    name: str
    kind: str
    summary: str
    files: tuple[str, ...]
    source: Source
    licence: str
    size_mb: float
    stand_in_for: str | None = None
    or_files: tuple[tuple[str, ...], ...] = ()
    programs: tuple[str, ...] = ()
    in_nltk_data: bool = False
