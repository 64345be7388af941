"""Few-shot reading: the nearest class mean of a handful of labelled images.

SimpleShot's CL2N (Wang, Chao, Weinberger and van der Maaten, 2019, arXiv 1911.04623): features are centred on the
training mean and L2-normalised; a class is the mean of its shots, not normalised again; the nearest by Euclidean
distance wins. Here the task has all classes at once, and the centring mean is that of all training images, which
uses no label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from sdssl.geometry import Features, Labels, check_features, check_labels

_BLOCK = 4096  # test rows whose distances are held at once


def few_shot(
    train: Features,
    train_labels: Labels,
    test: Features,
    test_labels: Labels,
    *,
    shots: Sequence[int],
    draws: int = 20,
    seed: int,
    num_classes: int,
    label_names: Sequence[str] | None = None,
    device: str | torch.device = "cpu",
) -> dict[int, NDArray[np.float64]]:
    """Accuracy of the nearest class mean with `shots` labelled images a class, over random draws of those images.

    What is drawn depends on the seed and the labels alone, so every layer gets the same images. A draw's smaller
    numbers of shots are parts of its larger ones. Between equally near classes the lower wins.

    Args:
        train: (n, d) features that shots are drawn from.
        train_labels: (n,) labels in 0 .. num_classes - 1.
        test: (m, d) features to classify.
        test_labels: (m,) labels in 0 .. num_classes - 1.
        shots: Numbers of labelled images a class.
        draws: How often shots are drawn.
        seed: Draws the shots.
        num_classes: How many classes there are.
        label_names: Names of the classes, for messages.
        device: Where to compute.

    Returns:
        shots -> (draws,) accuracies in [0, 1].

    Raises:
        ConfigurationError: No shots, or shots or draws below 1.
        DataError: A class has fewer training images than shots; features or labels that do not fit.
    """
    ordered = sorted({int(count) for count in shots})
    if not ordered or ordered[0] < 1 or draws < 1:
        raise ConfigurationError("few-shot reading needs at least one shot a class and one draw.")
    check_features(train)
    check_features(test)
    check_labels(train_labels, len(train), num_classes)
    check_labels(test_labels, len(test), num_classes)
    if train.shape[1] != test.shape[1]:
        raise DataError(f"training features have {train.shape[1]} dimensions and test features {test.shape[1]}.")
    _refuse_small_classes(train_labels, ordered[-1], num_classes, label_names)

    mean = torch.from_numpy(train.mean(axis=0, dtype=np.float64)).to(device)
    truth = torch.as_tensor(np.asarray(test_labels, dtype=np.int64), device=device)
    drawn = _draw_shots(np.asarray(train_labels), ordered[-1], draws, seed, num_classes)
    means: list[list[torch.Tensor]] = []  # draw -> shots -> (num_classes, d)
    for positions in drawn:
        support = _centred(train[positions.ravel()], mean, device).view(*positions.shape, -1)
        means.append([support[:, :count].mean(dim=1) for count in ordered])
    correct = torch.zeros((len(ordered), draws), dtype=torch.int64, device=device)
    for start in range(0, len(test), _BLOCK):
        queries = _centred(test[start : start + _BLOCK], mean, device)
        wanted = truth[start : start + _BLOCK, None]
        for draw, by_shots in enumerate(means):
            for row, classes in enumerate(by_shots):
                # |q - c|^2 less |q|^2, which is the same for every class.
                distances = (classes**2).sum(dim=1) - 2 * queries @ classes.T
                correct[row, draw] += (distances.argmin(dim=1, keepdim=True) == wanted).sum()
    accuracies = (correct.double() / len(test)).cpu().numpy()
    return {count: accuracies[row] for row, count in enumerate(ordered)}


def _draw_shots(labels: Labels, shots: int, draws: int, seed: int, num_classes: int) -> NDArray[np.int64]:
    """Positions (draws, num_classes, shots) of the drawn images; no image twice in a draw."""
    starts = np.searchsorted(np.sort(labels), np.arange(num_classes))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        # Sorted by class, and within a class at random.
        order = np.lexsort((generator.random(len(labels)), labels))
        drawn.append(order[starts[:, None] + np.arange(shots)])
    return np.stack(drawn)


def _centred(features: Features, mean: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """Rows less the mean, L2-normalised, float32; a row that equals the mean becomes zero."""
    rows = torch.from_numpy(features.astype(np.float64)).to(device) - mean
    norms = rows.norm(dim=1, keepdim=True)
    return (rows / torch.where(norms > 0, norms, 1.0)).float()


def _refuse_small_classes(labels: Labels, shots: int, num_classes: int, label_names: Sequence[str] | None) -> None:
    counts = np.bincount(labels, minlength=num_classes)
    small = int(counts.argmin())
    if counts[small] < shots:
        name = f"class {small}" if label_names is None else f"class {small} ({label_names[small]!r})"
        raise DataError(
            f"{name} has {counts[small]} training images and {shots} shots are asked for.",
            "Ask for fewer shots, or give more training data.",
        )
