"""Checkpoints: a folder of safetensors and JSON that is whole or absent; the last few are kept.

    checkpoints/step-00000400/model.safetensors       student and heads
                              teacher.safetensors     where there is one
                              optimizer.safetensors   AdamW's moments by parameter name
                              state.json              step, epoch, order of the images, seeds, hashes of the files

There is no state of a random generator to keep: every random choice is a function of the seed and the step (see
`sdssl.loader`), and the step is here. A folder is written under another name and renamed when it is on the disk.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import DataError, HarnessError
from harness.core.files import atomic_writer, disk_errors, fsync_folder, hash_file, read_json, write_json
from sdssl.backbone import load_exactly
from sdssl.pretrainer import Pretrainer

FOLDER = "checkpoints"
_STATE = "state.json"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: The run's folder.
        keep: How many of the last ones stay.
    """

    def __init__(self, run: Path, keep: int = 2) -> None:
        self.folder = Path(run) / FOLDER
        self.keep = keep

    def save(
        self, step: int, pretrainer: Pretrainer, optimizer: torch.optim.Optimizer, facts: Mapping[str, Any]
    ) -> None:
        """Keeps everything a run needs to go on after optimiser step `step`, then drops the oldest checkpoints.

        Args:
            step: Optimiser steps done.
            pretrainer: Student, heads and teacher.
            optimizer: Its AdamW.
            facts: JSON-able: epoch, seeds, what else a reader should know.

        Raises:
            DiskFullError: The device is full; nothing is left behind.
        """
        folder = self.folder / f"step-{step:08d}"
        staged = folder.with_name(f".{folder.name}.tmp")
        with disk_errors(folder):
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir(parents=True)
            try:
                hashes = {}
                for name, tensors in _tensors(pretrainer, optimizer).items():
                    save_tensors(staged / name, tensors)
                    hashes[name] = hash_file(staged / name)
                write_json(staged / _STATE, {"step": step, "files": hashes, **facts})
                if folder.exists():  # of a run that went on from before it, after a damaged one
                    shutil.rmtree(folder)
                os.replace(staged, folder)
                fsync_folder(self.folder)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}")

    def restore(self, pretrainer: Pretrainer, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Goes back to the last whole checkpoint.

        Returns:
            Its `state.json`; None where there is no checkpoint.

        Raises:
            DataError: It belongs to another architecture.
            HarnessError: There are checkpoints, but none is whole.
        """
        steps = self._steps()
        for step in reversed(steps):
            folder = self.folder / f"step-{step:08d}"
            state = _whole(folder)
            if state is not None:
                _load(folder, pretrainer, optimizer)
                return state
        if steps:
            raise HarnessError(
                f"no checkpoint in {self.folder} is whole: files are missing or their hashes differ.",
                "Delete that folder to begin again.",
            )
        return None

    def last(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._steps()[-1] if self._steps() else None

    def _steps(self) -> list[int]:
        return sorted(int(entry.name.removeprefix("step-")) for entry in self.folder.glob("step-*"))


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors to a safetensors file, atomically."""
    from safetensors.torch import save

    with atomic_writer(path) as handle:
        handle.write(save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))


def _tensors(pretrainer: Pretrainer, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    state = pretrainer.state_dict()
    files = {
        "model.safetensors": {k: v for k, v in state.items() if not k.startswith("teacher.")},
        "teacher.safetensors": {k: v for k, v in state.items() if k.startswith("teacher.")},
        "optimizer.safetensors": {
            f"{name}.{key}": value
            for name, parameter in pretrainer.named_parameters()
            for key, value in optimizer.state.get(parameter, {}).items()
        },
    }
    return {name: tensors for name, tensors in files.items() if tensors}


def _whole(folder: Path) -> dict[str, Any] | None:
    try:
        state = dict(read_json(folder / _STATE))
        sound = all(hash_file(folder / name) == digest for name, digest in state["files"].items())
    except (HarnessError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return state if sound else None


def _load(folder: Path, pretrainer: Pretrainer, optimizer: torch.optim.Optimizer) -> None:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    if (folder / "teacher.safetensors").exists():
        tensors |= load_file(folder / "teacher.safetensors")
    load_exactly(pretrainer, tensors, f"the checkpoint {folder}")
    moments = load_file(folder / "optimizer.safetensors")
    for name, parameter in pretrainer.named_parameters():
        found = {key.removeprefix(f"{name}."): value for key, value in moments.items() if _owner(key) == name}
        if parameter.requires_grad and not found:
            raise DataError(f"the checkpoint {folder} holds no optimiser state of {name}.", "Use an earlier one.")
        if found:
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}


def _owner(key: str) -> str:
    return key.rpartition(".")[0]
