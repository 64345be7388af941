"""Where each architecture keeps its class representation.

A detector reads the vector that the classification head reads. BERT-type models classify from the first token;
others do not (XLNet keeps its class token last, BART pools at the end-of-sequence token), so an architecture
that is not listed here is refused rather than read wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.core.errors import VictimError

if TYPE_CHECKING:
    import torch

Reader = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def first_token(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The first position of right-padded input: `[CLS]` or `<s>`.

    Args:
        hidden: (batch, tokens, d) hidden states of one layer.
        attention_mask: (batch, tokens), 1 for real tokens; unused, since padding comes after.

    Returns:
        (batch, d) tensor.
    """
    return hidden[:, 0]


CLASS_REPRESENTATION: dict[str, Reader] = {
    "bert": first_token,
    "roberta": first_token,
    "distilbert": first_token,
    "electra": first_token,
}


def class_representation(model_type: str) -> Reader:
    """The function that reads the class representation of `model_type` (a Hugging Face `config.model_type`).

    Raises:
        VictimError: The architecture is not known here.
    """
    if model_type not in CLASS_REPRESENTATION:
        raise VictimError(
            f"the architecture {model_type!r} is not supported: where it keeps its class representation "
            "is not known here.",
            f"Supported: {', '.join(sorted(CLASS_REPRESENTATION))}.",
        )
    return CLASS_REPRESENTATION[model_type]
