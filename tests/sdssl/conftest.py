"""A run so small that it is trained a hundred times over, and what is compared of two such runs."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

if TYPE_CHECKING:
    from sdssl.settings import TrainingSettings
    from sdssl.training import TrainingOptions


class Tiny:
    """Settings, images and options of a tiny run, each with what a test changes, and what the run left."""

    sizes: ClassVar[dict[str, int]] = {"image_size": 8, "patch_size": 4, "depth": 3, "width": 24, "heads": 2}

    def settings(self, **changes: Any) -> TrainingSettings:
        from sdssl.settings import TrainingSettings

        usual = {"objective": "mocov3", "self_distill": True, "epochs": 2, "batch_size": 16, "seed": 3, **self.sizes}
        return TrainingSettings(arch="vit_tiny_patch16_224", preset="tiny", **{**usual, **changes})

    def images(self, limit: int = 64) -> Any:
        from sdssl.images import load_images

        return load_images("digits", "train").sample(limit, 0)

    def options(self, **changes: Any) -> TrainingOptions:
        from sdssl.training import TrainingOptions

        return TrainingOptions(**{"device": "cpu", "log_every": 1, "knn_every": 0, **changes})

    def files_of(self, run: Path) -> dict[str, bytes]:
        """Everything that a checkpoint and the encoder hold, byte for byte."""
        last = sorted((run / "checkpoints").iterdir())[-1]
        paths = [run / "encoder.safetensors", *sorted(last.iterdir())]
        return {path.name: path.read_bytes() for path in paths}

    def losses(self, run: Path) -> list[tuple[str, str]]:
        with open(run / "metrics.csv", newline="") as handle:
            return [(line["step"], line["loss"]) for line in csv.DictReader(handle)]


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()
