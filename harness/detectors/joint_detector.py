"""Several fitted detectors as one detector: saved, loaded, calibrated and evaluated like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.detectors.base import Arrays, Bools, Detector, DetectorInfo, Floats, Labels
from harness.detectors.joint import JointDecision
from harness.detectors.other_model import OTHER_HASH, expect_other_model, other_model_facts
from harness.detectors.registry import DETECTORS
from harness.detectors.scoring import score
from harness.detectors.states import bad_state, check_parameters
from harness.text.victims import Victim, VictimOutputs

JOINT = "joint"
_CHEAP = ("probabilities", "features")
_MOST_MEMBERS = 100
_VERSION = "version"


class JointDetector(Detector):
    """Fitted detectors joined by `JointDecision`.

    It is in no registry, as it is made of detectors that are fitted already: `harness detect joint`. The members are
    never fitted here; `fit` and `fit_adversarial` learn how to join them, and from clean texts that no member saw.

    Args:
        members: Detectors, or for each its name, its parameters and what it has to be, as `parameters` gives them.
        method: How they are joined, one of `harness.detectors.joint.METHODS`.
        fpr: The budget that weights are searched for.

    Raises:
        ConfigurationError: Fewer than two members, or one of them is a joint detector itself.
    """

    info: ClassVar[DetectorInfo] = DetectorInfo(
        name=JOINT,
        title="joint",
        paper="Palimpsest",
        year=2026,
        reads="probabilities",
        forwards_per_text=None,
        adversarial_texts="tunes",
    )

    def __init__(
        self,
        members: Sequence[Detector | tuple[str, Mapping[str, Any]] | tuple[str, Mapping[str, Any], Mapping[str, Any]]],
        method: str = "thresholds",
        fpr: float = 0.05,
    ) -> None:
        self.members = [member if isinstance(member, Detector) else _made(*member) for member in members]
        if len(self.members) < 2 or any(isinstance(member, JointDetector) for member in self.members):
            raise ConfigurationError("detectors are joined from at least two, none of them a joint detector itself.")
        self.decision = JointDecision(method, fpr)
        self.info = _joined_info([member.info for member in self.members], method)  # type: ignore[misc]

    def attach(self, victim: Victim) -> Self:
        """Attach every member to the victim."""
        self.members = [member.attach(victim) for member in self.members]
        return self

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that some member reads."""
        return tuple(dict.fromkeys(layer for member in self.members for layer in member.layers))

    @property
    def other_forwards(self) -> int:
        """Texts that members ran through another model than the victim."""
        return sum(member.other_forwards for member in self.members)

    def scores(self, outputs: VictimOutputs) -> Floats:
        """(n, D) scores of the members.

        Raises:
            DataError: A member gave NaN.
        """
        return np.stack([score(member, outputs) for member in self.members], axis=1)

    def fit(self, outputs: VictimOutputs, labels: Labels) -> Self:
        """Learn from clean texts that no member was fitted on; the labels are not read."""
        self.decision.fit(self.scores(outputs))
        return self

    def fit_adversarial(self, outputs: VictimOutputs, adversarial: Bools) -> Self:
        """Learn from clean texts that no member was fitted on, and from adversarial ones which weights flag most.

        Raises:
            DataError: Fewer than two clean texts.
        """
        found, chosen = self.scores(outputs), np.asarray(adversarial, dtype=bool)
        self.decision.fit(found[~chosen], found[chosen])
        return self

    def score(self, outputs: VictimOutputs) -> Floats:
        """The joint score of n texts."""
        return self.decision.score(self.scores(outputs))

    def parameters(self) -> dict[str, Any]:
        """The constructor arguments.

        A member is its name and its parameters and, where there is something to tell, its version above 1 and the
        hash of the other model that it reads. They stand here and not in `facts`, by which its scores are stored.
        """
        members = [
            [member.info.name, member.parameters(), *([told] if (told := _told(member)) else [])]
            for member in self.members
        ]
        return {"members": members, "method": self.decision.method, "fpr": self.decision.fpr}

    def facts(self) -> dict[str, Any]:
        """The parameters, with what members say of themselves, and the weights."""
        members = [[member.info.name, member.facts()] for member in self.members]
        shares = np.exp(self.decision.log_weights) if self.decision.arrays() else np.ones(len(members))
        return {**self.parameters(), "members": members, "shares": (shares / shares.sum()).round(6).tolist()}

    def arrays(self) -> Arrays:
        """The arrays of all members and of how they are joined."""
        found: Arrays = {f"joint.{name}": values for name, values in self.decision.arrays().items()}
        for number, member in enumerate(self.members):
            found |= {f"{number}.{name}": values for name, values in member.arrays().items()}
        return found

    @staticmethod
    def check_members(parameters: Any, folder: Path) -> None:
        """Refuse parameters whose members are not what `parameters` gives.

        Args:
            parameters: What a file says.
            folder: Where it lies, for errors.

        Raises:
            DataError: They are something else.
            ConfigurationError: A member is of another version than the one here.
        """
        members = parameters.get("members") if isinstance(parameters, dict) else None
        if not isinstance(members, list) or not 2 <= len(members) <= _MOST_MEMBERS:
            raise DataError("a joint detector has a list of members")
        for member in members:
            if not (isinstance(member, list) and len(member) in (2, 3) and isinstance(member[0], str)):
                raise DataError("a member is no list of a name and parameters")
            told = member[2] if len(member) == 3 else {}
            if not isinstance(told, dict) or told.keys() - {_VERSION, OTHER_HASH}:
                raise DataError("what a member has to be is no object of its version and the hash of its model")
            kind = DETECTORS.get(member[0])
            check_version(folder, member[0], kind.info, told.get(_VERSION, 1))
            check_parameters(kind, member[1])

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Refuse arrays that no fit of it, or of its members, leaves."""
        parts = {name: _part(arrays, name) for name in (JOINT, *map(str, range(len(self.members))))}
        known = {f"{name}.{key}" for name, part in parts.items() for key in part}
        if unknown := sorted(arrays.keys() - known):
            raise bad_state(JOINT, f"it has no array {unknown[0]!r}")
        self.decision.check(parts[JOINT], len(self.members))
        for number, member in enumerate(self.members):
            member.check(parts[str(number)])

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Take the arrays back."""
        self.decision.restore(_part(arrays, JOINT))
        self.members = [
            member.restore(found) if (found := _part(arrays, str(number))) else member
            for number, member in enumerate(self.members)
        ]
        return self


