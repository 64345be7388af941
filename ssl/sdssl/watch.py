"""Watching a training run: figures of each step in a CSV and for TensorBoard, and an alarm for collapse."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import HarnessError
from harness.core.files import write_text
from sdssl.geometry import feature_std, positive_alignment, rankme, uniformity

METRICS = "metrics.csv"
_DEAD_STD = 0.03
_DEAD_RANK = 1.5
_PATIENCE = 5


class CollapseError(HarnessError):
    """The representations of all images became one point or one line."""


def figures(features: NDArray[np.float32]) -> dict[str, float]:
    """What is watched of the last layer's representations.

    Args:
        features: (2, n, d) of two views of n images: those of a step's last part on one process.

    Returns:
        alignment: mean squared distance of the two views on the sphere (Wang and Isola, ICML 2020), lower is better.
        uniformity: log of the mean Gaussian potential, of the first view (the same).
        rankme: effective rank of the first view's features (Garrido et al., ICML 2023), at most min(n, d).
        feature_std: spread over images on the sphere; 1 is that of isotropic features, 0 is a collapse.
    """
    first, second = features
    return {
        "alignment": positive_alignment(first, second, normalised=True),
        "uniformity": uniformity(first),
        "rankme": rankme(first),
        "feature_std": feature_std(first),
    }


class CollapseAlarm:
    """Stops a run whose representations stay collapsed: no spread over images, or a rank of one.

    A fresh ViT may say nearly the same of all images, so readings count from the first healthy one, or from the end of
    the warm-up.

    Args:
        warmup: Optimiser steps in which a run need not have become healthy.
        patience: How many readings in a row must be collapsed.
    """

    def __init__(self, warmup: int = 0, patience: int = _PATIENCE) -> None:
        self.warmup = warmup
        self.patience = patience
        self.armed = False
        self.bad = 0
        self.error: CollapseError | None = None

    @property
    def suspects(self) -> bool:
        """Whether the last reading was collapsed: nothing of such a moment should be kept."""
        return self.bad > 0

    def check(self, step: int, found: Mapping[str, float]) -> CollapseError | None:
        """Takes a reading; gives the error to stop with where it is the last one that patience allows."""
        self.armed = self.armed or step > self.warmup
        dead = found["feature_std"] < _DEAD_STD or found["rankme"] < _DEAD_RANK
        self.armed = self.armed or not dead
        self.bad = self.bad + 1 if dead and self.armed else 0
        self.error = CollapseError(
            f"the representations collapsed by step {step}: their spread over images is {found['feature_std']:.4f} "
            f"(1 is isotropic) and their effective rank {found['rankme']:.2f}.",
            "Lower the learning rate or --alpha, raise the batch, or add --clip 1, in a new run.",
        )
        return self.error if self.bad >= self.patience else None


class MetricsFile:
    """`metrics.csv`: a line a reading, in order of steps; TensorBoard events beside it where it is installed.

    Args:
        run: The run's folder.
        layers: The layers that learn, each with a column of its loss.
        done: Optimiser steps that the checkpoint holds; lines after it belong to lost work and are dropped.
    """

    def __init__(self, run: Path, layers: Sequence[int], done: int) -> None:
        self.path = Path(run) / METRICS
        self.columns = [
            *("step", "epoch", "loss", *(f"loss_layer_{layer}" for layer in layers)),
            *("alignment", "uniformity", "rankme", "feature_std", "online_knn"),
            *("learning_rate", "alpha", "momentum", "gradient_norm", "images_per_second"),
        ]
        kept = [line for line in read_metrics(self.path) if (line["step"] or 0) <= done]
        write_text(self.path, self._text([self.columns, *([line[c] for c in self.columns] for line in kept)]))
        self._writer = _tensorboard(Path(run) / "tensorboard", done)

    def add(self, line: Mapping[str, float | None]) -> None:
        """Append a reading; what is None stays empty."""
        with open(self.path, "a", encoding="utf-8", newline="") as handle:
            handle.write(self._text([[line.get(column) for column in self.columns]]))
        if self._writer is not None:
            for name, value in line.items():
                if value is not None and name not in ("step", "epoch"):
                    self._writer.add_scalar(name, value, int(line["step"] or 0))

    def close(self) -> None:
        """Write out what TensorBoard holds back."""
        if self._writer is not None:
            self._writer.close()

    @staticmethod
    def _text(lines: Sequence[Sequence[Any]]) -> str:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows(
            [f"{value:.8g}" if isinstance(value, float) else value for value in line] for line in lines
        )
        return buffer.getvalue()


def read_metrics(path: Path) -> list[dict[str, float | None]]:
    """The lines of a `metrics.csv`; a last line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    with open(path, encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            if None in line.values() or None in line:
                break
            found.append({name: float(value) if value else None for name, value in line.items()})
    for entry in found:
        entry["step"] = int(entry["step"] or 0)
        entry["epoch"] = int(entry["epoch"] or 0)
    return found


def _tensorboard(folder: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Events of lost work are hidden by TensorBoard itself.
    return SummaryWriter(str(folder), purge_step=done + 1)
