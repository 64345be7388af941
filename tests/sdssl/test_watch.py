"""What is watched while a run trains, and what stops it: losses that are not finite, collapse, corrupt images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.core.errors import HarnessError
from sdssl.images import load_images
from sdssl.training import train
from sdssl.watch import CollapseAlarm, CollapseError, MetricsFile, read_metrics


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdssl.objectives.mocov3 import MoCoV3

    forward, calls = MoCoV3.forward, []

    def poisoned(self: MoCoV3, *arguments: Any) -> torch.Tensor:
        calls.append(0)
        return forward(self, *arguments) * (
            float("nan") if len(calls) == 7 else 1.0
        )  # one call looks for parts without gradient

    with monkeypatch.context() as patch:
        patch.setattr(MoCoV3, "forward", poisoned)
        with pytest.raises(HarnessError, match=r"loss is not finite at step 6; the last good checkpoint is .* step 4"):
            train(tiny.settings(), tiny.images(), tmp_path / "run", tiny.options(checkpoint_every=2))
    for path in (tmp_path / "run" / "checkpoints").rglob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values())
    # And from that checkpoint it goes on.
    train(tiny.settings(), tiny.images(), tmp_path / "run", tiny.options(checkpoint_every=2))
    train(tiny.settings(), tiny.images(), tmp_path / "whole", tiny.options(checkpoint_every=2))
    assert tiny.files_of(tmp_path / "run") == tiny.files_of(tmp_path / "whole")


def collapse_after(healthy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the given step on every image looks the same."""
    import sdssl.training

    read = sdssl.training.figures
    calls: list[int] = []

    def figures(features: np.ndarray) -> dict[str, float]:
        calls.append(0)
        return {**read(features), **({"feature_std": 1e-3, "rankme": 1.0} if len(calls) > healthy else {})}

    monkeypatch.setattr(sdssl.training, "figures", figures)


def test_a_collapsed_run_stops_and_keeps_nothing_of_it(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session, healthy in enumerate((6, 3)):  # the second goes on from step 6, is well for 3 more, and collapses too
        with monkeypatch.context() as patch:
            collapse_after(healthy, patch)
            with pytest.raises(CollapseError, match=f"the representations collapsed by step {11 + 3 * session}:"):
                train(tiny.settings(epochs=5), tiny.images(), tmp_path / "run", tiny.options(checkpoint_every=1))
        steps = sorted(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
        assert steps == [5 + 3 * session, 6 + 3 * session]
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


@pytest.mark.parametrize(("healthy", "step"), [(0, 4 + 5), (18, 20)], ids=["from the start", "at the very end"])
def test_no_collapsed_encoder_is_called_finished(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: int, step: int
) -> None:
    collapse_after(healthy, monkeypatch)
    with pytest.raises(CollapseError, match=f"collapsed by step {step}:"):
        train(tiny.settings(epochs=5, warmup=0.2), tiny.images(), tmp_path / "run", tiny.options(checkpoint_every=1))
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


def test_the_alarm_waits_for_a_healthy_start_and_for_patience() -> None:
    alarm = CollapseAlarm(warmup=20, patience=2)
    dead, alive = {"feature_std": 1e-4, "rankme": 1.0}, {"feature_std": 0.5, "rankme": 9.0}
    assert [alarm.check(step, dead) for step in range(9)] == [None] * 9
    assert not alarm.suspects
    assert alarm.check(9, alive) is None
    assert alarm.check(10, dead) is None
    assert alarm.check(11, alive) is None
    assert alarm.check(12, dead) is None
    assert isinstance(alarm.check(13, dead), CollapseError)


def test_what_is_watched(tiny: Any, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(tiny.settings(epochs=4), tiny.images(), tmp_path / "run", tiny.options(knn_every=2))
    lines = read_metrics(tmp_path / "run" / "metrics.csv")
    assert len(lines) == 16
    assert all(line[f"loss_layer_{layer}"] for line in lines for layer in (1, 2, 3))
    assert [line["step"] for line in lines if line["online_knn"] is not None] == [8, 16]
    for name in ("alignment", "uniformity", "rankme", "feature_std", "gradient_norm", "images_per_second"):
        assert all(np.isfinite(line[name]) for line in lines)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 17))
    shown = [event.value for event in events.Scalars("loss")]
    assert shown == pytest.approx([line["loss"] for line in lines], rel=1e-5)
    assert (tmp_path / "run" / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_cut_line_of_the_metrics_is_dropped(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path, [1, 2], 0)
    log.add({"step": 1, "epoch": 0, "loss": 2.5})
    log.add({"step": 2, "epoch": 0, "loss": 2.25})
    log.close()
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-8])
    assert [line["step"] for line in read_metrics(path)] == [1]
    MetricsFile(tmp_path, [1, 2], 1).close()
    assert [line["loss"] for line in read_metrics(path)] == [2.5]


def test_corrupt_images_are_skipped_counted_and_named(tiny: Any, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "pictures" / "train"
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(folder / label / f"{number:02d}.png")
    (folder / "a" / "03.png").write_bytes(b"no image")
    whole = (folder / "b" / "05.png").read_bytes()
    (folder / "b" / "05.png").write_bytes(whole[: len(whole) // 2])
    data = load_images(str(tmp_path / "pictures"), "train")
    outcome = train(tiny.settings(epochs=2, batch_size=8), data, tmp_path / "run", tiny.options())
    assert len(outcome.corrupt) == 2
    assert {Path(name).name for name in outcome.corrupt} == {"03.png", "05.png"}
    facts = json.loads((tmp_path / "run" / "encoder.json").read_text())
    assert sorted(facts["corrupt_images"]) == sorted(outcome.corrupt)
    assert "2 images could not be decoded" in outcome.report()[0]
