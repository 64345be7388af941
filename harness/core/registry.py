"""One generic, lazily loading registry: names to things, without importing the things.

An entry is a target `"package.module:attribute"` and one line of description, so that `--help` and `list`
import nothing heavy. Third parties add entries by entry points in the group `palimpsest.<kind>s`,
with underscores for spaces. What such a package does wrong is told by name, when its entry is asked for, and
keeps no other entry from being used.
"""

from __future__ import annotations

import importlib
import importlib.util
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from harness.core.errors import ConfigurationError, UnknownNameError
from harness.core.files import hash_file

T = TypeVar("T")

# What a command line, a file name and a detector's `NAME:PARAMETER=VALUE` can all hold.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_REPAIR = "Repair or uninstall that package."


@dataclass(frozen=True)
class Entry:
    """What a registry knows of a name before it loads it.

    Attributes:
        name: The name.
        target: "module:attribute".
        summary: One line.
        plugin: The package that adds it; empty where it is this one.
        version: That package's version.
    """

    name: str
    target: str
    summary: str = ""
    plugin: str = ""
    version: str = ""


def no_loader(name: str, found: Any) -> str:
    """What keeps an object from being a loader of data by split; empty for nothing."""
    if not callable(found):
        return f"{found!r} is no function of a split's name"
    splits = getattr(found, "splits", ())
    if not (isinstance(splits, tuple) and all(isinstance(split, str) for split in splits)):
        return "its `splits` are no tuple of names"
    return ""


class Registry(Generic[T]):
    """Names to lazily loaded objects of one kind.

    Args:
        kind: What the entries are, in the singular ("detector"); used in messages and in the entry-point group.
        check: Says of a name and what another package put under it what is wrong with that; empty for nothing.
    """

    def __init__(self, kind: str, check: Callable[[str, Any], str] = lambda name, found: "") -> None:
        self.kind = kind
        self._check = check
        self._entries: dict[str, Entry] = {}
        self._loaded: dict[str, T] = {}
        self._refused: dict[str, str] = {}
        self._plugins_read = False

    @property
    def group(self) -> str:
        """The group of entry points by which other packages add to it."""
        return f"palimpsest.{self.kind}s".replace(" ", "_")

    def add(self, name: str, target: str, summary: str = "") -> None:
        """Register `target` ("module:attribute") under `name`.

        Raises:
            ConfigurationError: The name is taken by another target.
        """
        known = self._entries.get(name)
        if known is not None and known.target != target:
            raise ConfigurationError(self._two(name, known.target, target), "Rename one of them.")
        self._entries[name] = Entry(name, target, summary)

    def get(self, name: str) -> T:
        """Load and return what `name` stands for.

        Raises:
            UnknownNameError: No entry has this name; the error names the nearest ones.
            ConfigurationError: Another package's entry cannot be imported or is not of this kind, or two packages
                use this name.
        """
        self._read_plugins()
        if name in self._refused:
            raise ConfigurationError(self._refused[name], _REPAIR)
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        if name not in self._loaded:
            self._loaded[name] = self._load(self._entries[name])
        return self._loaded[name]

    def _load(self, entry: Entry) -> T:
        module, _, attribute = entry.target.partition(":")
        if not entry.plugin:
            return cast(T, operator.attrgetter(attribute)(importlib.import_module(module)))
        try:
            found = operator.attrgetter(attribute)(importlib.import_module(module))
        except Exception as error:
            reason = " ".join(str(error).split()) or "it says nothing more"
            raise ConfigurationError(
                f"the {self.kind} {entry.name!r} of {entry.plugin} cannot be loaded: {type(error).__name__}: {reason}.",
                _REPAIR,
            ) from error
        if wrong := self._check(entry.name, found):
            raise ConfigurationError(
                f"the {self.kind} {entry.name!r} of {entry.plugin} cannot be used: {wrong}.", _REPAIR
            )
        return cast(T, found)

    def __contains__(self, name: str) -> bool:
        self._read_plugins()
        return name in self._entries or name in self._refused

    def __iter__(self) -> Iterator[Entry]:
        self._read_plugins()
        return iter(sorted(self._entries.values(), key=lambda entry: entry.name))

    def names(self) -> list[str]:
        """All names, sorted."""
        return [entry.name for entry in self]

    def problems(self) -> list[str]:
        """What is wrong with other packages' entries, a sentence each; loads those entries."""
        self._read_plugins()
        found = [*self._refused.values()]
        for entry in self:
            if entry.plugin and entry.name not in self._refused:
                try:
                    self.get(entry.name)
                except ConfigurationError as error:
                    found.append(error.message)
        return found

    def sound(self) -> list[Entry]:
        """The entries that can be used, sorted by name; loads those of other packages."""
        self.problems()
        usable = [entry for entry in self if entry.name not in self._refused]
        return [entry for entry in usable if not entry.plugin or entry.name in self._loaded]

    def add_on(self, name: str) -> dict[str, str]:
        """What identifies the code of another package's entry: package, version, and SHA-256 of the module's file.

        Whatever is kept for later use under a name goes by it as well, so that it is made again when that code changes.

        Returns:
            A JSON-able object; empty for an entry of this package, and for a name that is none.
        """
        self._read_plugins()
        entry = self._entries.get(name)
        if entry is None or not entry.plugin:
            return {}
        found = {"package": entry.plugin, "version": entry.version}
        spec = importlib.util.find_spec(entry.target.partition(":")[0])
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            found["module_sha256"] = hash_file(Path(spec.origin))
        return found

    def _read_plugins(self) -> None:
        if self._plugins_read:
            return
        points = sorted(metadata.entry_points(group=self.group), key=lambda point: (point.name, point.value))
        for point in points:
            plugin, version = (point.dist.name, point.dist.version) if point.dist else ("a plug-in", "")
            # An entry point may name extras behind its target.
            target = point.value.partition("[")[0].strip()
            known = self._entries.get(point.name)
            if not _NAME.fullmatch(point.name):
                self._refused[point.name] = (
                    f"the {self.kind} {point.name!r} of {plugin} cannot be used: "
                    "a name has letters, digits and . _ + - only"
                )
            elif known is not None and known.target != target:
                self._refused[point.name] = self._two(
                    point.name, f"{known.target} of {known.plugin or 'palimpsest'}", f"{target} of {plugin}"
                )
            else:
                self._entries[point.name] = known or Entry(
                    point.name, target, f"from {plugin} {version}", plugin, version
                )
        self._plugins_read = True

    def _two(self, name: str, first: str, second: str) -> str:
        return f"two {self.kind}s are named {name!r}: {first} and {second}."


def check_loaded(registry: Registry[Any], name: str, found: Any, kind: type[T], split: str) -> T:
    """What a loader in `registry` gave, if it is of the kind, is named after its entry and of the split asked for.

    Raises:
        ConfigurationError: It is something else, which is a fault of the package that adds the loader.
    """
    wrong = ""
    if not isinstance(found, kind):
        wrong = f"it gave a {type(found).__name__}, no {kind.__name__}"
    else:
        for attribute, wanted in (("name", name), ("split", split)):
            if (given := getattr(found, attribute)) != wanted:
                wrong = f"it gave the {attribute} {given!r} to {wanted!r}"
    if wrong:
        package = registry.add_on(name).get("package", "palimpsest")
        raise ConfigurationError(f"the {registry.kind} {name!r} of {package} cannot be used: {wrong}.", _REPAIR)
    return cast(T, found)
