"""Gradients of a victim's loss at its input embeddings, for white-box attacks and detectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.text.batches import padded_batches

if TYPE_CHECKING:
    from harness.text.victims import Victim


@dataclass(frozen=True)
class TokenGradients:
    """The gradient at one text's tokens.

    Attributes:
        ids: (t,) int64 token ids as the victim reads them, special tokens included.
        gradient: (t, d) float32, of the cross-entropy of the predicted label at each token's input embedding.
    """

    ids: NDArray[np.int64]
    gradient: NDArray[np.float32]


def token_gradients(victim: Victim, texts: Sequence[str]) -> list[TokenGradients]:
    """The gradient of -log p(predicted label) at every input embedding, without dropout, text by text.

    Texts share batches; their losses are summed, so that no text's gradient depends on its neighbours.

    Args:
        victim: A classifier with input embeddings.
        texts: n texts; longer ones are cut to the victim's `max_length`.
    """
    import torch

    if not texts:
        return []
    encodings = victim.tokenizer(list(texts), truncation=True, max_length=victim.max_length)
    found: dict[int, TokenGradients] = {}
    kept: list[Any] = []

    def leaf(module: Any, given: Any, embedded: Any) -> Any:
        kept.append(embedded.detach().requires_grad_())
        return kept[-1]

    hook = victim.model.get_input_embeddings().register_forward_hook(leaf)
    try:
        # cuDNN's recurrent layers have no backward in evaluation mode.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            for rows, padded in padded_batches(victim.tokenizer, encodings, victim.batch_size):
                kept.clear()
                batch = padded.to(victim.device)
                logits = victim.model(**batch).logits.float()
                loss = torch.nn.functional.cross_entropy(logits, logits.argmax(dim=1), reduction="sum")
                (gradients,) = torch.autograd.grad(loss, kept[0])
                for row, gradient in zip(rows, gradients.float().cpu().numpy(), strict=True):
                    ids = np.asarray(encodings["input_ids"][row], dtype=np.int64)
                    found[int(row)] = TokenGradients(ids, gradient[: len(ids)].copy())
    finally:
        hook.remove()
    return [found[index] for index in range(len(texts))]
