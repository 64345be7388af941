"""The training loop."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from harness.core.devices import torch_dtype
from harness.core.errors import ConfigurationError, HarnessError
from harness.core.files import hash_file, read_json, write_json
from harness.core.progress import Progress
from harness.core.runs import Run
from sdssl.augment import IMAGENET_MEAN, IMAGENET_STD, two_views
from sdssl.backbone import vit_arguments
from sdssl.checkpoint import Checkpoints, save_tensors
from sdssl.curves import CURVES, draw_curves
from sdssl.distill import alpha_at
from sdssl.distributed import World, highest, join_world
from sdssl.encoder_files import ENCODER_FACTS, ENCODER_WEIGHTS, LAYER_NORMS
from sdssl.images import ImageDataset
from sdssl.loader import BatchPlan, view_batches, view_seed
from sdssl.online_knn import OnlineKNN
from sdssl.pretrainer import Pretrainer, decay_groups, momentum_at, rate_at
from sdssl.settings import ResolvedSettings, TrainingSettings, build
from sdssl.watch import METRICS, CollapseAlarm, MetricsFile, figures, read_metrics

_GO_ON, _STOP, _COLLAPSED = range(3)  # what a process wants after a step; the highest wish is done by all


@dataclass(frozen=True)
class TrainingOptions:
    """How to run, without any influence on the weights.

    Attributes:
        device: "cpu", "cuda" or None for CUDA where there is one.
        workers: Processes a rank that read images; by default none on the CPU.
        log_every: Optimiser steps between readings.
        checkpoint_every: Optimiser steps between checkpoints; by default an epoch.
        keep: How many checkpoints stay.
        knn_every: Epochs between online k-NN readings; 0 for none.
        time_limit: Seconds after which to stop cleanly, to go on later.
    """

    device: str | None = None
    workers: int | None = None
    log_every: int = 10
    checkpoint_every: int | None = None
    keep: int = 2
    knn_every: int = 1
    time_limit: float | None = None


@dataclass(frozen=True)
class TrainingOutcome:
    """Where a run stands when the command ends.

    Attributes:
        step: Optimiser steps done.
        steps: Optimiser steps in all.
        is_main: Whether this process is the one that reports.
        stopped_by: Number of the signal that asked to stop; 0 where time was up or the run is complete.
        corrupt: Names of images that could not be decoded; the next good ones took their places.
    """

    step: int
    steps: int
    is_main: bool = True
    stopped_by: int = 0
    corrupt: tuple[str, ...] = ()

    def report(self) -> list[str]:
        """What to tell the user."""
        lines = []
        if self.corrupt:
            shown = ", ".join(self.corrupt[:5]) + (", ..." if len(self.corrupt) > 5 else "")
            lines.append(f"{len(self.corrupt)} images could not be decoded and were skipped: {shown}")
        if self.step == self.steps:
            return [*lines, f"trained for {self.steps} steps"]
        why = signal.Signals(self.stopped_by).name if self.stopped_by else "the time limit"
        return [*lines, f"stopped by {why} after step {self.step} of {self.steps}; run the same command to go on"]


def train(settings: TrainingSettings, data: ImageDataset, out: Path, options: TrainingOptions) -> TrainingOutcome:
    """Trains an encoder in a run folder, or goes on where an earlier session stopped.

    Under `torchrun` every process calls this; the first one writes.

    Args:
        settings: What decides the weights.
        data: The images; labels are for the online k-NN alone.
        out: The run folder.
        options: How to run.

    Returns:
        Where the run stands.

    Raises:
        ConfigurationError: Settings that contradict each other, the data or the machine.
        DataError: Too few images, or only corrupt ones.
        CollapseError: The representations collapsed.
        HarnessError: The loss was not finite.
    """
    resolved, pretrainer = build(settings)
    plan = BatchPlan(len(data), resolved.batch_size, settings.accumulate, settings.seed)
    config = {**resolved.config(), "dataset": data.name, "dataset_hash": data.hash}
    with join_world(options.device) as world:
        plan.check_world(world.size)
        torch_dtype(settings.precision, world.device)  # refuses what the device cannot do
        if world.device.type == "cpu":
            _keep_freed_memory()
        run = Run(out, "ssl train", config)
        with run if world.is_main else contextlib.nullcontext():
            if run.finished:
                steps = resolved.epochs * plan.steps_per_epoch
                corrupt = read_json(run.path(ENCODER_FACTS))["corrupt_images"]
                return TrainingOutcome(steps, steps, world.is_main, corrupt=tuple(corrupt))
            return _Loop(resolved, pretrainer, data, plan, run, options, world).go()


class _Loop:
    """One session of a run: set up, steps, and what is written."""

    def __init__(
        self,
        resolved: ResolvedSettings,
        pretrainer: Pretrainer,
        data: ImageDataset,
        plan: BatchPlan,
        run: Run,
        options: TrainingOptions,
        world: World,
    ) -> None:
        self.resolved, self.settings, self.data, self.plan = resolved, resolved.given, data, plan
        self.run, self.options, self.world = run, options, world
        self.steps = resolved.epochs * plan.steps_per_epoch
        self.warmup = round(self.settings.warmup * self.steps)
        self.pretrainer = pretrainer.to(world.device)
        self.rate = resolved.learning_rate * resolved.batch_size / 256
        self.optimizer = torch.optim.AdamW(
            decay_groups(pretrainer, self.settings.weight_decay), lr=self.rate, fused=True
        )
        self.checkpoints = Checkpoints(run.folder, options.keep)
        self.state = self.checkpoints.restore(pretrainer, self.optimizer) or {}
        self.step = int(self.state.get("step", 0))
        if highest(self.step, world.device) != -highest(-self.step, world.device):
            raise ConfigurationError(
                f"the processes see different checkpoints in {run.folder}: number {world.rank} is at step {self.step}.",
                "All machines must share the folder of --out.",
            )
        self.corrupt: dict[str, None] = dict.fromkeys(self.state.get("corrupt", []))
        if self.settings.compile:
            pretrainer.backbone.compile()
        self.model: nn.Module = pretrainer
        if dist.is_initialized():
            self.model = DistributedDataParallel(pretrainer, gradient_as_bucket_view=True)

    def go(self) -> TrainingOutcome:
        """Steps until the end, the time limit or a signal."""
        options, plan = self.options, self.plan
        every = options.checkpoint_every or plan.steps_per_epoch
        views = two_views(self.resolved.augmentation, self.resolved.image_size, IMAGENET_MEAN, IMAGENET_STD)
        on_gpu = self.world.device.type == "cuda"
        parts = view_batches(
            self.data,
            views,
            plan,
            (self.step, self.steps),
            rank=self.world.rank,
            size=self.world.size,
            workers=_workers(options.workers, on_gpu),
            pin=on_gpu,
        )
        watch = _Watch(self) if self.world.is_main else None
        if self.pretrainer.distils and self.world.is_main:
            added = self.pretrainer.added_parameters()
            own = sum(parameter.numel() for parameter in self.pretrainer.backbone.parameters())
            self.run.log(f"heads below the last layer: {added:,} parameters, {added / own:.1%} of the backbone's")
        ended = time.monotonic() + (options.time_limit or math.inf)
        collapse: HarnessError | None = None
        self.model.train()
        with watch or contextlib.nullcontext(), _signals() as caught:
            while self.step < self.steps:
                found, features = self._one_step(parts)
                self.step += 1
                if watch is not None:
                    collapse = watch.read(found, features)
                wish = _COLLAPSED if collapse else _STOP if caught or time.monotonic() > ended else _GO_ON
                decision = highest(wish, self.world.device)
                if decision == _COLLAPSED:
                    break  # what collapsed is not kept
                if self.step % every == 0 or decision == _STOP or self.step == self.steps:
                    self._save(suspect=watch is not None and watch.alarm.suspects)
                if decision == _STOP:
                    break
        if watch is not None and self.step == self.steps and watch.alarm.suspects:
            collapse = watch.alarm.error  # too late for its patience, too bad to be called an encoder
        if collapse is not None:
            raise collapse
        if self.step == self.steps and self.world.is_main:
            self._finish()
        stopped_by = caught[0] if caught and self.step < self.steps else 0
        return TrainingOutcome(self.step, self.steps, self.world.is_main, stopped_by, tuple(self.corrupt))

    def _one_step(self, parts: Iterator[Any]) -> tuple[dict[str, float], torch.Tensor]:
        """One optimiser step; gives its figures and the features of its last part on this process."""
        step, steps, settings = self.step, self.steps, self.settings
        device = self.world.device
        alpha = alpha_at(step, steps, self.resolved.alpha, settings.alpha_schedule)
        rate = rate_at(step, steps, self.warmup, self.rate)
        momentum = momentum_at(step, steps, self.resolved.momentum)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Whatever is drawn inside the model (stochastic depth) is then a function of the step as well.
        torch.manual_seed(view_seed(settings.seed, -1, step, self.world.rank))
        sums = torch.zeros(1 + len(self.resolved.active_layers), device=device)
        for part in range(settings.accumulate):
            batch = next(parts)
            self.corrupt.update(dict.fromkeys(batch.corrupt))
            last = part == settings.accumulate - 1
            with contextlib.nullcontext() if last else self._unshared():
                with self._autocast():
                    output = self.model(batch.views.to(device, non_blocking=True), alpha)
                (output.loss / settings.accumulate).backward()
            sums += torch.cat([output.loss.detach().view(1), output.layer_losses]) / settings.accumulate
        if dist.is_initialized():
            dist.all_reduce(sums)
            sums /= self.world.size
        parameters = [p for p in self.pretrainer.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, settings.clip or math.inf)
        if not (bool(sums.isfinite().all()) and bool(norm.isfinite())):
            self._stop_at_nonfinite("loss" if not sums.isfinite().all() else "gradient")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.pretrainer.follow(momentum)
        names = ["loss", *(f"loss_layer_{layer}" for layer in self.resolved.active_layers)]
        found = dict(zip(names, sums.tolist(), strict=True))
        found.update(learning_rate=rate, alpha=alpha, momentum=momentum, gradient_norm=float(norm))
        return found, output.features

    def _unshared(self) -> contextlib.AbstractContextManager[None]:
        """Gradients stay on this process: those of all parts are shared at once, with the last."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    def _stop_at_nonfinite(self, what: str) -> None:
        last = self.checkpoints.last()
        kept = f"the last good checkpoint is that of step {last}" if last else "there is no checkpoint before it"
        raise HarnessError(
            f"the {what} is not finite at step {self.step + 1}; {kept}.",
            "Lower the learning rate, add --clip 1, or use --precision fp32.",
        )

    def _save(self, *, suspect: bool) -> None:
        self._collect_corrupt()
        if self.world.is_main and not suspect:
            facts = {
                "epoch": self.step // self.plan.steps_per_epoch,
                "sampler": {"seed": self.plan.seed, "images": self.plan.images, "batch_size": self.plan.batch_size},
                "random": "a function of seed and step",
                "corrupt": list(self.corrupt),
            }
            self.checkpoints.save(self.step, self.pretrainer, self.optimizer, facts)

    def _collect_corrupt(self) -> None:
        """Bring the names that any process met to all of them."""
        if not dist.is_initialized():
            return
        own = torch.frombuffer(bytearray("\n".join(self.corrupt).encode() or b"\n"), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64, device=self.world.device) for _ in range(self.world.size)]
        dist.all_gather(lengths, torch.tensor([len(own)], device=self.world.device))
        longest = int(max(int(length) for length in lengths))
        padded = torch.zeros(longest, dtype=torch.uint8, device=self.world.device)
        padded[: len(own)] = own.to(self.world.device)
        everyone = [torch.zeros_like(padded) for _ in range(self.world.size)]
        dist.all_gather(everyone, padded)
        for values, length in zip(everyone, lengths, strict=True):
            names = bytes(values[: int(length)].tolist()).decode().split("\n")
            self.corrupt.update(dict.fromkeys(name for name in names if name))

    def _finish(self) -> None:
        """Write the encoder, what is known of it and the picture of its training."""
        backbone = self.pretrainer.backbone
        save_tensors(self.run.path(ENCODER_WEIGHTS), backbone.vit.state_dict())
        if backbone.norms:
            save_tensors(self.run.path(LAYER_NORMS), backbone.norms.state_dict())
        facts = {
            "arch": self.settings.arch,
            "arguments": vit_arguments(backbone.vit, self.settings.arguments),
            "image_size": self.resolved.image_size,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_layers": backbone.depth,
            "norm": self.settings.norm,
            "active_layers": list(self.resolved.active_layers),
            "objective": self.settings.objective,
            "self_distill": self.settings.self_distill,
            "dataset": self.data.name,
            **({"dataset_id": self.data.source["id"]} if self.data.source.get("kind") == "hub" else {}),
            "dataset_hash": self.data.hash,
            "train_images": len(self.data),
            "corrupt_images": list(self.corrupt),
            "seed": self.settings.seed,
            "epochs": self.resolved.epochs,
            "steps": self.steps,
            "batch_size": self.resolved.batch_size,
            "preset": self.settings.preset,
            "settings": self.resolved.config(),
            "weights_hash": hash_file(self.run.path(ENCODER_WEIGHTS)),
        }
        write_json(self.run.path(ENCODER_FACTS), facts)
        draw_curves(read_metrics(self.run.path(METRICS)), self.run.path(CURVES))
        outputs = [ENCODER_WEIGHTS, ENCODER_FACTS, METRICS, CURVES] + ([LAYER_NORMS] if backbone.norms else [])
        self.run.finish(outputs, seeds=[self.settings.seed], world_size=self.world.size)


