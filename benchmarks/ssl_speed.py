"""Training steps of baseline and self-distillation against the bare model and against lightly, in one run.

Every variant does whole optimiser steps on the same images: two views, student forward and backward, teacher forward
where there is one. `plain` is the least that such a step costs: the same ViT, forward and backward of two views and a
forward of the teacher, with no head, loss, optimiser or moving average. `lightly` is its BYOL example (its heads, loss
and momentum update) with the same ViT and AdamW. Variants take turns, and ratios are medians over the rounds.

    python benchmarks/ssl_speed.py [--arch vit_small_patch16_224] [--batch 16] [--rounds 3] [--objective mocov3]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

from harness.core.compat import prepare_torchvision

prepare_torchvision()

import torch  # noqa: E402

from sdssl.pretrainer import decay_groups  # noqa: E402
from sdssl.settings import TrainingSettings, build  # noqa: E402

Step = Callable[[torch.Tensor], object]


def ours(objective: str, arch: str, size: int | None, preset: str, precision: str, *, self_distill: bool) -> Step:
    settings = TrainingSettings(objective, self_distill, arch, preset, image_size=size)
    _, pretrainer = build(settings)
    optimizer = torch.optim.AdamW(decay_groups(pretrainer, 0.1), lr=1e-4, fused=True)

    def step(views: torch.Tensor) -> None:
        with torch.autocast(views.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = pretrainer(views, 0.5).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        pretrainer.follow(0.99)

    return step


def plain(objective: str, arch: str, size: int | None, precision: str) -> Step:
    _, pretrainer = build(TrainingSettings(objective, False, arch, "lite", image_size=size))
    student = pretrainer.backbone.vit
    teacher = None if pretrainer.teacher is None else pretrainer.teacher[0].vit

    def step(views: torch.Tensor) -> None:
        images = views.flatten(0, 1)
        with torch.autocast(views.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = student(images).square().mean()
            if teacher is not None:
                with torch.no_grad():
                    teacher(images)
        loss.backward()
        student.zero_grad(set_to_none=True)

    return step


def lightly_byol(arch: str, size: int | None, precision: str) -> Step | None:
    try:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import update_momentum
    except ImportError:
        return None
    _, pretrainer = build(TrainingSettings("byol", False, arch, "paper", image_size=size))
    backbone, width = pretrainer.backbone.vit, pretrainer.backbone.width
    projector, predictor = BYOLProjectionHead(width, 4096, 256), BYOLPredictionHead(256, 4096, 256)
    followers = copy.deepcopy(backbone).requires_grad_(False), copy.deepcopy(projector).requires_grad_(False)
    learnt = [p for m in (backbone, projector, predictor) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=1e-4, weight_decay=0.1)
    criterion = NegativeCosineSimilarity()

    def step(views: torch.Tensor) -> None:
        update_momentum(backbone, followers[0], m=0.99)
        update_momentum(projector, followers[1], m=0.99)
        with torch.autocast(views.device.type, torch.bfloat16, enabled=precision == "bf16"):
            predictions = [predictor(projector(backbone(view))) for view in views]
            with torch.no_grad():
                targets = [followers[1](followers[0](view)) for view in views]
            loss = criterion(predictions[0], targets[1]) + criterion(predictions[1], targets[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="vit_small_patch16_224")
    parser.add_argument("--size", type=int, help="pixels; by default the model's")
    parser.add_argument("--objective", default="mocov3", choices=["mocov3", "byol", "simclr"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    chosen = parser.parse_args()
    arguments = (chosen.objective, chosen.arch, chosen.size)
    variants: dict[str, Step | None] = {
        "plain": plain(*arguments, chosen.precision),
        "baseline": ours(*arguments, "lite", chosen.precision, self_distill=False),
        "sd-lite": ours(*arguments, "lite", chosen.precision, self_distill=True),
        "sd-paper": ours(*arguments, "paper", chosen.precision, self_distill=True),
        "byol": ours("byol", *arguments[1:], "paper", chosen.precision, self_distill=False),
        "lightly": lightly_byol(*arguments[1:], chosen.precision),
    }
    if variants["lightly"] is None:
        print("lightly is not installed (pip install lightly): no peer in this run")
    steps = {name: step for name, step in variants.items() if step is not None}
    side = chosen.size or 224
    views = torch.randn(2, chosen.batch, 3, side, side)
    print(
        f"{chosen.arch}, {side} px, {chosen.objective}, batch {chosen.batch}, {chosen.precision}, "
        f"{torch.get_num_threads()} threads, {chosen.rounds} rounds"
    )
    for step in steps.values():  # memory, kernels and optimiser state are made here
        step(views)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(chosen.rounds):
        order = list(steps)
        for name in order if turn % 2 == 0 else reversed(order):
            started = time.perf_counter()
            steps[name](views)
            seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        print(f"{name:>9}  {chosen.batch / statistics.median(taken):7.2f} images/s")

    def ratio(first: str, second: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))

    print(f"baseline throughput / plain           {ratio('plain', 'baseline'):.3f}  (target: at least 0.85)")
    print(f"step time sd-lite / baseline          {ratio('sd-lite', 'baseline'):.3f}  (target: at most 1.15)")
    print(f"step time sd-paper / baseline         {ratio('sd-paper', 'baseline'):.3f}  (target: at most 1.35)")
    if "lightly" in steps:
        print(f"step time byol here / lightly's byol  {ratio('byol', 'lightly'):.3f}")


if __name__ == "__main__":
    main()
