"""Linear probes on frozen features: every layer and every learning rate trained at once, in one batched program.

A probe is softmax regression on raw features, trained as SDSSL (WACV 2023) and DINO (ICCV 2021) do: SGD with momentum
0.9, cosine decay to 0, 100 epochs. As in DINOv2 (2023) a grid of learning rates shares one pass over the features. The
rate is chosen on rows held out from training, never on test rows; then the probe is trained again on all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.core.progress import Progress
from sdssl.geometry import Features, Labels, check_features, check_labels
from sdssl.knn import as_tensor

# Half-decades. Softmax regression is stable below about 8 / (largest eigenvalue of the features' second moment), which
# is 1e-4 for features with norms in the hundreds and 10 for features of unit norm: raw features of layers span that.
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)

_BLOCK = 2048  # rows predicted at once


@dataclass(frozen=True)
class ProbeSettings:
    """How probes are trained.

    Args:
        epochs: Passes over the rows.
        batch_size: Rows a step, at most; an epoch is cut into steps of nearly equal size.
        rates: Learning rates to choose from, the same for every layer, not scaled by anything.
        momentum: Of SGD.
        weight_decay: L2 penalty on weights; biases have none.
        heldout: Share of every class that the rate is chosen on, in (0, 1); at least one row of a class with two.
        seed: Draws the held-out rows and the order of the rest.
    """

    epochs: int = 100
    batch_size: int = 256
    rates: tuple[float, ...] = RATES
    momentum: float = 0.9
    weight_decay: float = 0.0
    heldout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigurationError("linear probes need at least one epoch and one row a batch.")
        if not self.rates or not all(0 < rate < math.inf for rate in self.rates):
            raise ConfigurationError("linear probes need at least one learning rate, all above 0.")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0 or not 0 < self.heldout < 1:
            raise ConfigurationError("linear probes need momentum in [0, 1), weight decay >= 0, held-out in (0, 1).")


@dataclass(frozen=True)
class ProbeResult:
    """What the probe of one layer found.

    Attributes:
        rate: The chosen learning rate: best on the held-out rows, the smaller of equals.
        heldout_accuracy: Learning rate -> accuracy on the held-out rows; 0 where training diverged.
        predictions: (m,) predicted classes of the test rows, by the probe trained on all rows.
    """

    rate: float
    heldout_accuracy: dict[float, float]
    predictions: NDArray[np.int64]


@dataclass
class _Probes:
    """Weights of a group of probes: L layers of one width, R rates each, C classes."""

    weights: torch.Tensor  # (L, R * C, d)
    biases: torch.Tensor  # (L, R * C, 1)
    classes: int

    def logits(self, rows: torch.Tensor) -> torch.Tensor:
        """(L, b, d) features -> (L, R, C, b) logits: rows last, so that softmax runs over whole vectors."""
        flat = torch.bmm(self.weights, rows.transpose(1, 2)).add_(self.biases)
        return flat.view(len(rows), -1, self.classes, rows.shape[1])


def linear_probes(
    train: Sequence[Features],
    labels: Labels,
    test: Sequence[Features],
    *,
    num_classes: int,
    settings: ProbeSettings | None = None,
    device: str | torch.device = "cpu",
) -> list[ProbeResult]:
    """Train a linear probe on every layer and predict the test rows with it.

    Layers of the same width are trained together, all rates at once; a layer's result does not depend on which others
    are trained with it, but for rounding. Same input and seed, same result on the same machine.

    Args:
        train: One (n, d_i) array a layer, rows of the same items in the same order.
        labels: (n,) labels in 0 .. num_classes - 1.
        test: One (m, d_i) array a layer.
        num_classes: How many classes there are.
        settings: How to train; the defaults where None.
        device: Where to train; the features of one width are held there in float32.

    Returns:
        One result a layer, in order.

    Raises:
        ConfigurationError: Different numbers of layers or widths in `train` and `test`.
        DataError: Features or labels that do not fit, fewer than two classes, no class with two rows, or features so
            large that training diverges at every rate.
    """
    settings = settings or ProbeSettings()
    if [layer.shape[1:] for layer in train] != [layer.shape[1:] for layer in test]:
        raise ConfigurationError("training and test features must have the same layers of the same widths.")
    for layer in (*train, *test):
        check_features(layer)
    for layer in train:
        check_labels(labels, len(layer), num_classes)
    if not train or len({len(layer) for layer in test}) != 1:
        raise ConfigurationError("linear probes need at least one layer, and as many test rows in each.")
    fitted, heldout = _split(np.asarray(labels), settings)
    groups: dict[int, list[int]] = {}
    for position, layer in enumerate(train):
        groups.setdefault(layer.shape[1], []).append(position)
    results: dict[int, ProbeResult] = {}
    with Progress("linear probes", total=2 * settings.epochs * len(groups), unit="epoch") as bar, torch.no_grad():
        truth = torch.as_tensor(np.asarray(labels, dtype=np.int64), device=device)
        for positions in groups.values():
            layers = [as_tensor(train[position], device) for position in positions]
            tests = [as_tensor(test[position], device) for position in positions]
            rates = sorted(set(settings.rates))
            grid = torch.tensor(rates, device=device).repeat(len(layers), 1)
            probes = _fit(layers, truth, fitted, grid, num_classes, settings, bar)
            accuracies, sound = _accuracies(probes, layers, truth, heldout)
            # argmax takes the first of equals, so the smaller rate.
            best = torch.where(sound, accuracies, -1.0).argmax(dim=1).tolist()
            chosen = torch.tensor([[rates[index]] for index in best], device=device)
            final = _fit(layers, truth, np.arange(len(labels)), chosen, num_classes, settings, bar)
            predicted, finite = _predictions(final, tests)
            if not bool(sound.any(dim=1).all() and finite.all()):
                raise DataError(
                    "linear probes diverge: the features are too large for the learning rates.",
                    "Give smaller learning rates, or check the encoder's features.",
                )
            predictions = predicted[:, 0].cpu().numpy()
            for row, position in enumerate(positions):
                heldout_accuracy = dict(zip(rates, accuracies[row].tolist(), strict=True))
                results[position] = ProbeResult(rates[best[row]], heldout_accuracy, predictions[row])
    return [results[position] for position in range(len(train))]


def _split(labels: Labels, settings: ProbeSettings) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions to train on and positions held out, drawn class by class."""
    generator = np.random.default_rng(settings.seed)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise DataError("a linear probe needs training rows of at least two classes.")
    fitted, heldout = [], []
    for label in classes:
        rows = generator.permutation(np.flatnonzero(labels == label))
        cut = min(len(rows) - 1, max(1, round(settings.heldout * len(rows))))
        heldout.append(rows[:cut])
        fitted.append(rows[cut:])
    if not sum(map(len, heldout)):
        raise DataError(
            "no class has two training rows, so none can be held out to choose the learning rate on.",
            "Give more training data.",
        )
    return np.sort(np.concatenate(fitted)), np.sort(np.concatenate(heldout))


