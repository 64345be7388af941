"""Errors that are the user's to mend: one clear sentence, a hint, exit code 2.

Anything else that goes wrong is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_CODE = 2


class HarnessError(Exception):
    """An expected error: bad input, a missing file, an unusable configuration.

    Args:
        message: One sentence that says what is wrong.
        hint: One sentence that says what to do about it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[HarnessError], tuple[str, str]]:
        return type(self), (self.message, self.hint)


class UnknownNameError(HarnessError):
    """A name that no registry entry has; the message offers the nearest right ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        offer = f"Did you mean {' or '.join(near)}?" if near else f"Known: {', '.join(names) or 'none'}."
        HarnessError.__init__(self, f"there is no {kind} named {name!r}.", f"{offer} {hint}".strip())

    def __reduce__(self) -> tuple[type[HarnessError], tuple[str, str]]:
        return HarnessError, (self.message, self.hint)


class MissingFileError(HarnessError):
    """A file or folder that is not there."""


class MissingArtifactError(HarnessError):
    """External files that a recipe needs (vectors, encoders, taggers) and that are not here, or not whole."""


class DataError(HarnessError):
    """Data that cannot be used as it is: empty, wrong column, wrong labels, not UTF-8, NaN."""


class VictimError(HarnessError):
    """A classifier that cannot be read or does not fit the data."""


class ConfigurationError(HarnessError):
    """Options that contradict each other, the machine, or an earlier run."""


class NotFittedError(HarnessError):
    """A detector that was asked for scores before it was fitted."""


class DiskFullError(HarnessError):
    """No space left on the device, or the quota is used up."""
