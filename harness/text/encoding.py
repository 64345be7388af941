"""Texts as the token numbers that a classifier reads."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from harness.core.errors import VictimError
from harness.text.architectures import architecture_of, has_class_token


def prepare(name: str, model: Any, tokenizer: Any) -> None:
    """Make a classifier and its tokenizer agree on padding, so that a text's output does not depend on its batch.

    Decoder-type classifiers look for the last token that is not `config.pad_token_id`. Where the configuration names
    one, the tokenizer pads with it; else it becomes the tokenizer's padding token, and where there is none the
    end-of-sequence token.

    Args:
        name: How messages call the classifier.
        model: The classifier; its configuration may change.
        tokenizer: Its fast tokenizer; its padding changes.

    Raises:
        VictimError: The architecture is not supported, or has no token to pad with.
    """
    config = model.config
    architecture = architecture_of(config)
    tokenizer.padding_side = architecture.padding_side
    # Encoding and padding are apart here on purpose: lengths decide the batches.
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    # Tokenizers of no architecture of their own give token types to models that take none.
    taken = inspect.signature(model.forward).parameters
    if "input_ids" in taken:
        tokenizer.model_input_names = [given for given in tokenizer.model_input_names if given in taken]
    if architecture.finds_padding:
        _agree_on_padding(name, config, tokenizer)
    if architecture.finds_padding or architecture.finds_eos:
        config.use_cache = False  # nothing is generated
    if getattr(config, "reference_compile", False) is not False:
        config.reference_compile = False  # ModernBERT's: it needs a compiler, and rounds otherwise


def _agree_on_padding(name: str, config: Any, tokenizer: Any) -> None:
    padding = config.pad_token_id
    # Some configurations say -1 for none.
    if padding is not None and 0 <= padding < len(tokenizer):
        if padding != tokenizer.pad_token_id:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
        return
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise VictimError(
                f"{name!r} has no token to pad texts with: neither a padding nor an end-of-sequence token.",
                "Give its tokenizer a pad_token.",
            )
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = int(tokenizer.pad_token_id)


def encode_texts(tokenizer: Any, config: Any, texts: Sequence[str], max_length: int, **options: Any) -> Any:
    """Encode texts, without padding.

    They are the tokenizer's own numbers but for two cases. A text without a token, which tokenizers that add none give
    of an empty one, is read as a single start token (the end-of-sequence or padding token where there is none). And
    where the head looks for the end-of-sequence token, one that a text spells out is read as unknown, for the head
    would read there.

    Args:
        tokenizer: A fast tokenizer, see `prepare`.
        config: Of its classifier.
        texts: n > 0 texts.
        max_length: Tokens that a text may have, special ones included; the end is cut.
        **options: Of the tokenizer, such as `return_offsets_mapping`.

    Returns:
        The tokenizer's `BatchEncoding`, lists of n.
    """
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length, **options)
    # A word CNN or LSTM knows what to make of no words.
    if has_class_token(config.model_type):
        starts = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        start = next((token for token in starts if token is not None), None)
        single = {"input_ids": start, "attention_mask": 1, "offset_mapping": (0, 0)}
        for row, ids in enumerate(encoded["input_ids"]):
            if not ids and start is not None:
                for key in encoded:
                    encoded[key][row] = [single.get(key, 0)]
    if architecture_of(config).finds_eos:
        end, unknown = config.eos_token_id, tokenizer.unk_token_id
        unknown = tokenizer.bos_token_id if unknown is None else unknown
        for row, ids in enumerate(encoded["input_ids"]):
            if ids.count(end) > 1:
                encoded["input_ids"][row] = [unknown if token == end else token for token in ids[:-1]] + ids[-1:]
    return encoded
