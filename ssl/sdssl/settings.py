"""What decides a training run, and the presets to start from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from harness.core.devices import DTYPES, bf16_supported, choose_device
from harness.core.errors import ConfigurationError, UnknownNameError
from sdssl.augment import augmentation_for
from sdssl.backbone import Backbone, create_vit, freeze_patch_embedding, image_size
from sdssl.distill import ALPHA_SCHEDULES
from sdssl.heads import lower_width
from sdssl.objectives.base import OBJECTIVES
from sdssl.pretrainer import HeadSizes, Pretrainer

NORMS = ("shared", "own")
# In `lite` and `tiny`, what the heads below the last layer may hold and compute beside the backbone's blocks.
ADDED_SHARE = 0.1


@dataclass(frozen=True)
class Preset:
    """Defaults that belong together.

    Attributes:
        sizes: Widths of the heads; those below the last layer are for `budgeted` False only.
        budgeted: Whether the heads below the last layer are as wide as `ADDED_SHARE` of the backbone allows.
        batch_size: Images in one optimiser step.
        epochs: Passes over the images.
        rate_factor: Times the objective's published learning rate.
        momentum: Of the teacher at the start.
    """

    sizes: HeadSizes
    budgeted: bool
    batch_size: int
    epochs: int
    rate_factor: float = 1.0
    momentum: float = 0.996


PRESETS: Mapping[str, Preset] = {
    "paper": Preset(HeadSizes(), budgeted=False, batch_size=1024, epochs=300),
    "lite": Preset(HeadSizes(), budgeted=True, batch_size=1024, epochs=300),
    # For images and models of a few pixels and layers, and for some hundred steps: a narrow last head, a high rate, and
    # a teacher that keeps up.
    "tiny": Preset(
        HeadSizes(output=128, projector=512, predictor=512),
        budgeted=True,
        batch_size=128,
        epochs=20,
        rate_factor=30.0,
        momentum=0.98,
    ),
}


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the weights, beside the data. None stands for the preset's or the model's own.

    Attributes:
        objective: Name in `OBJECTIVES`.
        self_distill: Whether layers below the last learn from it.
        arch: timm model name.
        preset: Name in `PRESETS`.
        image_size: Side of the images in pixels.
        patch_size: Side of a patch in pixels.
        depth: Blocks.
        width: Width of the backbone.
        heads: Attention heads.
        layers: Layers that learn; by default all. The last one always does.
        head_width: Hidden width of the heads below the last layer.
        shared_heads: One set of heads for the layers below the last.
        norm: "shared", the final norm for every layer, or "own" for each.
        freeze_patch_embedding: Patch embedding and positions fixed, as MoCo v3.
        alpha: Final weight of the intermediate loss.
        alpha_schedule: "cosine", "linear" or "constant".
        temperature: Of the contrastive objectives.
        epochs: Passes over the images.
        warmup: Share of the steps in which the learning rate rises; 40 of 300 epochs in the paper.
        batch_size: Images in one optimiser step, over all processes and accumulated parts.
        accumulate: Parts a batch is computed in; an image is contrasted with the images of its part.
        learning_rate: At a batch of 256; scaled by batch_size / 256.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient; None for no clipping.
        momentum: Of the teacher at the start.
        augmentation: "imagenet" or "small".
        precision: "fp32" or "bf16" (autocast).
        compile: Whether the backbone is compiled.
        seed: Of every random choice.
    """

    objective: str
    self_distill: bool = False
    arch: str = "vit_small_patch16_224"
    preset: str = "lite"
    image_size: int | None = None
    patch_size: int | None = None
    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    layers: tuple[int, ...] | None = None
    head_width: int | None = None
    shared_heads: bool = False
    norm: str = "shared"
    freeze_patch_embedding: bool = True
    alpha: float | None = None
    alpha_schedule: str = "cosine"
    temperature: float = 0.2
    epochs: int | None = None
    warmup: float = 40 / 300
    batch_size: int | None = None
    accumulate: int = 1
    learning_rate: float | None = None
    weight_decay: float = 0.1
    clip: float | None = None
    momentum: float | None = None
    augmentation: str | None = None
    precision: str = "fp32"
    compile: bool = False
    seed: int = 0

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `timm.create_model`."""
        found = {
            "img_size": self.image_size,
            "patch_size": self.patch_size,
            "depth": self.depth,
            "embed_dim": self.width,
            "num_heads": self.heads,
        }
        return {"num_classes": 0, **{name: value for name, value in found.items() if value is not None}}


@dataclass(frozen=True)
class ResolvedSettings:
    """Settings with nothing left open; what is compared when a run is resumed."""

    given: TrainingSettings
    image_size: int
    active_layers: tuple[int, ...]
    sizes: HeadSizes
    alpha: float
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    augmentation: str

    def config(self) -> dict[str, Any]:
        """JSON-able, complete: equal configurations and data give equal weights on one kind of machine."""
        own = asdict(self)
        added = OBJECTIVES.add_on(self.given.objective)
        return {**own.pop("given"), **own, **({"objective_add_on": added} if added else {})}


def default_precision(device: str | None) -> str:
    """bf16 on a GPU that has it, else fp32."""
    place = choose_device(device)
    return "bf16" if place.type == "cuda" and bf16_supported(place) else "fp32"


def build(settings: TrainingSettings) -> tuple[ResolvedSettings, Pretrainer]:
    """Makes the model of some settings, freshly initialised from their seed, and fills in what they leave open.

    Raises:
        UnknownNameError: An unknown objective, preset or model.
        ConfigurationError: Settings that contradict each other.
    """
    import torch

    objective_class = OBJECTIVES.get(settings.objective)
    info = objective_class.info
    if settings.preset not in PRESETS:
        raise UnknownNameError("preset", settings.preset, PRESETS)
    preset = PRESETS[settings.preset]
    _check_choices(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        vit = create_vit(settings.arch, settings.arguments)
        if settings.freeze_patch_embedding:
            freeze_patch_embedding(vit)
        layers = _active_layers(settings, len(vit.blocks))
        backbone = Backbone(vit, layers, own_norms=settings.norm == "own")
        sizes = _head_sizes(settings, preset, backbone, info.predictor)
        objective = objective_class(settings.temperature) if info.negatives else objective_class()
        pretrainer = Pretrainer(backbone, objective, sizes)
        _freeze_unreached(pretrainer, image_size(vit))
    side = image_size(vit)
    resolved = ResolvedSettings(
        given=settings,
        image_size=side,
        active_layers=layers,
        sizes=sizes,
        alpha=info.alpha if settings.alpha is None else settings.alpha,
        epochs=settings.epochs or preset.epochs,
        batch_size=settings.batch_size or preset.batch_size,
        learning_rate=(
            info.learning_rate * preset.rate_factor if settings.learning_rate is None else settings.learning_rate
        ),
        momentum=preset.momentum if settings.momentum is None else settings.momentum,
        augmentation=settings.augmentation or augmentation_for(side),
    )
    return resolved, pretrainer


def _freeze_unreached(pretrainer: Pretrainer, side: int) -> None:
    """Freezes what no loss reaches, such as a part of a model that pools in its own way: DDP waits for it in vain."""
    import torch

    pretrainer(torch.randn(2, 2, 3, side, side), 1.0).loss.backward()
    for parameter in pretrainer.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
        parameter.grad = None


def _check_choices(settings: TrainingSettings) -> None:
    for name, value, known in (
        ("norm", settings.norm, NORMS),
        ("precision", settings.precision, DTYPES),
        ("alpha schedule", settings.alpha_schedule, ALPHA_SCHEDULES),
    ):
        if value not in known:
            raise UnknownNameError(name, value, known)
    for option, number, least in (
        ("--learning-rate", settings.learning_rate, 1e-12),
        ("--weight-decay", settings.weight_decay, 0.0),
        ("--clip", settings.clip, 1e-12),
        ("--alpha", settings.alpha, 0.0),
        ("--temperature", settings.temperature, 1e-3),
    ):
        if number is not None and not least <= number < math.inf:
            raise ConfigurationError(f"{option} {number:g} is not possible.", f"Give a number of {least:g} or more.")
    only_distilled = {
        "--layers": settings.layers is not None,
        "--head-width": settings.head_width is not None,
        "--shared-heads": settings.shared_heads,
        "--norm own": settings.norm == "own",
        "--alpha": settings.alpha is not None,
    }
    if not settings.self_distill and any(only_distilled.values()):
        option = next(name for name, given in only_distilled.items() if given)
        raise ConfigurationError(
            f"{option} is about the layers below the last, which do not learn without --self-distill.",
            "Add --self-distill, or leave the option out.",
        )


def _active_layers(settings: TrainingSettings, depth: int) -> tuple[int, ...]:
    if not settings.self_distill:
        return (depth,)
    asked = range(1, depth + 1) if settings.layers is None else settings.layers
    for layer in asked:
        if not 1 <= layer <= depth:
            raise ConfigurationError(
                f"{settings.arch!r} has no layer {layer}.", f"Layers are 1 to {depth}; the last always learns."
            )
    layers = tuple(sorted({*asked, depth}))
    if len(layers) == 1:
        raise ConfigurationError(
            f"only the last layer, {depth}, would learn: nothing is distilled.",
            "Name a lower layer with --layers, or leave out --self-distill.",
        )
    return layers


def _head_sizes(settings: TrainingSettings, preset: Preset, backbone: Backbone, predictor: bool) -> HeadSizes:
    sizes = preset.sizes
    output, lower_projector, lower_predictor = sizes.output, sizes.lower_projector, sizes.lower_predictor
    if preset.budgeted:
        # Wider projections than the backbone would cost each lower layer more than they carry.
        output = min(output, backbone.width)
        layers = len(backbone.layers) - 1
        budget = ADDED_SHARE * sum(p.numel() for p in backbone.vit.blocks.parameters())
        rows, columns = backbone.vit.patch_embed.grid_size
        # Of parameters, and of operations: a block's weight acts on every token, a head's on one a layer.
        limits = ((budget, 1 if settings.shared_heads else layers), (budget * rows * columns, layers))
        lower_projector = lower_predictor = min(
            lower_width(most, count, backbone.width, output, predictor=predictor) for most, count in limits
        )
    return HeadSizes(
        output=output,
        projector=sizes.projector,
        predictor=sizes.predictor,
        lower_projector=settings.head_width or lower_projector,
        lower_predictor=settings.head_width or lower_predictor,
        shared=settings.shared_heads,
    )