def check_version(folder: Path, name: str, info: DetectorInfo, version: Any) -> None:
    """Refuse a fit by another version of a detector than the one that is here.

    Args:
        folder: Where it lies.
        name: The detector's.
        info: Of the detector that is here.
        version: Of the one that was fitted.

    Raises:
        ConfigurationError: They differ.
    """
    if version != info.version:
        raise ConfigurationError(
            f"{folder} holds {name} of version {version!r}, and this is version {info.version}.",
            "They score otherwise: use the package that fitted it, or fit the detector again.",
        )


def _made(name: str, parameters: Mapping[str, Any], told: Mapping[str, Any] | None = None) -> Detector:
    return expect_other_model(DETECTORS.get(name)(**parameters), told or {})


def _told(member: Detector) -> dict[str, Any]:
    """What a member has to be when it is loaded; without a version it is the first, as in files of before."""
    version = member.info.version
    return {**({_VERSION: version} if version != 1 else {}), **other_model_facts(member)}


def _part(arrays: Mapping[str, NDArray[Any]], name: str) -> Arrays:
    prefix = f"{name}."
    return {key.removeprefix(prefix): values for key, values in arrays.items() if key.startswith(prefix)}


def _joined_info(members: Sequence[DetectorInfo], method: str) -> DetectorInfo:
    """What members cost and need together."""
    forwards = [info.forwards_per_text for info in members]
    known = [count for count in forwards if count is not None]
    total = 1 + sum(count - 1 for count in known) if len(known) == len(forwards) else None
    dear = [info.reads for info in members if info.reads not in _CHEAP]
    trains = any(info.adversarial_texts == "trains" for info in members)
    return DetectorInfo(
        name=JOINT,
        title=f"joint ({', '.join(info.title for info in members)}; {method})",
        paper="Palimpsest",
        year=JointDetector.info.year,
        reads=dear[0] if dear else "features" if any(info.reads == "features" for info in members) else "probabilities",
        forwards_per_text=total,
        cost=" and ".join(f"{info.name}: {info.cost}" for info in members) if total is None else f"{total:g}",
        # A member that was trained on an attack puts all in its class; the weights only tune.
        adversarial_texts="trains" if trains else "tunes",
    )
