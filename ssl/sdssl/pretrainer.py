"""Student, heads and teacher: from two views of a batch to the loss of every layer."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn

from sdssl.backbone import Backbone
from sdssl.distill import layer_weights, scale_gradient
from sdssl.distributed import gather, rank
from sdssl.heads import StackedMLP
from sdssl.objectives.base import Objective


@dataclass(frozen=True)
class HeadSizes:
    """Widths of projectors and predictors; the published ones by default (Jang et al., WACV 2023).

    Attributes:
        output: Width of projections and predictions.
        projector: Hidden width of the last layer's projector.
        predictor: Hidden width of the last layer's predictor.
        lower_projector: Hidden width of the projectors below the last layer.
        lower_predictor: Hidden width of the predictors below the last layer.
        shared: Whether the layers below the last share one set of heads.
    """

    output: int = 256
    projector: int = 4096
    predictor: int = 4096
    lower_projector: int = 2048
    lower_predictor: int = 4096
    shared: bool = False


@dataclass(frozen=True)
class StepOutput:
    """What a forward pass gives.

    Attributes:
        loss: Scalar to send back.
        layer_losses: (K,) each layer's loss before weights, detached.
        features: (2, n, d) the last layer's representations, detached.
    """

    loss: torch.Tensor
    layer_losses: torch.Tensor
    features: torch.Tensor


class Pretrainer(nn.Module):
    """Everything that is trained, and the teacher that follows it.

    With several active layers the loss is that of SDSSL (Jang et al., WACV 2023): L_out + alpha L_mid, and for an
    objective with predictors L_pred, the sum over the active layers of the loss that trains predictors alone.

    Args:
        backbone: The student; its `layers` are the active ones.
        objective: The loss.
        sizes: Widths of the heads.
    """

    def __init__(self, backbone: Backbone, objective: Objective, sizes: HeadSizes) -> None:
        super().__init__()
        info = objective.info
        self.backbone = backbone
        self.objective = objective
        lower = len(backbone.layers) - 1
        d, out = backbone.width, sizes.output

        def heads(widths: tuple[list[int], list[int]]) -> nn.ModuleList:
            """The heads of the layers below the last, where there are any, then the last layer's."""
            below = [StackedMLP(lower, widths[0], last_norm=info.last_norm, shared=sizes.shared)] if lower else []
            return nn.ModuleList([*below, StackedMLP(1, widths[1], last_norm=info.last_norm)])

        self.projectors = heads(
            ([d, *[sizes.lower_projector] * 2, out], [d, *[sizes.projector] * 2, out]),
        )
        self.predictors = nn.ModuleList()
        if info.predictor:
            self.predictors = heads(([out, sizes.lower_predictor, out], [out, sizes.predictor, out]))
        self.teacher: nn.ModuleList | None = None
        if info.teacher:
            last_only = Backbone(copy.deepcopy(backbone.vit), [backbone.depth])
            self.teacher = nn.ModuleList([last_only, copy.deepcopy(self.projectors[-1])]).requires_grad_(False)

    @property
    def distils(self) -> bool:
        """Whether layers below the last learn."""
        return len(self.backbone.layers) > 1

    def forward(self, views: torch.Tensor, alpha: float) -> StepOutput:
        """Losses of one batch.

        Args:
            views: (2, n, 3, S, S) two views of n images.
            alpha: Weight of the intermediate loss now.
        """
        samples = views.shape[1]
        images = views.flatten(0, 1)
        representations = self.backbone(images).unflatten(1, (2, samples))
        projections = _apply(self.projectors, representations)
        weights = torch.tensor(layer_weights(len(projections), alpha), dtype=torch.float64, device=views.device)
        outputs = projections
        if self.predictors:
            if self.distils:
                factors = (weights / (1 + weights)).view(-1, 1, 1, 1)
                projections, weights = scale_gradient(projections, factors), 1 + weights
            outputs = _apply(self.predictors, projections)
        targets = self._targets(images, samples) if self.teacher is not None else projections[-1]
        offset = 0
        if self.objective.info.negatives:
            # One collective for all layers: they share their targets.
            targets = gather(targets).transpose(0, 1).flatten(1, 2)
            offset = rank() * samples
        losses = self.objective(outputs.float() if outputs.dtype != torch.float64 else outputs, targets, offset)
        loss = (losses * weights.to(losses.dtype)).sum()
        return StepOutput(loss, losses.detach(), representations[-1].detach())

    def _targets(self, images: torch.Tensor, samples: int) -> torch.Tensor:
        assert self.teacher is not None
        backbone, projector = self.teacher
        with torch.no_grad():
            projected = projector(backbone(images).unflatten(1, (2, samples)))[-1]
        return projected  # type: ignore[no-any-return]

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Moves the teacher: m teacher + (1 - m) student, all parameters in one call."""
        if self.teacher is None:
            return
        student = [*self.backbone.vit.parameters(), *self.projectors[-1].parameters()]
        pairs = [(t, s) for t, s in zip(self.teacher.parameters(), student, strict=True) if s.requires_grad]
        torch._foreach_lerp_([t for t, _ in pairs], [s for _, s in pairs], 1 - momentum)

    def added_parameters(self) -> int:
        """Parameters of the heads below the last layer: what self-distillation adds."""
        return sum(p.numel() for heads in self._lower_heads() for p in heads.parameters())

    def added_flops(self) -> int:
        """Floating-point operations a view that these heads add (forward)."""
        return sum(heads.flops() for heads in self._lower_heads())

    def _lower_heads(self) -> list[StackedMLP]:
        return [heads[0] for heads in (self.projectors, self.predictors) if len(heads) > 1]  # type: ignore[misc]


def _apply(heads: nn.ModuleList, values: torch.Tensor) -> torch.Tensor:
    """Run the heads over (K, 2, n, d): the stacked ones below the last layer, then the last layer's."""
    if len(heads) == 1:
        return heads[0](values)  # type: ignore[no-any-return]
    return torch.cat([heads[0](values[:-1]), heads[1](values[-1:])])


def momentum_at(step: int, steps: int, base: float = 0.996) -> float:
    """The teacher's momentum at a step: from `base` to 1 along a cosine (Grill et al., NeurIPS 2020)."""
    return 1 - (1 - base) * (math.cos(math.pi * step / max(1, steps)) + 1) / 2


def rate_at(step: int, steps: int, warmup: int, peak: float) -> float:
    """The learning rate of optimiser step `step`: linear to `peak` over `warmup` steps, then a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameter groups of an optimiser: weight decay for matrices, none for biases, norms and other vectors."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            # A norm's scale of stacked heads is (sets, 1, 1, width): a vector a layer.
            is_vector = parameter.ndim <= 1 or (parameter.ndim == 4 and parameter.shape[1:3] == (1, 1))
            (vectors if is_vector else matrices).append(parameter)
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
