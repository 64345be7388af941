"""The loop: the same weights after any interruption, schedules in optimiser steps, what stops it."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.core.devices import bf16_supported
from harness.core.errors import ConfigurationError, DataError, HarnessError
from sdssl.images import load_images
from sdssl.loader import BatchPlan, view_seed
from sdssl.settings import TrainingSettings
from sdssl.training import TrainingOptions, train
from sdssl.watch import CollapseAlarm, CollapseError, MetricsFile, read_metrics

TINY = {"image_size": 8, "patch_size": 4, "depth": 3, "width": 24, "heads": 2}


def settings(**changes: Any) -> TrainingSettings:
    chosen = {"objective": "mocov3", "self_distill": True, "epochs": 2, "batch_size": 16, "seed": 3, **TINY, **changes}
    return TrainingSettings(arch="vit_tiny_patch16_224", preset="tiny", **chosen)


def images(limit: int = 64) -> Any:
    return load_images("digits", "train").sample(limit, 0)


def options(**changes: Any) -> TrainingOptions:
    return TrainingOptions(**{"device": "cpu", "log_every": 1, "knn_every": 0, **changes})


def files_of(run: Path) -> dict[str, bytes]:
    """Everything that a checkpoint and the encoder hold, byte for byte."""
    last = sorted((run / "checkpoints").iterdir())[-1]
    paths = [run / "encoder.safetensors", *sorted(last.iterdir())]
    return {path.name: path.read_bytes() for path in paths}


def losses(run: Path) -> list[tuple[str, str]]:
    with open(run / "metrics.csv", newline="") as handle:
        return [(line["step"], line["loss"]) for line in csv.DictReader(handle)]


@pytest.mark.parametrize("objective", ["simclr", "byol", "mocov3"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, objective: str) -> None:
    """Stopped after every step and gone on, bit for bit."""
    chosen = settings(objective=objective)
    train(chosen, images(), tmp_path / "whole", options())
    steps = []
    for _ in range(20):
        outcome = train(chosen, images(), tmp_path / "parts", options(time_limit=1e-9))
        steps.append(outcome.step)
        if outcome.step == outcome.steps:
            break
    assert steps == list(range(1, 9))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


COMMAND = [
    "ssl",
    "train",
    "--objective",
    "mocov3",
    "--self-distill",
    "--arch",
    "vit_tiny_patch16_224",
    "--preset",
    "tiny",
]
COMMAND += [
    "--image-size",
    "8",
    "--patch-size",
    "4",
    "--depth",
    "3",
    "--width",
    "24",
    "--heads",
    "2",
    "--data",
    "digits",
]
COMMAND += ["--batch-size", "16", "--limit", "320", "--epochs", "6", "--checkpoint-every", "3", "--device", "cpu"]


def test_kill_9_and_again_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness", *COMMAND, "--out"]
    subprocess.run([*command, "whole"], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    rng, kills = random.Random(0), 0
    for _ in range(30):
        process = subprocess.Popen(
            [*command, "killed"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = set((tmp_path / "killed" / "checkpoints").glob("step-*"))
        while process.poll() is None and kills < 3:
            if set((tmp_path / "killed" / "checkpoints").glob("step-*")) - before:
                time.sleep(rng.random() * 0.3)  # anywhere between two checkpoints, or inside the writing of one
                process.send_signal(signal.SIGKILL)
                kills += process.wait() == -signal.SIGKILL
            time.sleep(0.002)
        if process.wait() == 0:
            break
    assert kills == 3
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_a_terminated_run_keeps_its_last_step(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "harness",
        *COMMAND,
        "--epochs",
        "500",
        "--checkpoint-every",
        "100000",
        "--out",
        "run",
    ]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not (tmp_path / "run" / "metrics.csv").exists() or len(losses(tmp_path / "run")) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert f"stopped by SIGTERM after step {step} of 10000" in out


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    chosen = settings()
    train(chosen, images(), tmp_path / "whole", options(checkpoint_every=2, keep=9))
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    (tmp_path / "damaged" / "manifest.json").unlink()
    last, before = sorted((tmp_path / "damaged" / "checkpoints").iterdir(), reverse=True)[:2]
    blob = bytearray((last / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (last / "model.safetensors").write_bytes(bytes(blob))
    (before / "optimizer.safetensors").unlink()
    train(chosen, images(), tmp_path / "damaged", options(checkpoint_every=2, keep=9))
    assert files_of(tmp_path / "damaged") == files_of(tmp_path / "whole")
    for checkpoint in (tmp_path / "damaged" / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("{")
    (tmp_path / "damaged" / "manifest.json").unlink()
    with pytest.raises(HarnessError, match=r"no checkpoint .* is whole"):
        train(chosen, images(), tmp_path / "damaged", options())


def test_a_checkpoint_of_another_architecture_is_explained(tmp_path: Path) -> None:
    train(settings(), images(), tmp_path / "a", options())
    train(settings(depth=4), images(), tmp_path / "b", options(time_limit=1e-9))
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
    with pytest.raises(DataError, match=r"another architecture: .*missing.*blocks\.3.*expected"):
        train(settings(depth=4), images(), tmp_path / "b", options())


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    train(settings(), images(), tmp_path / "run", options(checkpoint_every=1, keep=3))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000007", "step-00000008"]


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    train(settings(), images(), tmp_path / "run", options(time_limit=1e-9))
    with pytest.raises(ConfigurationError, match="another configuration"):
        train(settings(alpha=0.5), images(), tmp_path / "run", options())
    with pytest.raises(ConfigurationError, match="dataset_hash"):
        train(settings(), images(80), tmp_path / "run", options())


def test_the_schedule_counts_optimiser_steps_whatever_the_accumulation(tmp_path: Path) -> None:
    columns = {}
    for accumulate in (1, 4):
        run = tmp_path / str(accumulate)
        train(settings(accumulate=accumulate, epochs=3), images(70), run, options())
        lines = read_metrics(run / "metrics.csv")
        assert [line["step"] for line in lines] == list(range(1, 13))  # 70 // 16 = 4 steps an epoch
        columns[accumulate] = [(line["learning_rate"], line["alpha"], line["momentum"]) for line in lines]
    assert columns[1] == columns[4]
    rates = [rate for rate, _, _ in columns[1]]
    assert max(rates) == pytest.approx(4.5e-3 * 16 / 256)
    assert rates[-1] < 0.1 * max(rates)
    assert columns[1][0][1] == 0


def test_accumulated_gradients_are_the_mean_of_the_parts(tmp_path: Path) -> None:
    """With a sum instead of a mean, or with only the last part, the norm of the gradient would tell."""
    from sdssl.augment import IMAGENET_MEAN, IMAGENET_STD, two_views
    from sdssl.loader import view_batches
    from sdssl.settings import build

    chosen = settings(accumulate=2, objective="byol")
    train(chosen, images(), tmp_path / "run", options(time_limit=1e-9))
    resolved, pretrainer = build(chosen)
    plan = BatchPlan(64, 16, 2, chosen.seed)
    views = two_views(resolved.augmentation, 8, IMAGENET_MEAN, IMAGENET_STD)
    for part in view_batches(images(), views, plan, (0, 1)):
        (0.5 * pretrainer(part.views, 0.0).loss).backward()
    norm = torch.stack([p.grad.norm() for p in pretrainer.parameters() if p.grad is not None]).norm()
    (line,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert line["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_the_teacher_follows_each_step(tmp_path: Path) -> None:
    from sdssl.settings import build

    chosen = settings(momentum=0.75)
    train(chosen, images(), tmp_path / "run", options(time_limit=1e-9))
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    student, teacher = load_file(folder / "model.safetensors"), load_file(folder / "teacher.safetensors")
    _, fresh = build(chosen)
    before = fresh.state_dict()
    moved = 0
    for name, value in teacher.items():
        own = name.replace("teacher.0.", "backbone.").replace("teacher.1.", "projectors.1.")
        # The momentum of the first step is the one it starts from.
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * student[own], rtol=1e-5, atol=1e-7)
        moved += not torch.equal(value, before[name])
    assert moved > 10


def test_clipping_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(settings(epochs=1), images(), tmp_path / "free", options())
    assert min(norms) > 0.5
    norms.clear()
    train(settings(epochs=1, clip=0.5), images(), tmp_path / "clipped", options())
    assert norms == pytest.approx([0.5] * 4, rel=1e-4)


def test_an_epoch_shows_each_image_once_and_epochs_differ() -> None:
    plan = BatchPlan(50, 12, 2, seed=7)
    parts = list(plan.parts(0, 8, 0, 1))
    assert len(parts) == 16
    epochs = [[index for part in parts[:8] for _, index in part], [index for part in parts[8:] for _, index in part]]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch) == 48
    assert epochs[0] != epochs[1]
    assert {key for part in parts[8:] for key, _ in part} == {1}
    # Any number of processes share the same batches, in the same order.
    for size in (2, 3, 6):
        shared = [list(plan.parts(0, 8, rank, size)) for rank in range(size)]
        joined = [[key for rank in range(size) for key in shared[rank][n]] for n in range(16)]
        assert joined == parts
    # A later start gives the rest.
    assert list(plan.parts(5, 8, 0, 1)) == parts[10:]


def test_view_seeds_do_not_meet() -> None:
    seeds = {view_seed(s, e, i, v) for s in range(3) for e in range(5) for i in range(40) for v in range(2)}
    assert len(seeds) == 3 * 5 * 40 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 100}, "64 images are too few for a batch of 100"),
        ({"depth": 1}, "only the last layer, 1, would learn"),
        ({"image_size": None, "patch_size": 15}, "a patch of 15 pixels does not divide an image of 224"),
        ({"image_size": 30, "patch_size": None}, "a patch of 16 pixels does not divide an image of 30"),
        ({"width": 25, "heads": 5}, "no multiple of 4"),
        ({"learning_rate": 0.0}, "--learning-rate 0 is not possible"),
        ({"learning_rate": float("inf")}, "--learning-rate inf is not possible"),
        ({"clip": 0.0}, "--clip 0 is not possible"),
        ({"batch_size": 16, "accumulate": 16}, "fewer than two images a part"),
        ({"layers": (1, 9)}, "has no layer 9"),
        ({"layers": (3,)}, "nothing is distilled"),
        ({"patch_size": 3}, "a patch of 3 pixels does not divide an image of 8"),
        ({"heads": 5}, "attention heads do not divide"),
        ({"objective": "simcl"}, "no objective named 'simcl'"),
        ({"arch": "vit_tini_patch16_224"}, "no timm model"),
        ({"preset": "large"}, "no preset named"),
        ({"norm": "none"}, "no norm named"),
        ({"precision": "fp8"}, "no precision named"),
        ({"self_distill": False, "alpha": 0.5}, "--alpha is about the layers below the last"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_settings_are_explained_and_leave_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    arch = {"arch": changes.pop("arch")} if "arch" in changes else {"arch": "vit_tiny_patch16_224"}
    chosen = {"objective": "mocov3", "self_distill": True, "epochs": 1, "batch_size": 16, **TINY, **changes}
    chosen.setdefault("preset", "tiny")
    with pytest.raises(HarnessError, match=message):
        train(TrainingSettings(**arch, **chosen), images(), tmp_path / "run", options())
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such device"):
        train(settings(), images(), tmp_path / "run", options(device="cuda"))


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    plan = BatchPlan(100, 18, 1, 0)
    plan.check_world(3)
    for size in (4, 18):
        with pytest.raises(ConfigurationError, match=f"cannot be shared evenly by {size} processes"):
            plan.check_world(size)


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            train(settings(), images(), tmp_path / "run", options(checkpoint_every=2))
    for path in (tmp_path / "run" / "checkpoints").rglob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(path).values())
    # And from that checkpoint it goes on.
    train(settings(), images(), tmp_path / "run", options(checkpoint_every=2))
    train(settings(), images(), tmp_path / "whole", options(checkpoint_every=2))
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def collapse_after(healthy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the given step on every image looks the same."""
    import sdssl.training

    read = sdssl.training.figures
    calls: list[int] = []

    def figures(features: np.ndarray) -> dict[str, float]:
        calls.append(0)
        return {**read(features), **({"feature_std": 1e-3, "rankme": 1.0} if len(calls) > healthy else {})}

    monkeypatch.setattr(sdssl.training, "figures", figures)


