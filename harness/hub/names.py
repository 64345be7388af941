"""What repositories of the hub and the files in them may be called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from harness.core.errors import ConfigurationError

Kind = Literal["dataset", "model"]
SPEC_PREFIX = "hub:"
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        id: `ORG/NAME`.
        kind: Whether it holds a dataset or a model.
        revision: A branch, a tag or a commit; None for the main branch.
    """

    id: str
    kind: Kind
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.id}" + (f"@{self.revision}" if self.revision else "")


def repository(text: str, kind: Kind) -> Repository:
    """The repository that `ORG/NAME` or `ORG/NAME@REVISION` names; `hub:` may stand before it.

    Raises:
        ConfigurationError: It names none.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    given = text.removeprefix(SPEC_PREFIX)
    name, at, revision = given.partition("@")
    wrong = f"{given!r} is not the id of a repository on the hub."
    hint = "Write ORG/NAME: letters, digits, '-', '_' and '.', such as my-team/rde-on-imdb."
    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise ConfigurationError(wrong, hint)
    if at and (not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith("/")):
        raise ConfigurationError(
            f"{revision!r} is not a revision of a repository.", "Write ORG/NAME@REVISION: a branch, a tag or a commit."
        )
    return Repository(name, kind, revision or None)


def target(text: str, kind: Kind) -> Repository:
    """The repository that files are published to: `ORG/NAME`, on its main branch.

    Raises:
        ConfigurationError: It is none.
    """
    found = repository(text, kind)
    if text != found.id:
        raise ConfigurationError(f"{text!r} does not say only where to publish.", f"Write {found.id}.")
    return found


def is_hub_spec(text: str) -> bool:
    """Whether a command line means the hub: `hub:ORG/NAME`."""
    return text.startswith(SPEC_PREFIX)


def unsafe(name: str) -> str:
    """What is wrong with a file's name in a repository; empty where nothing is."""
    parts = name.split("/")
    if name != name.strip() or not name.isprintable() or "\\" in name or ":" in name:
        return "holds characters that file names of some systems cannot hold"
    if PurePosixPath(name).is_absolute() or any(part in ("", ".", "..") for part in parts):
        return "is not a plain relative name"
    if any(part.startswith(".") for part in parts):
        return "is hidden"
    return ""
