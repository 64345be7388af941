"""What a masked language model learns from: sequences cut from texts, and the tokens hidden in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -100  # the label of a token that is not asked for


@dataclass(frozen=True)
class Sequences:
    """Token sequences cut from texts.

    Attributes:
        ids: n lists of token ids, with the first and the last special token.
        starts: Where in its text each begins, in tokens: the position that its first word is read at, so that the
            embeddings of later positions, which short sequences would never reach, learn too.
    """

    ids: list[list[int]]
    starts: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def cut_sequences(tokenizer: Any, texts: Sequence[str], length: int, positions: int) -> Sequences:
    """Cut texts into sequences of at most `length` tokens, first and last special token included.

    Args:
        tokenizer: A fast tokenizer with a class and a separator token.
        texts: What to cut.
        length: Tokens in a sequence.
        positions: Positions that the model has; a sequence that would run past the last begins at the first.
    """
    room = length - 2
    ids, starts = [], []
    for tokens in tokenizer(list(texts), add_special_tokens=False)["input_ids"]:
        for start in range(0, len(tokens), room):
            part = tokens[start : start + room]
            ids.append([tokenizer.cls_token_id, *part, tokenizer.sep_token_id])
            starts.append(start if start + length <= positions else 0)
    return Sequences(ids, starts)


def mask_tokens(
    ids: NDArray[np.int64], special: NDArray[np.bool_], mask_id: int, vocabulary: int, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Mask a batch as BERT does: 15 % of the tokens asked for, 80 / 10 / 10 of them masked, replaced, left.

    Args:
        ids: (n, t) token ids.
        special: (n, t), True where a token is never asked for: special tokens and padding.
        mask_id: The id of the mask token.
        vocabulary: Ids that a random token is drawn from.
        generator: What draws.

    Returns:
        (n, t) ids to read and (n, t) labels, which are -100 where nothing is asked.
    """
    asked = (generator.random(ids.shape) < 0.15) & ~special
    fate = generator.random(ids.shape)
    read = np.where(asked & (fate < 0.8), mask_id, ids)
    read = np.where(asked & (fate >= 0.9), generator.integers(0, vocabulary, ids.shape), read)
    return read, np.where(asked, ids, IGNORED)
