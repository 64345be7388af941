"""What the fitted state of a detector must look like, checked before it is used: a stranger may have written it.

A detector declares its arrays in a `Layout`; dimensions go by names, so that arrays that belong together must fit each
other, and `classes` and `d` the victim as well.
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError

# More neighbours, votes, passes or words than any detector is fitted with, and few enough to be asked for.
_MOST = 100_000
# What decides a fit, or what is drawn, and no longer how much a score costs.
_UNBOUNDED = ("rows", "seed")
# How a plain type is called where somebody has to write a value of it.
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}


@dataclass(frozen=True)
class Array:
    """One array of a fitted detector.

    Attributes:
        dtype: NumPy's name.
        shape: Sizes, by number or by a name that stands for one size in all arrays.
        optional: Whether it may be missing.
        finite: Whether floats must all be finite; NaN is never taken.
    """

    dtype: str
    shape: tuple[str | int, ...]
    optional: bool = False
    finite: bool = True


Layout = Mapping[str, Array]


def check_arrays(
    detector: str, layout: Layout | None, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, int] | None = None
) -> None:
    """Refuse arrays that no fit leaves.

    Args:
        detector: Named in the error.
        layout: What it must have; None where a class of somebody else does not say it.
        arrays: What it has; nothing at all is the state of a detector that was not fitted.
        sizes: Sizes that are known, of the victim.

    Raises:
        DataError: An array is missing, unknown, of another type or shape, or holds NaN.
    """
    for name, values in arrays.items():
        if values.dtype.kind not in "fiub":
            raise bad_state(detector, f"{_shown(name)} holds no numbers but {values.dtype}")
        whole = layout is not None and name in layout and layout[name].finite
        if values.dtype.kind == "f" and not (np.isfinite(values).all() if whole else not np.isnan(values).any()):
            raise bad_state(detector, f"{_shown(name)} holds NaN or infinity")
    if layout is None or not arrays:
        return
    if unknown := sorted(set(arrays) - set(layout)):
        raise bad_state(detector, f"it has no array {_shown(unknown[0])}")
    known = dict(sizes or {})
    for name, array in layout.items():
        if name not in arrays:
            if array.optional:
                continue
            raise bad_state(detector, f"the array {name} is missing")
        values = arrays[name]
        if values.dtype != np.dtype(array.dtype):
            raise bad_state(detector, f"{name} is of {values.dtype}, not of {array.dtype}")
        wanted = tuple(known.get(size, size) if isinstance(size, str) else size for size in array.shape)
        fits = len(wanted) == values.ndim and all(
            isinstance(size, str) or size == found for size, found in zip(wanted, values.shape, strict=True)
        )
        if not fits or 0 in values.shape:
            raise bad_state(detector, f"{name} is of shape {list(values.shape)}, not [{', '.join(map(str, wanted))}]")
        known.update((size, found) for size, found in zip(array.shape, values.shape, strict=True) if type(size) is str)


def check_sizes(
    detector: str, layout: Layout | None, arrays: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]
) -> None:
    """Refuse to read outputs of another victim than the fit's, where sizes tell.

    Args:
        detector: Named in the error.
        layout: As in `check_arrays`.
        arrays: Arrays that were checked.
        sizes: Of what a victim says: its `classes`, or the `d` of a layer.

    Raises:
        DataError: The arrays are of other sizes.
    """
    for name, array in (layout or {}).items():
        for size, found in zip(array.shape, arrays[name].shape if name in arrays else (), strict=False):
            if isinstance(size, str) and sizes.get(size, found) != found:
                what = "classes" if size == "classes" else "features"
                raise DataError(
                    f"the detector {detector!r} was fitted on {found} {what}, and this victim gives {sizes[size]}.",
                    "Give the victim that it was fitted on, or fit it on this one.",
                )


def read_words(detector: str, arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    """The words of a detector that counts them: `words`, UTF-8 with a word a line, and `counts`, one a word.

    Raises:
        DataError: They are no such words, or the counts are not theirs.
    """
    try:
        words = arrays["words"].tobytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise bad_state(detector, "words are not UTF-8") from error
    if len(words) != len(arrays["counts"]) or (arrays["counts"] < 0).any():
        raise bad_state(detector, "counts are not one number, 0 or more, a word")
    return words


def bad_state(detector: str, why: str) -> DataError:
    """The error for a state that no fit leaves."""
    return DataError(f"the fitted state of the detector {detector!r} is damaged: {why}.", "Fit the detector again.")


def check_parameters(kind: type, parameters: Any) -> dict[str, Any]:
    """Refuse constructor arguments that are not of the types that the constructor declares.

    Only plain types are checked: numbers, text, truth values and None.

    Args:
        kind: A detector's class.
        parameters: What a file, or a command line, says they are.

    Raises:
        DataError: One is unknown, of another type, not finite, or larger than any that is used. Its message has no
            full stop: who calls this says whose parameters they are.
    """
    if not isinstance(parameters, dict):
        raise DataError(f"parameters are a {type(parameters).__name__}, not an object")
    known = inspect.signature(kind).parameters
    try:
        hints = typing.get_type_hints(kind.__init__)  # type: ignore[misc]
    except (NameError, AttributeError, TypeError):  # another package's annotations that only a type checker follows
        hints = {}
    for name, value in parameters.items():
        if name not in known:
            raise DataError(f"it takes no parameter {_shown(name)}")
        allowed = _plain(hints.get(name))
        if allowed and not _is_one(value, allowed):
            kinds = " or ".join(_WORDS[part] for part in allowed)
            raise DataError(f"its parameter {name} is {_shown(value)}, which it cannot be", f"Give {name} {kinds}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"its parameter {name} is {value}", f"Give {name} a finite number.")
        if isinstance(value, int) and name not in _UNBOUNDED and abs(value) > _MOST:
            raise DataError(
                f"its parameter {name} is {_shown(value)}, more than any that is used", f"Give {name} {_MOST} at most."
            )
    return dict(parameters)


def _plain(hint: Any) -> tuple[type, ...]:
    """The types that an annotation allows; empty where they are not all plain ones."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    return tuple(parts) if all(part in (int, float, str, bool, types.NoneType) for part in parts) else ()


def _is_one(value: Any, allowed: tuple[type, ...]) -> bool:
    # JSON has one kind of number, and Python takes True for 1.
    return type(value) in allowed or (type(value) is int and float in allowed)


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**15 else "a number of many digits"
    return text if len(text) <= 60 else text[:57] + "..."