class _Watch:
    """What the first process shows and keeps of each step: progress, figures, alarm."""

    def __init__(self, loop: _Loop) -> None:
        self.loop = loop
        options, resolved = loop.options, loop.resolved
        self.log = MetricsFile(loop.run.folder, resolved.active_layers, loop.step)
        self.alarm = CollapseAlarm(loop.warmup)
        self.knn = OnlineKNN(loop.data, resolved.image_size, loop.settings.seed) if options.knn_every else None
        batch = resolved.batch_size
        self.bar = Progress("training", total=loop.steps * batch, unit="image", done=loop.step * batch)
        self.since = time.perf_counter()

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.__exit__(None, None, None)
        self.log.close()

    def read(self, found: dict[str, float], features: torch.Tensor) -> HarnessError | None:
        """Takes in a step; gives the error to stop with where the representations have collapsed."""
        loop = self.loop
        step, per_epoch = loop.step, loop.plan.steps_per_epoch
        now = time.perf_counter()
        rate, self.since = loop.resolved.batch_size / (now - self.since), now
        self.bar.advance(loop.resolved.batch_size, f"loss {found['loss']:.3f}")
        epoch, in_epoch = divmod(step, per_epoch)
        reads_knn = self.knn is not None and in_epoch == 0 and epoch % loop.options.knn_every == 0
        if not (step % loop.options.log_every == 0 or reads_knn or step == loop.steps):
            return None
        line: dict[str, float | None] = {"step": step, "epoch": epoch, **found, "images_per_second": rate}
        watched = figures(features.float().cpu().numpy())
        line.update(watched)
        if reads_knn and self.knn is not None:
            line["online_knn"] = self.knn.accuracy(loop.pretrainer.backbone, loop.world.device)
            self.since = time.perf_counter()
        self.log.add(line)
        return self.alarm.check(step, watched)


def _keep_freed_memory() -> None:
    """Has glibc keep large freed blocks for the next step.

    It returns them to the system otherwise, and every step pays for the same page faults again: an eighth of the time
    of a small ViT. It changes no result, and does nothing where there is another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            mallopt(option, value)


def _workers(asked: int | None, on_gpu: bool) -> int:
    if asked is not None or not on_gpu:
        return asked or 0
    return min(8, max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that the step under way ends and is kept; a second one acts at once."""
    caught: list[int] = []
    kinds = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: object) -> None:
        caught.append(number)
        for kind in kinds:
            signal.signal(kind, before[kind])

    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may set handlers
        return
    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield caught
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])
