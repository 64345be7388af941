"""Where each architecture keeps its class representation.

A detector reads the vector that the classification head reads. BERT-type models classify from the first token;
others do not (XLNet keeps its class token last, BART pools at the end-of-sequence token), so an architecture
that is not listed here is refused rather than read wrongly.

The word CNN and word LSTM have no class token at all. Their layers are two: 0, the mean of the word vectors, and 1,
the pooled vector that the head reads; they give both pooled already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import VictimError

if TYPE_CHECKING:
    import torch

Reader = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

WORD_CNN, LSTM = "palimpsest-wordcnn", "palimpsest-lstm"
# How `harness victim train --encoder` calls the architectures that are trained from scratch.
WORD_ENCODERS = {"wordcnn": WORD_CNN, "lstm": LSTM}
_TEXTATTACK_CHECKPOINT = re.compile(r"(?:textattack/)?(cnn|lstm)-(?:ag-news|imdb|mr|sst2|yelp)")
_TEXTATTACK_CLASSES = {"WordCNNForClassification": "wordcnn", "LSTMForClassification": "lstm"}


def first_token(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The first position of right-padded input: `[CLS]` or `<s>`.

    Args:
        hidden: (batch, tokens, d) hidden states of one layer.
        attention_mask: (batch, tokens), 1 for real tokens; unused, since padding comes after.

    Returns:
        (batch, d) tensor.
    """
    return hidden[:, 0]


def pooled(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """What an architecture without a class token has pooled over the words itself.

    Args:
        hidden: (batch, 1, d), one vector a text.
        attention_mask: (batch, tokens); unused, since the model pooled with it.

    Returns:
        (batch, d) tensor.
    """
    return hidden[:, 0]


CLASS_REPRESENTATION: dict[str, Reader] = {
    "bert": first_token,
    "roberta": first_token,
    "distilbert": first_token,
    "electra": first_token,
    WORD_CNN: pooled,
    LSTM: pooled,
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


def has_class_token(model_type: str) -> bool:
    """Whether every layer has a class token; the word CNN and LSTM have none."""
    return model_type not in WORD_ENCODERS.values()


def layer_width(config: Any, layer: int) -> int:
    """The dimension of a layer's representation.

    Args:
        config: A Hugging Face configuration.
        layer: From 0.
    """
    # Only here: ELECTRA has an `embedding_size` too, and projects it before layer 0.
    if layer == 0 and not has_class_token(config.model_type):
        return int(config.embedding_size)
    return int(config.hidden_size)


def refuse_textattack_checkpoint(source: str) -> None:
    """Say of TextAttack's own word CNN and LSTM checkpoints why they are not loaded.

    Args:
        source: What was given as victim: a folder, or a name such as `cnn-imdb`.

    Raises:
        VictimError: It is one of them.
    """
    folder = Path(source)
    named = _TEXTATTACK_CHECKPOINT.fullmatch(source)
    encoder = {"cnn": "wordcnn", "lstm": "lstm"}[named[1]] if named and not folder.is_dir() else None
    try:
        known = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
        # A plain name: transformers writes a list.
        encoder = _TEXTATTACK_CLASSES.get(known, encoder) if isinstance(known, str) else encoder
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no such folder or file: whoever loads it says what is wrong with it
    if encoder:
        raise VictimError(
            f"{source!r} is a checkpoint of TextAttack's, which is a pickle; pickles are never loaded.",
            f"Train the same architecture: harness victim train --encoder {encoder} --dataset DATASET --out DIR.",
        )