def test_a_collapsed_run_stops_and_keeps_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for session, healthy in enumerate((6, 3)):  # the second goes on from step 6, is well for 3 more, and collapses too
        with monkeypatch.context() as patch:
            collapse_after(healthy, patch)
            with pytest.raises(CollapseError, match=f"the representations collapsed by step {11 + 3 * session}:"):
                train(settings(epochs=5), images(), tmp_path / "run", options(checkpoint_every=1))
        steps = sorted(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
        assert steps == [5 + 3 * session, 6 + 3 * session]
    assert not (tmp_path / "run" / "encoder.safetensors").exists()


@pytest.mark.parametrize(("healthy", "step"), [(0, 4 + 5), (18, 20)], ids=["from the start", "at the very end"])
def test_no_collapsed_encoder_is_called_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: int, step: int
) -> None:
    collapse_after(healthy, monkeypatch)
    with pytest.raises(CollapseError, match=f"collapsed by step {step}:"):
        train(settings(epochs=5, warmup=0.2), images(), tmp_path / "run", options(checkpoint_every=1))
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


def test_what_is_watched(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(settings(epochs=4), images(), tmp_path / "run", options(knn_every=2))
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


def test_corrupt_images_are_skipped_counted_and_named(tmp_path: Path) -> None:
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
    outcome = train(settings(epochs=2, batch_size=8), data, tmp_path / "run", options())
    assert len(outcome.corrupt) == 2
    assert {Path(name).name for name in outcome.corrupt} == {"03.png", "05.png"}
    facts = json.loads((tmp_path / "run" / "encoder.json").read_text())
    assert sorted(facts["corrupt_images"]) == sorted(outcome.corrupt)
    assert "2 images could not be decoded" in outcome.report()[0]


@pytest.mark.parametrize("layers", [None, (1,)], ids=["all layers", "one"])
def test_norms_of_their_own_are_read_back(tmp_path: Path, layers: tuple[int, ...] | None) -> None:
    from sdssl.encoders import Hardware
    from sdssl.settings import build
    from sdssl.timm_reader import open_run

    chosen = settings(norm="own", layers=layers, learning_rate=1.0)
    train(chosen, images(), tmp_path / "run", options())
    reader = open_run(tmp_path / "run", Hardware(device="cpu"), None)
    _, pretrainer = build(chosen)
    pretrainer.backbone.vit.load_state_dict(load_file(tmp_path / "run" / "encoder.safetensors"))
    pretrainer.backbone.norms.load_state_dict(load_file(tmp_path / "run" / "layer_norms.safetensors"))
    assert pretrainer.backbone.norms["1"].weight.std() > 0  # it has learnt
    data = images(8)
    with torch.no_grad():
        pixels = torch.stack([reader.transform(data.image(i)) for i in range(8)])
        (*lower, _) = pretrainer.eval().backbone(pixels)
    found = reader.read([data.image(i) for i in range(8)], [1, 2, 3])
    np.testing.assert_allclose(found[1, "cls"], lower[0].numpy(), rtol=1e-4, atol=1e-5)


def test_an_encoder_that_was_changed_is_refused(tmp_path: Path) -> None:
    from sdssl.encoders import Hardware
    from sdssl.timm_reader import open_run

    train(settings(epochs=1), images(), tmp_path / "run", options())
    path = tmp_path / "run" / "encoder.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-4:] = bytes(4)
    path.write_bytes(bytes(blob))
    with pytest.raises(DataError, match="its hash differs"):
        open_run(tmp_path / "run", Hardware(device="cpu"), None)


def test_a_vit_that_pools_in_its_own_way_resumes(tmp_path: Path) -> None:
    """SigLIP's attention pooling is nothing that a loss reaches."""
    sizes = {"image_size": 16, "patch_size": 8, "depth": 2, "width": 24, "heads": 2}
    chosen = TrainingSettings(
        "mocov3", True, "vit_base_patch16_siglip_224", "tiny", epochs=2, batch_size=16, seed=1, **sizes
    )
    train(chosen, images(32), tmp_path / "whole", options())
    for _ in range(4):
        outcome = train(chosen, images(32), tmp_path / "parts", options(time_limit=1e-9))
    assert outcome.step == outcome.steps == 4
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    import timm

    facts = json.loads((tmp_path / "parts" / "encoder.json").read_text())
    assert facts["arguments"]["global_pool"] == "avg"
    timm.create_model(facts["arch"], **facts["arguments"]).load_state_dict(
        load_file(tmp_path / "parts" / "encoder.safetensors")
    )


def test_workers_change_nothing(tmp_path: Path) -> None:
    train(settings(epochs=1), images(), tmp_path / "none", options())
    train(settings(epochs=1), images(), tmp_path / "two", options(workers=2))
    assert files_of(tmp_path / "none") == files_of(tmp_path / "two")


def test_the_encoder_is_a_plain_timm_model(tmp_path: Path) -> None:
    """Read by another process that imports nothing of ours but the torchvision mend."""
    train(settings(norm="own"), images(), tmp_path / "run", options())
    code = """
import json, sys
from harness.core.compat import prepare_torchvision
prepare_torchvision()
import timm, torch
from safetensors.torch import load_file
facts = json.load(open("run/encoder.json"))
model = timm.create_model(facts["arch"], **facts["arguments"])
model.load_state_dict(load_file("run/encoder.safetensors"), strict=True)
print(tuple(model.eval()(torch.zeros(1, 3, facts["image_size"], facts["image_size"])).shape))
assert not [name for name in sys.modules if name.startswith("sdssl")]
print(sorted(load_file("run/layer_norms.safetensors")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["(1, 24)", "['1.bias', '1.weight', '2.bias', '2.weight']"]


@pytest.mark.skipif(not bf16_supported(torch.device("cpu")), reason="this processor has no bf16 arithmetic")
def test_bf16_trains_and_keeps_fp32_weights(tmp_path: Path) -> None:
    train(settings(precision="bf16"), images(), tmp_path / "run", options())
    assert {value.dtype for value in load_file(tmp_path / "run" / "encoder.safetensors").values()} == {torch.float32}
    exact, rough = settings(), settings(precision="bf16")
    train(exact, images(), tmp_path / "exact", options())
    first = [read_metrics(tmp_path / name / "metrics.csv")[0]["loss"] for name in ("run", "exact")]
    assert first[0] == pytest.approx(first[1], rel=0.02)
    assert first[0] != first[1]
    assert rough != exact


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_backbone_trains_the_same(tmp_path: Path) -> None:
    train(settings(), images(), tmp_path / "plain", options())
    train(settings(compile=True), images(), tmp_path / "compiled", options())
    plain, compiled = (load_file(tmp_path / name / "encoder.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    lines = [read_metrics(tmp_path / name / "metrics.csv") for name in ("plain", "compiled")]
    for one, other in zip(*lines, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-2)


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    train(settings(), images(), tmp_path / "run", options())
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    outcome = train(settings(), images(), tmp_path / "run", options())
    assert outcome.step == outcome.steps == 8
    del before[tmp_path / "run" / "run.log"], before[tmp_path / "run" / ".lock"]
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
