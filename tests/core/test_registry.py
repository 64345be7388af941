"""The registry is lazy, helpful, and open to other packages."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import ConfigurationError, HarnessError, UnknownNameError
from harness.core.registry import Registry

MODULE = "palimpsest_registry_probe"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that nobody has imported yet; its attribute `thing` is new with every import."""
    (tmp_path / f"{MODULE}.py").write_text("thing = ['made']\nclass Group:\n    inner = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return MODULE


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let entry points `name="module:attribute"` be installed; returns the groups that are asked for."""

    def install(**points: str) -> list[str]:
        asked: list[str] = []

        def entry_points(*, group: str) -> list[metadata.EntryPoint]:
            asked.append(group)
            return [metadata.EntryPoint(name, value, group) for name, value in points.items()]

        monkeypatch.setattr(metadata, "entry_points", entry_points)
        return asked

    return install


def test_nothing_is_imported_before_get(module: str) -> None:
    registry: Registry[list[str]] = Registry("gadget")
    registry.add("probe", f"{module}:thing", "a thing")
    assert "probe" in registry
    assert registry.names() == ["probe"]
    assert [(entry.name, entry.summary) for entry in registry] == [("probe", "a thing")]
    assert module not in sys.modules
    assert registry.get("probe") == ["made"]
    assert module in sys.modules
    assert registry.get("probe") is registry.get("probe")


def test_names_are_sorted_whatever_the_order() -> None:
    registry: Registry[object] = Registry("gadget")
    for name in ("pear", "apple", "fig"):
        registry.add(name, "os:path")
    assert registry.names() == ["apple", "fig", "pear"]


def test_wrong_names_get_the_nearest_right_ones() -> None:
    registry: Registry[object] = Registry("gadget")
    for name in ("textfooler", "pwws", "bert-attack"):
        registry.add(name, "os:path")
    with pytest.raises(UnknownNameError) as caught:
        registry.get("textfoller")
    assert caught.value.message == "there is no gadget named 'textfoller'."
    assert caught.value.hint == "Did you mean textfooler?"
    with pytest.raises(UnknownNameError) as caught:
        registry.get("zzz")
    assert caught.value.hint == "Known: bert-attack, pwws, textfooler."
    with pytest.raises(UnknownNameError) as caught:
        Registry[object]("empty thing").get("zzz")
    assert caught.value.hint == "Known: none."


@given(st.text(max_size=12))
def test_unknown_names_are_never_a_crash(name: str) -> None:
    registry: Registry[object] = Registry("gadget")
    registry.add("pwws", "os:path")
    if name != "pwws":
        assert name not in registry
        with pytest.raises(UnknownNameError):
            registry.get(name)


def test_one_name_for_two_things_is_refused() -> None:
    registry: Registry[object] = Registry("gadget")
    registry.add("probe", "os:path")
    registry.add("probe", "os:path", "said again")
    with pytest.raises(ConfigurationError, match="two gadgets are named 'probe': os:path and os:sep"):
        registry.add("probe", "os:sep")


def test_other_packages_add_entries(module: str, plugins: Callable[..., list[str]]) -> None:
    asked = plugins(theirs=f"{module}:thing")
    registry: Registry[object] = Registry("gadget")
    registry.add("ours", "os:sep")
    assert registry.names() == ["ours", "theirs"]
    assert module not in sys.modules
    assert registry.get("theirs") == ["made"]
    assert asked == ["palimpsest.gadgets"]  # once, however often it is used


def test_plugins_count_for_every_way_in(module: str, plugins: Callable[..., list[str]]) -> None:
    plugins(theirs=f"{module}:thing")
    assert Registry[object]("gadget").get("theirs") == ["made"]
    assert "theirs" in Registry[object]("gadget")
    assert [entry.name for entry in Registry[object]("gadget")] == ["theirs"]


def test_a_plugin_cannot_take_a_name(plugins: Callable[..., list[str]]) -> None:
    plugins(ours="evil:thing")
    registry: Registry[object] = Registry("gadget")
    registry.add("ours", "os:sep")
    for _ in range(2):  # and not only the first time it is asked
        with pytest.raises(ConfigurationError, match="two gadgets are named 'ours'"):
            registry.get("ours")


def test_a_plugin_that_does_not_import_is_named(module: str, plugins: Callable[..., list[str]]) -> None:
    plugins(absent="no_such_package_xyz:thing", attribute=f"{module}:nothing", nested=f"{module}:Group.inner")
    registry: Registry[object] = Registry("gadget")
    for name in ("absent", "attribute"):
        with pytest.raises(HarnessError, match=f"gadget '{name}'"):
            registry.get(name)
    assert registry.get("nested") == 7  # entry points may name an attribute of an attribute


def test_errors_survive_a_process_boundary() -> None:
    error = UnknownNameError("gadget", "pwss", ["pwws"])
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.message, copied.hint) == (error.message, error.hint)
    assert isinstance(copied, HarnessError)
    assert str(error) == error.message


def install(folder: Path, package: str, **points: str) -> None:
    """What pip leaves of a package that adds gadgets: its name, version and entry points."""
    facts = folder / f"{package}-2.1.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 2.1\n")
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (facts / "entry_points.txt").write_text(f"[palimpsest.gadgets]\n{lines}")


def test_what_a_package_adds_is_known_by_package_version_and_code(module: str, tmp_path: Path) -> None:
    install(tmp_path, "theirs", gadget=f"{module}:thing [extra]")
    registry: Registry[object] = Registry("gadget")
    registry.add("ours", "os:sep")
    (ours, theirs) = sorted(registry, key=lambda entry: entry.plugin)
    assert (ours.plugin, theirs.plugin, theirs.version, theirs.summary) == ("", "theirs", "2.1", "from theirs 2.1")
    assert registry.get("gadget") == ["made"]
    assert registry.add_on("ours") == registry.add_on("nobody") == {}
    code = hashlib.sha256((tmp_path / f"{MODULE}.py").read_bytes()).hexdigest()
    assert registry.add_on("gadget") == {"package": "theirs", "version": "2.1", "module_sha256": code}
    (tmp_path / f"{MODULE}.py").write_text("thing = ['made']\n# otherwise\n")
    assert registry.add_on("gadget")["module_sha256"] != code


def test_faults_of_packages_are_told_and_the_rest_is_used(module: str, tmp_path: Path) -> None:
    install(tmp_path, "first", both=f"{module}:thing", sound=f"{module}:thing", ours="first:thing")
    install(tmp_path, "second", both=f"{module}:Group", wrong=f"{module}:Group", odd_one=f"{module}:nothing")
    registry: Registry[object] = Registry("gadget", lambda name, found: "" if isinstance(found, list) else "it is new")
    registry.add("ours", "os:sep")
    registry.add("mine", "os:linesep")
    told = registry.problems()
    assert told == registry.problems()
    assert {line for line in told if "two gadgets are named" in line} == {
        f"two gadgets are named 'both': {module}:Group of second and {module}:thing of first.",
        "two gadgets are named 'ours': os:sep of palimpsest and first:thing of first.",
    }
    assert "the gadget 'wrong' of second cannot be used: it is new." in told
    assert any(line.startswith("the gadget 'odd_one' of second cannot be loaded: AttributeError:") for line in told)
    assert len(told) == 4
    assert [entry.name for entry in registry.sound()] == ["mine", "sound"]
    for name in ("both", "ours", "wrong", "odd_one"):
        with pytest.raises(ConfigurationError) as caught:
            registry.get(name)
        assert caught.value.message in told
        assert caught.value.hint == "Repair or uninstall that package."
    assert (registry.get("mine"), registry.get("sound")) == (os.linesep, ["made"])
