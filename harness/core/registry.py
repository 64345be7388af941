"""One generic, lazily loading registry: names to things, without importing the things.

An entry is a target `"package.module:attribute"` and one line of description, so that `--help` and `list`
import nothing heavy. Third parties add entries by entry points in the group `palimpsest.<kind>s`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Generic, TypeVar, cast

from harness.core.errors import ConfigurationError, UnknownNameError

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What a registry knows of a name before it loads it."""

    name: str
    target: str
    summary: str = ""


class Registry(Generic[T]):
    """Names to lazily loaded objects of one kind.

    Args:
        kind: What the entries are, in the singular ("detector"); used in messages and in the entry-point group.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        self._loaded: dict[str, T] = {}
        self._plugins_read = False

    def add(self, name: str, target: str, summary: str = "") -> None:
        """Register `target` ("module:attribute") under `name`.

        Raises:
            ConfigurationError: The name is taken by another target.
        """
        known = self._entries.get(name)
        if known is not None and known.target != target:
            raise ConfigurationError(
                f"two {self.kind}s are named {name!r}: {known.target} and {target}.",
                "Rename one of them or uninstall the package that adds it.",
            )
        self._entries[name] = Entry(name, target, summary)

    def get(self, name: str) -> T:
        """Load and return what `name` stands for.

        Raises:
            UnknownNameError: No entry has this name; the error names the nearest ones.
        """
        self._read_plugins()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        if name not in self._loaded:
            module, _, attribute = self._entries[name].target.partition(":")
            self._loaded[name] = cast(T, getattr(importlib.import_module(module), attribute))
        return self._loaded[name]

    def __contains__(self, name: str) -> bool:
        self._read_plugins()
        return name in self._entries

    def __iter__(self) -> Iterator[Entry]:
        self._read_plugins()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """All names, sorted."""
        return [entry.name for entry in self]

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        self._plugins_read = True
        for point in metadata.entry_points(group=f"palimpsest.{self.kind}s"):
            self.add(point.name, point.value, f"from {point.dist.name if point.dist else 'a plug-in'}")
