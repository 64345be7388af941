"""What identifies a model: the hash of its weights and of what else decides its outputs."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def hash_weights(head: bytes, module: nn.Module, tail: bytes = b"") -> str:
    """SHA-256 (hex) over every tensor of a module, by name, with its shape and dtype.

    Args:
        head: What else decides the outputs and is hashed first, such as the architecture.
        module: The model.
        tail: What is hashed last, such as a tokenizer.
    """
    import torch

    digest = hashlib.sha256(head)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(tail)
    return digest.hexdigest()
