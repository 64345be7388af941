"""A victim's hidden states, one vector a word and layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import VictimError
from harness.text.batches import padded_batches
from harness.text.edits import words_at
from harness.text.words import find_words

if TYPE_CHECKING:
    from harness.text.victims import Victim


class WordStates(NamedTuple):
    """What a victim makes of one text's words.

    Attributes:
        row: Which of the texts.
        states: (words, layers, d) float32, the mean over a word's tokens; 0 for a word beyond the victim's cut.
        pieces: (words,) int64, its tokens; 0 for a word that was cut away.
    """

    row: int
    states: NDArray[np.float32]
    pieces: NDArray[np.int64]


def state_layers(victim: Victim) -> tuple[int, ...]:
    """The layers read: a word CNN's or LSTM's word vectors; else 0, a third, two thirds and all of the blocks.

    Those of an encoder-decoder are its encoder's, for only they stand at the words themselves.
    """
    if not victim.has_class_token:
        return (0,)
    config = victim.model.config
    last = int(getattr(config, "encoder_layers", victim.num_layers)) if _is_pair(victim) else victim.num_layers
    return tuple(sorted({0, last // 3, 2 * last // 3, last}))


def read_word_states(victim: Victim, texts: Sequence[str], layers: Sequence[int]) -> Iterator[WordStates]:
    """Run the victim over texts once; each text counts as one forward.

    Args:
        victim: A classifier.
        texts: n texts.
        layers: As `state_layers` gives them.

    Yields:
        The words of each text, the texts in no particular order.

    Raises:
        VictimError: It gives no hidden states.
    """
    import torch

    if not texts:
        return
    encodings = victim.encode(texts, return_offsets_mapping=True)
    owners = [words_at(text, spans) for text, spans in zip(texts, encodings["offset_mapping"], strict=True)]
    given = {key: encodings[key] for key in encodings if key != "offset_mapping"}
    for rows, padded in padded_batches(victim.tokenizer, given, victim.batch_size):
        batch = padded.to(victim.device)
        with torch.inference_mode():
            hidden = _hidden(victim, batch, layers).float().cpu().numpy()
        victim.forwards += len(rows)
        real = batch["attention_mask"].bool().cpu().numpy()
        for place, row in enumerate(rows):
            tokens, owner = hidden[place][real[place]], np.array(owners[row], dtype=np.int64)
            states = np.zeros((len(find_words(texts[row])), *tokens.shape[1:]), np.float32)
            np.add.at(states, owner[owner >= 0], tokens[: len(owner)][owner >= 0])
            pieces = np.bincount(owner[owner >= 0], minlength=len(states)).astype(np.int64)
            states /= np.maximum(pieces, 1)[:, None, None]
            yield WordStates(int(row), states, pieces)


def _is_pair(victim: Victim) -> bool:
    return victim.architecture.states == "decoder_hidden_states"


def _hidden(victim: Victim, batch: Any, layers: Sequence[int]) -> Any:
    """(batch, tokens, layers, d) hidden states."""
    import torch

    if not victim.has_class_token:
        table: Any = victim.model.get_input_embeddings()
        return table(batch["input_ids"]).unsqueeze(2)
    output = victim.model(**batch, output_hidden_states=True)
    states = getattr(output, "encoder_hidden_states" if _is_pair(victim) else victim.architecture.states, None)
    if not states:
        raise VictimError(f"the victim {victim.name!r} gives no hidden states of its words.")
    return torch.stack([states[layer] for layer in layers], dim=2)
