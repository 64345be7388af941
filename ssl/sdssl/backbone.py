"""The ViT that is trained: any timm ViT, read after any of its blocks.

Layers are numbered as blocks, 1 to the depth. The representation of a layer is the final norm (or a norm of the
layer's own) of its block's output, at the class token; the mean over patches where there is no class token.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from harness.core.compat import load_timm
from harness.core.errors import ConfigurationError, DataError, UnknownNameError


class Backbone(nn.Module):
    """A timm ViT that returns what its layers say.

    Args:
        vit: A timm model with `blocks` and `forward_intermediates`.
        layers: The layers to return, ascending, of 1..depth; the last one must be the depth.
        own_norms: A norm of its own for each layer below the last, instead of the model's final norm.
    """

    def __init__(self, vit: Any, layers: Sequence[int], *, own_norms: bool = False) -> None:
        super().__init__()
        self.vit = vit
        self.layers = tuple(layers)
        self.norms = nn.ModuleDict()
        if own_norms:
            lower = [layer for layer in self.layers if layer < len(vit.blocks)]
            self.norms.update({str(layer): nn.LayerNorm(vit.num_features, eps=1e-6) for layer in lower})

    @property
    def depth(self) -> int:
        """The number of blocks, which is the number of the last layer."""
        return len(self.vit.blocks)

    @property
    def width(self) -> int:
        """d, the width of a representation."""
        return int(self.vit.num_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, S, S) to (K, n, d), one representation a layer."""
        by_token = has_class_token(self.vit)
        found = self.vit.forward_intermediates(
            images,
            indices=[layer - 1 for layer in self.layers],
            return_prefix_tokens=by_token,
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )
        # Norms act on each token alone, so the class token is all that is normed.
        tokens = [prefix[:, :1] for _, prefix in found] if by_token else found
        return torch.stack([self._represent(*pair) for pair in zip(self.layers, tokens, strict=True)])

    def _represent(self, layer: int, tokens: torch.Tensor) -> torch.Tensor:
        own = str(layer) in self.norms
        pooled: torch.Tensor = (self.norms[str(layer)] if own else self.vit.norm)(tokens).mean(1)
        # A model that pools patches may keep its final norm behind the pooling.
        return pooled if own or has_class_token(self.vit) else self.vit.fc_norm(pooled)


def has_class_token(vit: Any) -> bool:
    """Whether a timm ViT has a class token."""
    return getattr(vit, "cls_token", None) is not None


def create_vit(arch: str, arguments: Mapping[str, Any], *, pretrained: bool = False) -> Any:
    """Makes a timm ViT without a classification head.

    Args:
        arch: A timm model name.
        arguments: Keyword arguments of `timm.create_model`, such as img_size, patch_size, depth, embed_dim.
        pretrained: Whether to load weights from the Hub.

    Returns:
        The model, in training mode.

    Raises:
        UnknownNameError: timm has no such model.
        ConfigurationError: The model is no ViT, or the arguments do not fit it or each other.
    """
    timm = load_timm()

    if not timm.is_model(arch.partition(".")[0]):
        names = timm.list_models("*vit*") + timm.list_models("deit*") + timm.list_models("eva*")
        near = difflib.get_close_matches(arch, names, n=5, cutoff=0.3) or ["vit_tiny_patch16_224"]
        raise UnknownNameError("timm model", arch, near)
    width, heads = arguments.get("embed_dim"), arguments.get("num_heads")
    if width and heads and width % heads:
        raise ConfigurationError(f"{heads} attention heads do not divide a width of {width}.", "Change --heads.")
    wanted = {"num_classes": 0, **arguments}
    try:
        vit = timm.create_model(arch, pretrained=pretrained, **wanted)
        pooling = _pooling(vit)
        if pooling is not None:
            vit = timm.create_model(arch, pretrained=pretrained, **wanted, global_pool=pooling)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigurationError(
            f"timm cannot make {arch!r} with {_shown(arguments)}: {reason}.",
            "Not every ViT takes every size; try a plain one such as vit_tiny_patch16_224.",
        ) from error
    takes_intermediates = (
        "return_prefix_tokens" in inspect.signature(getattr(vit, "forward_intermediates", lambda: None)).parameters
    )
    if not (hasattr(vit, "blocks") and hasattr(vit, "norm") and takes_intermediates):
        raise ConfigurationError(
            f"{arch!r} is no plain ViT: its blocks cannot be read token by token.",
            "Use a ViT, DeiT, BEiT or EVA of timm, such as vit_tiny_patch16_224.",
        )
    _check_patches(vit)
    return vit


