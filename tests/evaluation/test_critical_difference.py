from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.core.ranks import critical_difference
from harness.evaluation.critical_difference import draw_critical_difference


@pytest.mark.parametrize("count", [2, 3, 25])
def test_picture(count: int, tmp_path: Path) -> None:
    from matplotlib.image import imread

    values = np.random.default_rng(count).normal(size=(10, count)) + np.linspace(3, 0, count)
    names = [f"knn:k={i},price=$1$" for i in range(count)]
    found = critical_difference(names, values)
    draw_critical_difference(tmp_path / "cd.png", found, title="AUC over 10 cells")
    picture = imread(tmp_path / "cd.png")
    assert picture.shape[1] > 1000
    assert 0.005 < (picture[..., :3].min(axis=2) < 0.9).mean() < 0.4
    draw_critical_difference(tmp_path / "bare.png", found)
