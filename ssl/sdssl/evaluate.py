"""How good is each layer? Readings, geometry and cost of every asked layer, from one pass over the items.

Readings are fitted on the training items and scored on the test items; whatever a reading chooses, such as a learning
rate, it chooses on training items alone. Geometry is measured on a class-balanced sample of the test items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, UnknownNameError
from harness.core.features import FeatureStore
from harness.core.rows import Row
from harness.core.runs import versions
from sdssl.fewshot import few_shot
from sdssl.geometry import (
    class_balanced,
    feature_std,
    linear_cka,
    negative_alignment,
    positive_alignment,
    rankme,
    uniformity,
)
from sdssl.knn import knn_predict
from sdssl.layer_reading import LAST4, LayerData, LayerReader, SplitFeatures, read_split, stored_arrays
from sdssl.probes import ProbeSettings, linear_probes

PROTOCOLS = ("knn", "linear", "fewshot")
LEVEL = 0.95
_NAMED = 10
# Facts of an encoder that are columns of the row, not part of its protocol.
_COLUMNS = ("objective", "self_distill", "train_dataset", "seed")
_FIGURES: dict[str, Callable[[NDArray[np.float32]], float]] = {
    "uniformity": uniformity,
    "rankme": rankme,
    "feature_std": feature_std,
}

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ReadingSettings:
    """What is read, and how.

    Attributes:
        layers: Layer numbers, sorted.
        protocols: Among "knn", "linear" and "fewshot".
        poolings: Among "cls", "avg" and "cls-last4" (the last layer's linear reading only).
        ks: Neighbours of k-NN; more than there are training items are left out.
        temperature: Of the votes of k-NN.
        shots: Training items a class of few-shot; more than the rarest class has are left out.
        draws: Draws of few-shot.
        probe: Settings of the linear probes.
        per_class: Test items a class in the sample that geometry is measured on.
        sample: Most test items in that sample.
        seed: Seed of every random choice.
    """

    layers: tuple[int, ...]
    protocols: tuple[str, ...] = PROTOCOLS
    poolings: tuple[str, ...] = ("cls", "avg")
    ks: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07
    shots: tuple[int, ...] = (1, 5, 10)
    draws: int = 20
    probe: ProbeSettings = field(default_factory=ProbeSettings)
    per_class: int = 50
    sample: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Geometry:
    """The sample that geometry was measured on, for pictures.

    Attributes:
        labels: (s,) int64.
        features: Layer -> (s, d) float32.
    """

    labels: NDArray[np.int64]
    features: dict[int, Array]


@dataclass(frozen=True)
class LayerResult:
    """One dataset's row, what to say beside it, and the sample behind its pictures."""

    row: Row
    notes: list[str]
    geometry: Geometry
    label_names: Sequence[str] | None


def resolve_protocols(text: str) -> tuple[str, ...]:
    """Protocols from a list such as `knn,linear`, in the order of `PROTOCOLS`.

    Raises:
        UnknownNameError: There is no such protocol.
    """
    asked = {part.strip() for part in text.split(",")}
    for name in sorted(asked):
        if name not in PROTOCOLS:
            raise UnknownNameError("protocol", name, PROTOCOLS)
    return tuple(name for name in PROTOCOLS if name in asked)


def evaluate_layers(
    reader: LayerReader, data: LayerData, settings: ReadingSettings, store: FeatureStore, run: str, device: str = "cpu"
) -> LayerResult:
    """Read every asked layer of an encoder on one dataset.

    Args:
        reader: The encoder.
        data: Items and labels, of the encoder's kind.
        settings: What to read, and how.
        store: Where representations are kept.
        run: Name of the run, for the row.
        device: Where the readings are computed.

    Returns:
        The row of the board "ssl", without its id.

    Raises:
        DataError: Data that cannot be read, or that no reading can be fitted on.
        ConfigurationError: Nothing is left to read.
    """
    arrays = stored_arrays(settings.layers, settings.poolings, reader.num_layers)
    if not arrays:
        raise ConfigurationError("there is nothing to read.", "Name at least one pooling.")
    train, test = (read_split(reader, data, split, arrays, store) for split in ("train", "test"))
    replace(data, train_labels=train.labels, test_labels=test.labels).check()  # without what could not be read
    started = time.perf_counter()
    bench = _Bench(reader, data, settings, train, test, device)
    readings = [reading for name in settings.protocols for reading in bench.read(name)]
    if not readings:
        raise ConfigurationError("no reading is possible on this data.", " ".join(bench.notes))
    forwards = reader.forward_seconds
    geometry, layers, geometry_facts = _measure(reader, data, settings, test)
    # The views of positive alignment are forwards, not readings.
    seconds = time.perf_counter() - started - (reader.forward_seconds - forwards)
    corrupt = {split: found for split, found in (("train", train.corrupt), ("test", test.corrupt)) if found}
    for split, names in corrupt.items():
        bench.notes.append(f"{len(names)} {split} {data.unit}s cannot be read and are left out ({_some(names)}).")
    row = {
        "board": "ssl",
        "encoder": reader.name,
        "objective": reader.facts.get("objective"),
        "self_distill": reader.facts.get("self_distill"),
        "arch": reader.arch,
        "train_dataset": reader.facts.get("train_dataset"),
        "eval_dataset": data.name,
        "seed": reader.facts.get("seed"),
        "n_train": len(train.labels),
        "n_test": len(test.labels),
        "readings": readings,
        "layers": layers,
        "cost": {
            "forward_ms_per_item": 1000 * (train.forward_seconds + test.forward_seconds) / (train.rows + test.rows),
            "reading_seconds": seconds,
        },
        "run": run,
        "protocol": {
            **bench.facts,
            **geometry_facts,
            "poolings": list(settings.poolings),
            "seed": settings.seed,
            "intervals": "95 %: Wilson over test items (knn, linear), Student's t over draws (few-shot)",
            "encoder": {
                "hash": reader.hash,
                "num_layers": reader.num_layers,
                **{key: value for key, value in reader.facts.items() if key not in _COLUMNS},
            },
            "input": dict(reader.settings),
            "data": {**data.facts, "hashes": dict(data.hashes), "classes": data.num_classes},
            "corrupt": {
                split: {"count": len(names), "first": names[:_NAMED]} for split, names in sorted(corrupt.items())
            },
            "versions": versions(),
        },
    }
    return LayerResult(row, bench.notes, geometry, data.label_names)


class _Bench:
    """The readings of one encoder on one dataset; arrays are read from disk one pooling at a time at most."""

    def __init__(
        self,
        reader: LayerReader,
        data: LayerData,
        settings: ReadingSettings,
        train: SplitFeatures,
        test: SplitFeatures,
        device: str,
    ) -> None:
        self.last, self.classes = reader.num_layers, data.num_classes
        self.settings, self.train, self.test, self.device = settings, train, test, device
        self.plain = [pooling for pooling in settings.poolings if pooling != LAST4]
        self.notes: list[str] = []
        self.facts: dict[str, Any] = {}

    def read(self, protocol: str) -> list[dict[str, Any]]:
        """The readings of one protocol, in order of pooling, layer and parameter."""
        methods: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "knn": self._knn,
            "linear": self._linear,
            "fewshot": self._fewshot,
        }
        return methods[protocol]()

    def _knn(self) -> list[dict[str, Any]]:
        ks = [k for k in self.settings.ks if k <= len(self.train.labels)]
        dropped = [k for k in self.settings.ks if k not in ks]
        if dropped:
            self.notes.append(
                f"k-NN at k = {', '.join(map(str, dropped))} is left out: there are only {len(self.train.labels)} "
                "training items."
            )
        self.facts["knn"] = {
            "k": ks,
            "temperature": self.settings.temperature,
            "metric": "cosine, on L2-normalised features",
            "vote": "exp(similarity / temperature)",
        }
        found = []
        for pooling in self.plain if ks else ():
            for layer in self.settings.layers:
                predicted = knn_predict(
                    self.train.read(layer, pooling),
                    self.train.labels,
                    self.test.read(layer, pooling),
                    ks=ks,
                    temperature=self.settings.temperature,
                    num_classes=self.classes,
                    device=self.device,
                )
                found += [self._reading(f"knn-{k}", layer, pooling, predicted[k]) for k in ks]
        return found

    def _linear(self) -> list[dict[str, Any]]:
        """All layers and learning rates of one pooling in one batched program."""
        rates: dict[str, Any] = {}
        found = []
        for pooling in self.settings.poolings:
            layers = [self.last] if pooling == LAST4 else list(self.settings.layers)
            results = linear_probes(
                [self._features(self.train, layer, pooling) for layer in layers],
                self.train.labels,
                [self._features(self.test, layer, pooling) for layer in layers],
                num_classes=self.classes,
                settings=self.settings.probe,
                device=self.device,
            )
            for layer, result in zip(layers, results, strict=True):
                found.append(self._reading("linear", layer, pooling, result.predictions))
                rates.setdefault(pooling, {})[str(layer)] = {
                    "rate": result.rate,
                    "heldout_accuracy": {f"{rate:g}": value for rate, value in result.heldout_accuracy.items()},
                }
        self.facts["linear"] = {**asdict(self.settings.probe), "chosen": rates}
        return found

    def _fewshot(self) -> list[dict[str, Any]]:
        counts = np.bincount(self.train.labels, minlength=self.classes)
        present = np.flatnonzero(counts)  # a class may be numbered and have no item
        rarest = int(counts[present].min())
        shots = [n for n in self.settings.shots if n <= rarest]
        dropped = [n for n in self.settings.shots if n not in shots]
        if dropped:
            self.notes.append(
                f"few-shot with {', '.join(map(str, dropped))} a class is left out: the rarest class has only {rarest} "
                "training items."
            )
        self.facts["fewshot"] = {
            "shots": shots,
            "draws": self.settings.draws,
            "method": "SimpleShot (CL2N): centred, L2-normalised, nearest class mean",
        }
        found = []
        for pooling in self.plain if shots else ():
            for layer in self.settings.layers:
                accuracies = few_shot(
                    self.train.read(layer, pooling),
                    np.searchsorted(present, self.train.labels),
                    self.test.read(layer, pooling),
                    np.searchsorted(present, self.test.labels),
                    shots=shots,
                    draws=self.settings.draws,
                    seed=self.settings.seed,
                    num_classes=len(present),
                    device=self.device,
                )
                for n in shots:
                    entry = {"protocol": f"fewshot-{n}", "layer": layer, "pooling": pooling}
                    found.append({**entry, "top1": t_interval(accuracies[n])})
        return found

    def _features(self, split: SplitFeatures, layer: int, pooling: str) -> Array:
        if pooling != LAST4:
            return split.read(layer, pooling)
        return np.concatenate([split.read(n, "cls") for n in range(self.last - 3, self.last + 1)], axis=1)

    def _reading(self, protocol: str, layer: int, pooling: str, predicted: NDArray[np.int64]) -> dict[str, Any]:
        right = int((predicted == self.test.labels).sum())
        top1 = wilson_interval(right, len(self.test.labels))
        return {"protocol": protocol, "layer": layer, "pooling": pooling, "top1": top1}