def _fit(
    layers: Sequence[torch.Tensor],
    labels: torch.Tensor,
    rows: NDArray[np.int64],
    rates: torch.Tensor,
    classes: int,
    settings: ProbeSettings,
    bar: Progress,
) -> _Probes:
    """Train from zero, on `rows` of (n, d) layers, one probe for each of the (L, R) rates."""
    device = labels.device
    count, width = len(layers), layers[0].shape[1]
    outputs = rates.shape[1] * classes
    probes = _Probes(
        torch.zeros((count, outputs, width), device=device), torch.zeros((count, outputs, 1), device=device), classes
    )
    weight_steps, bias_steps = torch.zeros_like(probes.weights), torch.zeros_like(probes.biases)
    speed = rates.repeat_interleave(classes, dim=1).unsqueeze(2)  # (L, R * C, 1)
    names = torch.arange(classes, device=device).unsqueeze(1)
    # The order is drawn on the CPU, so that it does not depend on the device.
    generator = torch.Generator().manual_seed(settings.seed)
    pool = torch.from_numpy(rows)
    steps = math.ceil(len(rows) / settings.batch_size)
    step = 0
    for _ in range(settings.epochs):
        for chosen in pool[torch.randperm(len(pool), generator=generator)].to(device).tensor_split(steps):
            features = torch.stack([layer.index_select(0, chosen) for layer in layers])
            # The gradient of cross-entropy in the logits: softmax less one-hot.
            gradient = torch.softmax(probes.logits(features), dim=2).sub_((labels[chosen] == names).float())
            gradient = gradient.view(count, outputs, len(chosen))
            # In PyTorch's form of momentum: buffer = momentum * buffer + gradient.
            mean = 1 / len(chosen)
            weight_steps.baddbmm_(gradient, features, beta=settings.momentum, alpha=mean)
            if settings.weight_decay:
                weight_steps.add_(probes.weights, alpha=settings.weight_decay)
            bias_steps.mul_(settings.momentum).add_(gradient.sum(dim=2, keepdim=True), alpha=mean)
            decay = 0.5 * (1 + math.cos(math.pi * step / (steps * settings.epochs)))
            probes.weights.addcmul_(weight_steps, speed, value=-decay)
            probes.biases.addcmul_(bias_steps, speed, value=-decay)
            step += 1
        bar.advance()
    return probes


def _predictions(probes: _Probes, layers: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predicted classes (L, R, m) of (m, d) layers, and whether each probe's logits are all finite (L, R)."""
    parts = []
    finite = torch.ones((), dtype=torch.bool, device=layers[0].device)
    for start in range(0, len(layers[0]), _BLOCK):
        logits = probes.logits(torch.stack([layer[start : start + _BLOCK] for layer in layers]))
        parts.append(logits.argmax(dim=2))
        finite = finite & logits.isfinite().flatten(start_dim=2).all(dim=2)
    return torch.cat(parts, dim=2), finite


def _accuracies(
    probes: _Probes, layers: Sequence[torch.Tensor], labels: torch.Tensor, rows: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accuracies (L, R) on `rows`, float64, 0 for a probe that diverged, and which probes did not diverge (L, R)."""
    chosen = torch.from_numpy(rows).to(labels.device)
    predicted, finite = _predictions(probes, [layer.index_select(0, chosen) for layer in layers])
    correct = (predicted == labels[chosen]).double().mean(dim=2)
    return torch.where(finite, correct, 0.0), finite
