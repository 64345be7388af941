"""Detectors as a command line names them: `knn`, or `knn:layer=all,k=20`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from harness.core.errors import ConfigurationError
from harness.detectors.registry import DETECTORS


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a spec.

    Args:
        spec: `NAME`, or `NAME:PARAMETER=VALUE,...`; numbers, true, false and null as in JSON, all else is text. Text
            that reads like one of these stands in quotes.

    Raises:
        UnknownNameError: There is no such detector.
        ConfigurationError: It is not written so, or the detector does not take a parameter.
    """
    name, colon, rest = spec.partition(":")
    parameters: dict[str, Any] = {}
    known = constructor_parameters(name)
    for part in rest.split(",") if colon else ():
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value or key in parameters:
            raise ConfigurationError(
                f"{spec!r} is not how a detector is named.", "Write NAME or NAME:PARAMETER=VALUE,PARAMETER=VALUE."
            )
        if key not in known:
            raise ConfigurationError(
                f"the detector {name!r} takes no {key}.", f"It takes: {', '.join(sorted(known)) or 'nothing'}."
            )
        parameters[key] = _read(value)
    return name, parameters


def canonical_spec(spec: str) -> str:
    """The one way to write a spec: parameters in order of their names."""
    return _spec(*parse_spec(spec))


def spec_of(name: str, parameters: Mapping[str, Any]) -> str:
    """The spec of a detector that was made with some parameters: those that are not the constructor's own, but no seed.

    Args:
        name: The detector.
        parameters: What its `parameters()` says.
    """
    known = inspect.signature(DETECTORS.get(name)).parameters
    others = {
        key: value
        for key, value in parameters.items()
        if key in known and key != "seed" and value != known[key].default
    }
    return _spec(name, others)


def spec_title(spec: str) -> str:
    """How tables call what a spec names: the detector's title, with the parameters in brackets."""
    name, parameters = parse_spec(spec)
    told = ", ".join(f"{key} {value}" for key, value in sorted(parameters.items()))
    return DETECTORS.get(name).info.title + (f" ({told})" if told else "")


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _spec(name: str, parameters: Mapping[str, Any]) -> str:
    written = (f"{key}={_written(value)}" for key, value in sorted(parameters.items()))
    return ":".join(filter(None, (name, ",".join(written))))


def _written(value: Any) -> str:
    # A folder called 5 keeps its quotes: without them it would be a number when the spec is read again.
    bare = isinstance(value, str) and value and value == value.strip() and _read(value) == value
    return value if bare else json.dumps(value)


def constructor_parameters(name: str) -> set[str]:
    """The names of what a detector's constructor takes."""
    return set(inspect.signature(DETECTORS.get(name)).parameters)