def _measure(
    reader: LayerReader, data: LayerData, settings: ReadingSettings, test: SplitFeatures
) -> tuple[Geometry, list[dict[str, Any]], dict[str, Any]]:
    """Geometry and operations of each layer, by the encoder's own pooling."""
    pooling = next(p for p in reader.poolings if p in settings.poolings or (p == "cls" and LAST4 in settings.poolings))
    layers = [layer for layer in settings.layers if pooling in settings.poolings or layer > reader.num_layers - 4]
    classes = len(np.unique(test.labels))
    chosen = class_balanced(test.labels, max(1, min(settings.per_class, settings.sample // classes)), settings.seed)
    if len(chosen) > settings.sample:
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(chosen)[: settings.sample])
    labels = test.labels[chosen]
    features = {layer: test.read(layer, pooling)[chosen] for layer in layers}
    items = _take(data.test_items, test.positions[chosen])
    pairs = reader.read_pairs(items, layers, settings.seed) if len(chosen) > 1 else None
    rows = []
    for layer in settings.layers:
        row: dict[str, Any] = {"layer": layer, "flops": reader.flops(layer)}
        values = features.get(layer)
        for name, normalised in (("", False), ("_l2", True)):
            row[f"positive_alignment{name}"] = (
                positive_alignment(pairs[0][layer, pooling], pairs[1][layer, pooling], normalised=normalised)
                if pairs is not None and values is not None
                else None
            )
            row[f"negative_alignment{name}"] = (
                negative_alignment(values, labels, normalised=normalised)
                if values is not None and len(np.unique(labels)) > 1
                else None
            )
        for name, figure in _FIGURES.items():
            row[name] = figure(values) if values is not None and len(values) > 1 else None
        rows.append(row)
    cka = linear_cka([features[layer] for layer in layers]) if len(chosen) > 2 else None
    facts = {
        "geometry": {
            "pooling": pooling,
            "items": len(chosen),
            "classes": len(np.unique(labels)),
            "views": None if pairs is None else "two augmented views of each item",
        },
        "cka": {"layers": layers, "matrix": None if cka is None else np.round(cka, 6).tolist()},
    }
    return Geometry(labels, features), rows, facts


def _take(items: Sequence[Any], positions: NDArray[np.int64]) -> Sequence[Any]:
    take = getattr(items, "take", None)
    if take is not None:
        taken: Sequence[Any] = take(positions)
        return taken
    return [items[int(position)] for position in positions]


def wilson_interval(right: int, n: int) -> dict[str, float]:
    """Accuracy with Wilson's 95 % interval over n items (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return {"value": right / n, "low": float(found.low), "high": float(found.high)}


def t_interval(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Mean with Student's 95 % interval over draws, clipped to [0, 1]; no interval for a single draw."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return {"value": mean, "low": None, "high": None}
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"value": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