def _pooling(vit: Any) -> str | None:
    """The pooling to make a ViT with instead of its own, where that has parts which no layer's representation reads."""
    behind = has_class_token(vit) and isinstance(getattr(vit, "norm", None), nn.Identity)
    if behind or getattr(vit, "attn_pool", None) is not None:
        return "token" if has_class_token(vit) else "avg"
    return None


def vit_arguments(vit: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments with which `timm.create_model` makes exactly this ViT, given those that were asked for."""
    pooling = getattr(vit, "global_pool", None)
    return {**arguments, **({"global_pool": pooling} if isinstance(pooling, str) else {})}


def _check_patches(vit: Any) -> None:
    size, patch = getattr(vit.patch_embed, "img_size", None), getattr(vit.patch_embed, "patch_size", None)
    for side, step in zip(size or (), patch or (), strict=False):
        if side % step:
            raise ConfigurationError(
                f"a patch of {step} pixels does not divide an image of {side}.",
                f"Use --patch-size {max(d for d in range(1, step) if side % d == 0)} or another --image-size.",
            )


def image_size(vit: Any) -> int:
    """The side in pixels of the square images a timm ViT takes.

    Raises:
        ConfigurationError: It takes images that are not square.
    """
    size = vit.patch_embed.img_size
    if size is None:
        raise ConfigurationError("this ViT has no image size of its own.", "Give --image-size.")
    if size[0] != size[1]:
        raise ConfigurationError(f"this ViT takes images of {size[0]} x {size[1]}; only square ones are read here.")
    return int(size[0])


def freeze_patch_embedding(vit: Any) -> None:
    """Keeps the patch embedding at its random initialisation and fixes 2-D sin-cos positions (MoCo v3).

    The projection is initialised as MoCo v3 does, uniformly within sqrt(6 / (3 p^2 + d)). A model without learned
    absolute positions keeps its own.

    Args:
        vit: A freshly made timm ViT; changed in place.
    """
    projection = getattr(vit.patch_embed, "proj", None)
    if isinstance(projection, nn.Conv2d):
        fan_in = projection.weight[0].numel()
        bound = math.sqrt(6 / (fan_in + projection.out_channels))
        nn.init.uniform_(projection.weight, -bound, bound)
        if projection.bias is not None:
            nn.init.zeros_(projection.bias)
    for parameter in vit.patch_embed.parameters():
        parameter.requires_grad_(False)
    positions = getattr(vit, "pos_embed", None)
    rows, columns = vit.patch_embed.grid_size
    if isinstance(positions, nn.Parameter) and positions.shape[1] >= rows * columns:
        if positions.shape[2] % 4:
            raise ConfigurationError(
                f"a width of {positions.shape[2]} has no 2-D sine-cosine positions: it is no multiple of 4.",
                "Change --width, or add --train-patches to learn positions and patch embedding.",
            )
        prefix = positions.shape[1] - rows * columns
        with torch.no_grad():
            positions.zero_()
            positions[0, prefix:] = sincos_positions(rows, columns, positions.shape[2])
        positions.requires_grad_(False)


def sincos_positions(rows: int, columns: int, width: int, temperature: float = 10_000.0) -> torch.Tensor:
    """Fixed 2-D sine-cosine positions, a quarter of the width each for sin x, cos x, sin y, cos y (MoCo v3).

    Returns:
        (rows x columns, width) float32, row by row.
    """
    frequency = temperature ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    down, across = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    x, y = (place.flatten().double()[:, None] * frequency for place in (across, down))
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1).float()


def load_exactly(module: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Loads a state that must have exactly the module's names and shapes.

    Raises:
        DataError: It has not; the message names the keys and the shapes.
    """
    check_state(module, state, what)
    module.load_state_dict(state)


def check_state(module: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuses a state that has not exactly the module's names and shapes; the module may be on the device `meta`.

    Raises:
        DataError: It has not; the message names the keys and the shapes.
    """
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    reasons = []
    if missing := sorted(own.keys() - given.keys()):
        reasons.append(f"{len(missing)} missing ({_some(missing)})")
    if extra := sorted(given.keys() - own.keys()):
        reasons.append(f"{len(extra)} unknown ({_some(extra)})")
    if other := sorted(name for name in own.keys() & given.keys() if own[name] != given[name]):
        shapes = [f"{name} is {list(given[name])}, expected {list(own[name])}" for name in other]
        reasons.append(f"{len(other)} of another shape ({_some(shapes)})")
    if reasons:
        raise DataError(
            f"{what} belongs to another architecture: {'; '.join(reasons)}.",
            "Give the architecture and sizes that it was trained with.",
        )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items()) or "its own settings"
