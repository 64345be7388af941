"""One generic, lazily loading registry: names to things, without importing the things.

An entry is a target `"package.module:attribute"` and one line of description, so that `--help` and `list`
import nothing heavy. Third parties add entries by entry points in the group `palimpsest.<kind>s`,
with underscores for spaces.
"""

from __future__ import annotations

import importlib
import operator
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
    plugin: str = ""


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

    def add(self, name: str, target: str, summary: str = "", *, plugin: str = "") -> None:
        """Register `target` ("module:attribute") under `name`; `plugin` is the package that adds it, if not this one.

        Raises:
            ConfigurationError: The name is taken by another target.
        """
        known = self._entries.get(name)
        if known is not None and known.target != target:
            raise ConfigurationError(
                f"two {self.kind}s are named {name!r}: {known.target} and {target}.",
                "Rename one of them or uninstall the package that adds it.",
            )
        self._entries[name] = Entry(name, target, summary, plugin)

    def get(self, name: str) -> T:
        """Load and return what `name` stands for.

        Raises:
            UnknownNameError: No entry has this name; the error names the nearest ones.
            ConfigurationError: Another package's entry cannot be imported.
        """
        self._read_plugins()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        if name not in self._loaded:
            self._loaded[name] = self._load(self._entries[name])
        return self._loaded[name]

    def _load(self, entry: Entry) -> T:
        module, _, attribute = entry.target.partition(":")
        try:
            return cast(T, operator.attrgetter(attribute)(importlib.import_module(module)))
        except (ImportError, AttributeError) as error:
            if not entry.plugin:
                raise  # a fault of ours
            raise ConfigurationError(
                f"the {self.kind} {entry.name!r} of {entry.plugin} cannot be loaded: {error}.",
                "Repair or uninstall that package.",
            ) from error

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
        for point in metadata.entry_points(group=f"palimpsest.{self.kind}s".replace(" ", "_")):
            plugin = point.dist.name if point.dist else "a plug-in"
            self.add(point.name, point.value, f"from {plugin}", plugin=plugin)
        self._plugins_read = True
