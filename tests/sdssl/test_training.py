"""The loop: schedules in optimiser steps, accumulation, the batch plan, what it refuses, the encoder it leaves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.core.devices import bf16_supported
from harness.core.errors import ConfigurationError, DataError, HarnessError
from sdssl.loader import BatchPlan, view_seed
from sdssl.settings import TrainingSettings
from sdssl.training import train
from sdssl.watch import read_metrics


def test_the_schedule_counts_optimiser_steps_whatever_the_accumulation(tiny: Any, tmp_path: Path) -> None:
    columns = {}
    for accumulate in (1, 4):
        run = tmp_path / str(accumulate)
        train(tiny.settings(accumulate=accumulate, epochs=3), tiny.images(70), run, tiny.options())
        lines = read_metrics(run / "metrics.csv")
        assert [line["step"] for line in lines] == list(range(1, 13))  # 70 // 16 = 4 steps an epoch
        columns[accumulate] = [(line["learning_rate"], line["alpha"], line["momentum"]) for line in lines]
    assert columns[1] == columns[4]
    rates = [rate for rate, _, _ in columns[1]]
    assert max(rates) == pytest.approx(4.5e-3 * 16 / 256)
    assert rates[-1] < 0.1 * max(rates)
    assert columns[1][0][1] == 0


def test_accumulated_gradients_are_the_mean_of_the_parts(tiny: Any, tmp_path: Path) -> None:
    """With a sum instead of a mean, or with only the last part, the norm of the gradient would tell."""
    from sdssl.augment import IMAGENET_MEAN, IMAGENET_STD, two_views
    from sdssl.loader import view_batches
    from sdssl.settings import build

    chosen = tiny.settings(accumulate=2, objective="byol")
    train(chosen, tiny.images(), tmp_path / "run", tiny.options(time_limit=1e-9))
    resolved, pretrainer = build(chosen)
    plan = BatchPlan(64, 16, 2, chosen.seed)
    views = two_views(resolved.augmentation, 8, IMAGENET_MEAN, IMAGENET_STD)
    for part in view_batches(tiny.images(), views, plan, (0, 1)):
        (0.5 * pretrainer(part.views, 0.0).loss).backward()
    norm = torch.stack([p.grad.norm() for p in pretrainer.parameters() if p.grad is not None]).norm()
    (line,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert line["gradient_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_the_teacher_follows_each_step(tiny: Any, tmp_path: Path) -> None:
    from sdssl.settings import build

    chosen = tiny.settings(momentum=0.75)
    train(chosen, tiny.images(), tmp_path / "run", tiny.options(time_limit=1e-9))
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


def test_clipping_acts(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    train(tiny.settings(epochs=1), tiny.images(), tmp_path / "free", tiny.options())
    assert min(norms) > 0.5
    norms.clear()
    train(tiny.settings(epochs=1, clip=0.5), tiny.images(), tmp_path / "clipped", tiny.options())
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
def test_bad_settings_are_explained_and_leave_nothing(
    tiny: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    arch = {"arch": changes.pop("arch")} if "arch" in changes else {"arch": "vit_tiny_patch16_224"}
    chosen = {"objective": "mocov3", "self_distill": True, "epochs": 1, "batch_size": 16, **tiny.sizes, **changes}
    chosen.setdefault("preset", "tiny")
    with pytest.raises(HarnessError, match=message):
        train(TrainingSettings(**arch, **chosen), tiny.images(), tmp_path / "run", tiny.options())
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such device"):
        train(tiny.settings(), tiny.images(), tmp_path / "run", tiny.options(device="cuda"))


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    plan = BatchPlan(100, 18, 1, 0)
    plan.check_world(3)
    for size in (4, 18):
        with pytest.raises(ConfigurationError, match=f"cannot be shared evenly by {size} processes"):
            plan.check_world(size)


@pytest.mark.parametrize("layers", [None, (1,)], ids=["all layers", "one"])
def test_norms_of_their_own_are_read_back(tiny: Any, tmp_path: Path, layers: tuple[int, ...] | None) -> None:
    from sdssl.encoders import Hardware
    from sdssl.settings import build
    from sdssl.timm_reader import open_run

    chosen = tiny.settings(norm="own", layers=layers, learning_rate=1.0)
    train(chosen, tiny.images(), tmp_path / "run", tiny.options())
    reader = open_run(tmp_path / "run", Hardware(device="cpu"), None)
    _, pretrainer = build(chosen)
    pretrainer.backbone.vit.load_state_dict(load_file(tmp_path / "run" / "encoder.safetensors"))
    pretrainer.backbone.norms.load_state_dict(load_file(tmp_path / "run" / "layer_norms.safetensors"))
    assert pretrainer.backbone.norms["1"].weight.std() > 0  # it has learnt
    data = tiny.images(8)
    with torch.no_grad():
        pixels = torch.stack([reader.transform(data.image(i)) for i in range(8)])
        (*lower, _) = pretrainer.eval().backbone(pixels)
    found = reader.read([data.image(i) for i in range(8)], [1, 2, 3])
    np.testing.assert_allclose(found[1, "cls"], lower[0].numpy(), rtol=1e-4, atol=1e-5)


def test_an_encoder_that_was_changed_is_refused(tiny: Any, tmp_path: Path) -> None:
    from sdssl.encoders import Hardware
    from sdssl.timm_reader import open_run

    train(tiny.settings(epochs=1), tiny.images(), tmp_path / "run", tiny.options())
    path = tmp_path / "run" / "encoder.safetensors"
    blob = bytearray(path.read_bytes())
    blob[-4:] = bytes(4)
    path.write_bytes(bytes(blob))
    with pytest.raises(DataError, match="its hash differs"):
        open_run(tmp_path / "run", Hardware(device="cpu"), None)


def test_the_encoder_is_a_plain_timm_model(tiny: Any, tmp_path: Path) -> None:
    """Read by another process that imports nothing of ours but the torchvision mend."""
    train(tiny.settings(norm="own"), tiny.images(), tmp_path / "run", tiny.options())
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
def test_bf16_trains_and_keeps_fp32_weights(tiny: Any, tmp_path: Path) -> None:
    train(tiny.settings(precision="bf16"), tiny.images(), tmp_path / "run", tiny.options())
    assert {value.dtype for value in load_file(tmp_path / "run" / "encoder.safetensors").values()} == {torch.float32}
    exact, rough = tiny.settings(), tiny.settings(precision="bf16")
    train(exact, tiny.images(), tmp_path / "exact", tiny.options())
    first = [read_metrics(tmp_path / name / "metrics.csv")[0]["loss"] for name in ("run", "exact")]
    assert first[0] == pytest.approx(first[1], rel=0.02)
    assert first[0] != first[1]
    assert rough != exact


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_backbone_trains_the_same(tiny: Any, tmp_path: Path) -> None:
    train(tiny.settings(), tiny.images(), tmp_path / "plain", tiny.options())
    train(tiny.settings(compile=True), tiny.images(), tmp_path / "compiled", tiny.options())
    plain, compiled = (load_file(tmp_path / name / "encoder.safetensors") for name in ("plain", "compiled"))
    assert plain.keys() == compiled.keys()
    lines = [read_metrics(tmp_path / name / "metrics.csv") for name in ("plain", "compiled")]
    for one, other in zip(*lines, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["gradient_norm"] == pytest.approx(other["gradient_norm"], rel=1e-2)
