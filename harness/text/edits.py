"""Texts with some of their words replaced, masked or left out: what detectors ask a victim about.

Words and their positions are those of `harness.text.words`; everything between words stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.text.words import find_words

if TYPE_CHECKING:
    from harness.text.victims import Victim


def replace_words(text: str, replacements: Mapping[int, str]) -> str:
    """The text with the words at some positions replaced.

    Args:
        text: Any text.
        replacements: Position among `find_words(text)` -> what stands there instead; "" leaves the word out, and
            the spaces around it stay.

    Raises:
        IndexError: The text has no word at a position.
    """
    words = find_words(text)
    if replacements and not 0 <= min(replacements) <= max(replacements) < len(words):
        raise IndexError(f"the text has {len(words)} words; no word {max(replacements)}")
    parts, end = [], 0
    for position in sorted(replacements):
        word = words[position]
        parts += [text[end : word.start], replacements[position]]
        end = word.end
    return "".join([*parts, text[end:]])


def mask_word(victim: Victim) -> str:
    """What hides a word from a victim: its tokenizer's mask token, else the unknown one, else nothing at all.

    A token that also ends, begins or pads texts hides no word: the victim would look elsewhere for what it classifies
    from. GPT-2's unknown token is its end-of-text token, so there a hidden word is left out.
    """
    return _first_safe(victim, ("mask_token", "unk_token"))


def unknown_word(victim: Victim) -> str:
    """What an unknown word is to a victim: its tokenizer's unknown token, else what hides a word (see `mask_word`)."""
    return _first_safe(victim, ("unk_token", "mask_token"))


def _first_safe(victim: Victim, names: Iterable[str]) -> str:
    """The first special token, of some by name, that a victim's tokenizer has and that marks no position; else ""."""
    tokenizer = victim.tokenizer
    marks = {getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad", "cls", "sep")}
    for name in names:
        if (token := getattr(tokenizer, name)) and getattr(tokenizer, f"{name}_id") not in marks:
            return str(token)
    return ""


def mask_words(text: str, positions: Iterable[int], mask: str) -> str:
    """The text with the words at some positions hidden behind `mask` (see `mask_word`)."""
    return replace_words(text, dict.fromkeys(positions, mask))


def token_words(victim: Victim, texts: Sequence[str]) -> list[list[int]]:
    """For every token of every text the position of the word it belongs to; -1 for special tokens and punctuation.

    Tokens are those that the victim reads, cut at its `max_length`.

    Args:
        victim: Its tokenizer is asked.
        texts: n texts.

    Returns:
        n lists, each as long as the text's `input_ids`.
    """
    if not texts:
        return []
    encoded = victim.encode(texts, return_offsets_mapping=True)
    return [words_at(text, offsets) for text, offsets in zip(texts, encoded["offset_mapping"], strict=True)]


def words_at(text: str, offsets: Iterable[tuple[int, int]]) -> list[int]:
    """For every token of a text the position of the word it belongs to; -1 for special tokens and punctuation.

    Args:
        text: Any text.
        offsets: The first character of each token and the one after its last, as a fast tokenizer says them.
    """
    # A byte-pair token may begin with the space before its word: the token's last character decides.
    owner: dict[int, int] = {}
    for number, word in enumerate(find_words(text)):
        owner.update(dict.fromkeys(range(word.start, word.end), number))
    return [owner.get(end - 1, -1) if end > start else -1 for start, end in offsets]
