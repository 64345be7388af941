"""The same weights after any interruption; the checkpoints that a run goes on from, and those that it refuses."""

from __future__ import annotations

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

import pytest
from safetensors.torch import load_file

from harness.core.errors import ConfigurationError, DataError, HarnessError
from sdssl.settings import TrainingSettings
from sdssl.training import train

COMMAND = ["ssl", "train", "--objective", "mocov3", "--self-distill", "--arch", "vit_tiny_patch16_224"]
COMMAND += ["--preset", "tiny", "--image-size", "8", "--patch-size", "4", "--depth", "3", "--width", "24"]
COMMAND += ["--heads", "2", "--data", "digits", "--batch-size", "16", "--limit", "320", "--epochs", "6"]
COMMAND += ["--checkpoint-every", "3", "--device", "cpu"]


@pytest.mark.parametrize("objective", ["simclr", "byol", "mocov3"])
def test_a_resumed_run_is_the_uninterrupted_one(tiny: Any, tmp_path: Path, objective: str) -> None:
    """Stopped after every step and gone on, bit for bit."""
    chosen = tiny.settings(objective=objective)
    train(chosen, tiny.images(), tmp_path / "whole", tiny.options())
    steps = []
    for _ in range(20):
        outcome = train(chosen, tiny.images(), tmp_path / "parts", tiny.options(time_limit=1e-9))
        steps.append(outcome.step)
        if outcome.step == outcome.steps:
            break
    assert steps == list(range(1, 9))
    assert tiny.files_of(tmp_path / "parts") == tiny.files_of(tmp_path / "whole")
    assert tiny.losses(tmp_path / "parts") == tiny.losses(tmp_path / "whole")


def test_kill_9_and_again_gives_the_same_bytes(tiny: Any, tmp_path: Path) -> None:
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
    assert tiny.files_of(tmp_path / "killed") == tiny.files_of(tmp_path / "whole")
    assert tiny.losses(tmp_path / "killed") == tiny.losses(tmp_path / "whole")


def test_a_terminated_run_keeps_its_last_step(tiny: Any, tmp_path: Path) -> None:
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
    while not (tmp_path / "run" / "metrics.csv").exists() or len(tiny.losses(tmp_path / "run")) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert f"stopped by SIGTERM after step {step} of 10000" in out


def test_a_damaged_checkpoint_is_passed_over(tiny: Any, tmp_path: Path) -> None:
    chosen = tiny.settings()
    train(chosen, tiny.images(), tmp_path / "whole", tiny.options(checkpoint_every=2, keep=9))
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    (tmp_path / "damaged" / "manifest.json").unlink()
    last, before = sorted((tmp_path / "damaged" / "checkpoints").iterdir(), reverse=True)[:2]
    blob = bytearray((last / "model.safetensors").read_bytes())
    blob[-1] ^= 1
    (last / "model.safetensors").write_bytes(bytes(blob))
    (before / "optimizer.safetensors").unlink()
    train(chosen, tiny.images(), tmp_path / "damaged", tiny.options(checkpoint_every=2, keep=9))
    assert tiny.files_of(tmp_path / "damaged") == tiny.files_of(tmp_path / "whole")
    for checkpoint in (tmp_path / "damaged" / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("{")
    (tmp_path / "damaged" / "manifest.json").unlink()
    with pytest.raises(HarnessError, match=r"no checkpoint .* is whole"):
        train(chosen, tiny.images(), tmp_path / "damaged", tiny.options())


def test_a_checkpoint_of_another_architecture_is_explained(tiny: Any, tmp_path: Path) -> None:
    train(tiny.settings(), tiny.images(), tmp_path / "a", tiny.options())
    train(tiny.settings(depth=4), tiny.images(), tmp_path / "b", tiny.options(time_limit=1e-9))
    shutil.rmtree(tmp_path / "b" / "checkpoints")
    shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
    with pytest.raises(DataError, match=r"another architecture: .*missing.*blocks\.3.*expected"):
        train(tiny.settings(depth=4), tiny.images(), tmp_path / "b", tiny.options())


def test_the_last_checkpoints_are_kept(tiny: Any, tmp_path: Path) -> None:
    train(tiny.settings(), tiny.images(), tmp_path / "run", tiny.options(checkpoint_every=1, keep=3))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000007", "step-00000008"]


def test_another_configuration_is_refused(tiny: Any, tmp_path: Path) -> None:
    train(tiny.settings(), tiny.images(), tmp_path / "run", tiny.options(time_limit=1e-9))
    with pytest.raises(ConfigurationError, match="another configuration"):
        train(tiny.settings(alpha=0.5), tiny.images(), tmp_path / "run", tiny.options())
    with pytest.raises(ConfigurationError, match="dataset_hash"):
        train(tiny.settings(), tiny.images(80), tmp_path / "run", tiny.options())


def test_a_vit_that_pools_in_its_own_way_resumes(tiny: Any, tmp_path: Path) -> None:
    """SigLIP's attention pooling is nothing that a loss reaches."""
    sizes = {"image_size": 16, "patch_size": 8, "depth": 2, "width": 24, "heads": 2}
    chosen = TrainingSettings(
        "mocov3", True, "vit_base_patch16_siglip_224", "tiny", epochs=2, batch_size=16, seed=1, **sizes
    )
    train(chosen, tiny.images(32), tmp_path / "whole", tiny.options())
    for _ in range(4):
        outcome = train(chosen, tiny.images(32), tmp_path / "parts", tiny.options(time_limit=1e-9))
    assert outcome.step == outcome.steps == 4
    assert tiny.files_of(tmp_path / "parts") == tiny.files_of(tmp_path / "whole")
    import timm

    facts = json.loads((tmp_path / "parts" / "encoder.json").read_text())
    assert facts["arguments"]["global_pool"] == "avg"
    timm.create_model(facts["arch"], **facts["arguments"]).load_state_dict(
        load_file(tmp_path / "parts" / "encoder.safetensors")
    )


def test_workers_change_nothing(tiny: Any, tmp_path: Path) -> None:
    train(tiny.settings(epochs=1), tiny.images(), tmp_path / "none", tiny.options())
    train(tiny.settings(epochs=1), tiny.images(), tmp_path / "two", tiny.options(workers=2))
    assert tiny.files_of(tmp_path / "none") == tiny.files_of(tmp_path / "two")


def test_a_finished_run_is_not_done_again(tiny: Any, tmp_path: Path) -> None:
    train(tiny.settings(), tiny.images(), tmp_path / "run", tiny.options())
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    outcome = train(tiny.settings(), tiny.images(), tmp_path / "run", tiny.options())
    assert outcome.step == outcome.steps == 8
    del before[tmp_path / "run" / "run.log"], before[tmp_path / "run" / ".lock"]
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
