"""The whole loss and its gradients against the published two-pass form; heads, teacher, budgets."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from harness.core.errors import ConfigurationError, UnknownNameError
from sdssl.backbone import Backbone, create_vit, freeze_patch_embedding, load_exactly, sincos_positions
from sdssl.distill import alpha_at, layer_weights, scale_gradient
from sdssl.heads import StackedMLP, lower_width
from sdssl.objectives.base import OBJECTIVES
from sdssl.pretrainer import HeadSizes, Pretrainer, decay_groups, momentum_at, rate_at
from sdssl.settings import TrainingSettings, build

TINY = {"img_size": 8, "patch_size": 4, "depth": 4, "embed_dim": 24, "num_heads": 2}
SIZES = HeadSizes(output=10, projector=14, predictor=12, lower_projector=9, lower_predictor=11)


def make(name: str, layers: tuple[int, ...] = (1, 2, 3, 4), *, shared: bool = False, own: bool = False) -> Pretrainer:
    torch.manual_seed(0)
    vit = create_vit("vit_tiny_patch16_224", TINY)
    freeze_patch_embedding(vit)
    sizes = HeadSizes(**{**SIZES.__dict__, "shared": shared})
    pretrainer = Pretrainer(Backbone(vit, layers, own_norms=own), OBJECTIVES.get(name)(), sizes).double()
    with torch.no_grad():  # positions apart from initialisation: the teacher differs, norms have scale and shift
        for parameter in pretrainer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return pretrainer


def views(n: int = 6) -> torch.Tensor:
    return torch.randn(2, n, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def one_mlp(stack: StackedMLP, layer: int, inputs: torch.Tensor) -> torch.Tensor:
    """One layer's MLP on one view with PyTorch's own functions."""
    s = 0 if stack.sets == 1 else layer
    values = inputs
    for number, weight in enumerate(stack.weights):
        values = F.linear(values, weight[s].T)
        if number < len(stack.weights) - 1:
            scale, shift = stack.scales[number][s].flatten(), stack.shifts[number][s].flatten()
            values = F.relu(F.batch_norm(values, None, None, scale, shift, training=True))
        elif stack.last_norm:
            values = F.batch_norm(values, None, None, training=True)
    return values


def heads_of(modules: nn.ModuleList, layer: int, count: int) -> tuple[StackedMLP, int]:
    last = layer == count - 1
    return (modules[-1], 0) if last else (modules[0], layer)


def published_loss(p: Pretrainer, batch: torch.Tensor, alpha: float) -> torch.Tensor:
    """L_out + alpha L_mid + K L_pred, layer by layer and view by view, predictors run twice."""
    info, count = p.objective.info, len(p.backbone.layers)
    vit = p.backbone.vit
    projections = []  # [view][layer]
    for view in (0, 1):
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(batch[view]))))
        found = []
        for number, block in enumerate(vit.blocks, 1):
            tokens = block(tokens)
            if number in p.backbone.layers:
                norms = dict(p.backbone.norms.items())
                found.append(norms.get(str(number), vit.norm)(tokens)[:, 0])
        projections.append([one_mlp(*heads_of(p.projectors, k, count), h) for k, h in enumerate(found)])
    if p.teacher is not None:
        backbone, projector = p.teacher
        with torch.no_grad():
            targets = [
                one_mlp(projector, 0, backbone.vit.forward_head(backbone.vit.forward_features(x))) for x in batch
            ]
    n = batch.shape[1]

    def distance(outputs: tuple[torch.Tensor, torch.Tensor], keys: list[torch.Tensor]) -> torch.Tensor:
        return p.objective(torch.stack(outputs)[None], torch.stack(keys))[0]

    if not info.predictor:
        final = [projections[view][-1] for view in (0, 1)]
        loss = distance((final[0], final[1]), final)
        if count > 1:
            z = F.normalize(torch.cat(final), dim=1).detach()
            middle = []
            for k in range(count - 1):
                a = F.normalize(torch.cat([projections[0][k], projections[1][k]]), dim=1)
                logits = a @ z.T / 0.2
                logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool), -math.inf)
                place = torch.cat([torch.arange(n) + n, torch.arange(n)])
                middle.append(2 * F.cross_entropy(logits, place))  # both directions, each a mean over n
            loss = loss + alpha * torch.stack(middle).mean()
        return loss

    def predicted(k: int, *, stop: bool) -> tuple[torch.Tensor, torch.Tensor]:
        stack, place = heads_of(p.predictors, k, count)
        found = [projections[view][k].detach() if stop else projections[view][k] for view in (0, 1)]
        return one_mlp(stack, place, found[0]), one_mlp(stack, place, found[1])

    loss = distance(predicted(count - 1, stop=False), targets)
    if count > 1:
        loss = (
            loss + alpha * torch.stack([distance(predicted(k, stop=False), targets) for k in range(count - 1)]).mean()
        )
        loss = loss + count * torch.stack([distance(predicted(k, stop=True), targets) for k in range(count)]).mean()
    return loss


@pytest.mark.parametrize("alpha", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("layers", [(1, 2, 3, 4), (2, 4), (4,)], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_one_pass_gives_the_published_loss_and_gradients(name: str, layers: tuple[int, ...], alpha: float) -> None:
    fast, slow = make(name, layers), make(name, layers)
    found = fast(views(), alpha)
    expected = published_loss(slow, views(), alpha)
    torch.testing.assert_close(found.loss, expected, rtol=1e-10, atol=1e-12)
    found.loss.backward()
    expected.backward()
    compared = 0
    for (key, a), (_, b) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        if not a.requires_grad:
            assert a.grad is None, key
            continue
        wanted = torch.zeros_like(a) if b.grad is None else b.grad
        assert a.grad is not None, key
        torch.testing.assert_close(a.grad, wanted, rtol=1e-8, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}")
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("variant", ["shared heads", "own norms"])
@pytest.mark.parametrize("name", ["simclr", "mocov3"])
def test_variants_give_the_published_gradients(name: str, variant: str) -> None:
    options = {"shared": variant == "shared heads", "own": variant == "own norms"}
    fast, slow = make(name, **options), make(name, **options)
    found, expected = fast(views(), 0.5).loss, published_loss(slow, views(), 0.5)
    found.backward()
    expected.backward()
    torch.testing.assert_close(found, expected)
    for (key, a), (_, b) in zip(fast.named_parameters(), slow.named_parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(
                a.grad, b.grad, rtol=1e-8, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_every_active_layer_sends_a_gradient_to_its_own_heads() -> None:
    p = make("byol", (1, 3, 4))
    p(views(), 0.5).loss.backward()
    for stack in (p.projectors[0], p.predictors[0]):
        for weight in stack.weights:
            assert weight.grad is not None
            assert (weight.grad.flatten(1).norm(dim=1) > 0).all()


def test_gradient_scaling_is_exact() -> None:
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    factors = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)[:, None]
    scaled = scale_gradient(values, factors)
    assert torch.equal(scaled, values)
    (scaled**2).sum().backward()
    torch.testing.assert_close(values.grad, 2 * values.detach() * factors, rtol=0, atol=0)


def test_the_teacher_follows_and_is_not_learnt() -> None:
    p = make("mocov3")
    assert p.teacher is not None
    assert not any(parameter.requires_grad for parameter in p.teacher.parameters())
    before = copy.deepcopy(p.teacher.state_dict())
    student = {**p.backbone.vit.state_dict(prefix="0.vit."), **p.projectors[-1].state_dict(prefix="1.")}
    p.follow(0.9)
    frozen = {f"0.vit.{name}" for name, parameter in p.backbone.vit.named_parameters() if not parameter.requires_grad}
    for name, value in p.teacher.state_dict().items():
        wanted = before[name] if name in frozen else 0.9 * before[name] + 0.1 * student[name]
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)
    p.follow(0.0)
    for name, value in p.teacher.state_dict().items():
        if name not in frozen:
            torch.testing.assert_close(value, student[name])


def test_a_fresh_teacher_is_the_student() -> None:
    _, p = build(TrainingSettings("byol", True, "vit_tiny_patch16_224", "tiny", **tiny_sizes()))
    assert p.teacher is not None
    for name, value in p.teacher[0].vit.state_dict().items():
        assert torch.equal(value, p.backbone.vit.state_dict()[name])


def tiny_sizes() -> dict[str, int]:
    return {"image_size": 8, "patch_size": 4, "depth": 4, "width": 24, "heads": 2}


def test_patch_embedding_and_positions_are_fixed() -> None:
    vit = create_vit("vit_tiny_patch16_224", TINY)
    freeze_patch_embedding(vit)
    fixed = {name for name, parameter in vit.named_parameters() if not parameter.requires_grad}
    assert fixed == {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert torch.equal(vit.pos_embed[0, 0], torch.zeros(24))
    torch.testing.assert_close(vit.pos_embed[0, 1:], sincos_positions(2, 2, 24))
    bound = math.sqrt(6 / (3 * 16 + 24))
    assert 0.9 * bound < vit.patch_embed.proj.weight.abs().max() <= bound


def test_positions_are_sines_and_cosines_of_places() -> None:
    found = sincos_positions(3, 5, 16).numpy()
    for place, values in enumerate(found):
        y, x = divmod(place, 5)
        for i in range(4):
            w = 10_000 ** (-i / 4)
            wanted = [math.sin(x * w), math.cos(x * w), math.sin(y * w), math.cos(y * w)]
            np.testing.assert_allclose(values[[i, 4 + i, 8 + i, 12 + i]], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "arguments"),
    [
        ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "depth": 3, "embed_dim": 32, "num_heads": 2}),
        ("vit_base_patch16_siglip_224", {"img_size": 32, "depth": 3, "embed_dim": 32, "num_heads": 2}),
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 3, "embed_dim": 32, "num_heads": 2}),
        ("eva02_tiny_patch14_224", {"img_size": 28, "depth": 3, "embed_dim": 32, "num_heads": 2}),
        ("beit_base_patch16_224", {"img_size": 32, "depth": 3, "embed_dim": 32, "num_heads": 2}),
        ("vit_base_patch16_clip_224", {"img_size": 32, "depth": 3, "embed_dim": 32, "num_heads": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_vits_of_timm_train(arch: str, arguments: dict[str, int]) -> None:
    torch.manual_seed(0)
    vit = create_vit(arch, arguments)
    freeze_patch_embedding(vit)
    p = Pretrainer(Backbone(vit, (1, 2, 3)), OBJECTIVES.get("mocov3")(), SIZES)
    side = arguments["img_size"]
    p(torch.randn(2, 4, 3, side, side), 0.5).loss.backward()
    without = [name for name, parameter in p.named_parameters() if parameter.requires_grad and parameter.grad is None]
    # Only what the class representation never reads may stay without gradient.
    assert not [name for name in without if "blocks" in name or "projectors" in name], without


def test_wrong_models_are_named() -> None:
    with pytest.raises(UnknownNameError, match="vit_tiny_patch17_224"):
        create_vit("vit_tiny_patch17_224", {})
    with pytest.raises(ConfigurationError, match="no plain ViT"):
        create_vit("resnet10t", {})
    with pytest.raises(ConfigurationError, match="does not divide"):
        create_vit("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 5})
    with pytest.raises(ConfigurationError, match="does not divide an image of 224"):
        create_vit("vit_tiny_patch16_224", {"patch_size": 15})
    with pytest.raises(ConfigurationError, match="heads do not divide"):
        create_vit("vit_tiny_patch16_224", {"embed_dim": 100, "num_heads": 3})


def test_a_state_of_another_architecture_is_explained() -> None:
    vit = create_vit("vit_tiny_patch16_224", TINY)
    other = create_vit("vit_tiny_patch16_224", {**TINY, "depth": 3, "patch_size": 2})
    with pytest.raises(Exception, match="another architecture") as caught:
        load_exactly(vit, other.state_dict(), "weights.safetensors")
    message = str(caught.value)
    assert "blocks.3." in message
    assert "patch_embed.proj.weight is [24, 3, 2, 2], expected [24, 3, 4, 4]" in message


@pytest.mark.parametrize("arch", ["vit_small_patch16_224", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_lite_adds_at_most_a_tenth(name: str, arch: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("cpu"):
        _, p = build(TrainingSettings(name, True, arch, "lite"))
    own = sum(parameter.numel() for parameter in p.backbone.vit.parameters())
    assert 0.05 * own < p.added_parameters() <= 0.1 * own
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        p.backbone.vit(torch.zeros(1, 3, 224, 224))
    assert p.added_flops() <= 0.1 * counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for heads in (p.projectors, p.predictors):
            if len(heads):
                heads[0](torch.zeros(11, 1, 1, heads[0].widths[0]))
    assert counter.get_total_flops() == p.added_flops()


def test_shared_heads_keep_to_the_budget_of_operations() -> None:
    sizes = {"image_size": 8, "patch_size": 4, "depth": 12, "width": 64, "heads": 2}
    _, p = build(TrainingSettings("mocov3", True, "vit_tiny_patch16_224", "tiny", shared_heads=True, **sizes))
    blocks = sum(parameter.numel() for parameter in p.backbone.vit.blocks.parameters())
    assert 0.05 * 2 * 4 * blocks < p.added_flops() <= 0.1 * 2 * 4 * blocks


@pytest.mark.parametrize("depth", [2, 5, 12])
@pytest.mark.parametrize("width", [24, 64, 192])
@pytest.mark.parametrize("shared", [False, True])
def test_small_backbones_keep_to_the_budget_too(depth: int, width: int, shared: bool) -> None:
    sizes = {"image_size": 32, "patch_size": 4, "depth": depth, "width": width, "heads": 2}
    _, p = build(TrainingSettings("mocov3", True, "vit_tiny_patch16_224", "tiny", shared_heads=shared, **sizes))
    blocks = sum(parameter.numel() for parameter in p.backbone.vit.blocks.parameters())
    assert p.added_parameters() <= 0.1 * blocks or p.projectors[0].widths[1] == 8
    tokens = 64
    assert p.added_flops() <= 0.1 * 2 * tokens * blocks or p.projectors[0].widths[1] == 8


def test_paper_heads_are_the_published_ones() -> None:
    _, p = build(TrainingSettings("mocov3", True, "vit_small_patch16_224", "paper"))
    assert p.projectors[0].widths == (384, 2048, 2048, 256)
    assert p.projectors[1].widths == (384, 4096, 4096, 256)
    assert p.predictors[0].widths == (256, 4096, 256) == p.predictors[1].widths
    weights = sum(w.numel() for heads in (*p.projectors, *p.predictors) for w in heads.weights)
    assert 104e6 < weights < 107e6  # 105 M, as measured in the published code


def test_lower_width_fills_the_budget() -> None:
    for layers, d, out, predictor in [(11, 384, 256, True), (11, 384, 256, False), (3, 64, 64, True)]:
        budget = 0.1 * 12 * d * d * 12
        width = lower_width(budget, layers, d, out, predictor=predictor)
        for candidate, fits in ((width, True), (width + 8, False)):
            stacks = [StackedMLP(layers, [d, candidate, candidate, out])]
            stacks += [StackedMLP(layers, [out, candidate, out])] if predictor else []
            assert (sum(p.numel() for s in stacks for p in s.parameters()) <= budget) == fits


def test_schedules() -> None:
    assert alpha_at(0, 100, 0.8) == 0
    assert alpha_at(50, 100, 0.8) == pytest.approx(0.4)
    assert alpha_at(100, 100, 0.8) == pytest.approx(0.8)
    assert alpha_at(25, 100, 0.8, "linear") == pytest.approx(0.2)
    assert alpha_at(0, 100, 0.8, "constant") == 0.8
    assert layer_weights(4, 0.6) == pytest.approx([0.2, 0.2, 0.2, 1.0])
    assert layer_weights(1, 0.6) == [1.0]
    assert momentum_at(0, 10) == pytest.approx(0.996)
    assert momentum_at(10, 10) == 1.0
    rates = [rate_at(step, 100, 10, 2.0) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(2.0)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.01


def test_weight_decay_is_for_matrices_alone() -> None:
    p = make("mocov3")
    decayed, rest = decay_groups(p, 0.1)
    names = {id(parameter): name for name, parameter in p.named_parameters()}
    assert decayed["weight_decay"] == 0.1
    assert rest["weight_decay"] == 0.0
    free = {names[id(parameter)] for parameter in rest["params"]}  # type: ignore[attr-defined]
    assert all(("scales" in n) or ("shifts" in n) or ("norm" in n) or n.endswith("bias") for n in free)
    kept = {names[id(parameter)] for parameter in decayed["params"]}  # type: ignore[attr-defined]
    assert not [n for n in kept if "scales" in n or "shifts" in n or "norm" in n or n.endswith("bias")]
    assert len(free) + len(kept) == sum(parameter.requires_grad for parameter in p.parameters())
