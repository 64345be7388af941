"""Detectors as a command line names them: `knn`, or `knn:layer=all,k=20`."""

from __future__ import annotations

import inspect
import json
from typing import Any

from harness.core.errors import ConfigurationError
from harness.detectors.registry import DETECTORS


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a spec.

    Args:
        spec: `NAME`, or `NAME:PARAMETER=VALUE,...`; numbers, true, false and null as in JSON, all else is text.

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
        try:
            parameters[key] = json.loads(value)
        except ValueError:
            parameters[key] = value
    return name, parameters


def canonical_spec(spec: str) -> str:
    """The one way to write a spec: parameters in order of their names."""
    name, parameters = parse_spec(spec)
    written = (f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sorted(parameters.items()))
    return ":".join(filter(None, (name, ",".join(written))))


def spec_title(spec: str) -> str:
    """How tables call what a spec names: the detector's title, with the parameters in brackets."""
    name, parameters = parse_spec(spec)
    told = ", ".join(f"{key} {value}" for key, value in sorted(parameters.items()))
    return DETECTORS.get(name).info.title + (f" ({told})" if told else "")


def constructor_parameters(name: str) -> set[str]:
    """The names of what a detector's constructor takes."""
    return set(inspect.signature(DETECTORS.get(name)).parameters)
