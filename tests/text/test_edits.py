"""Edited texts against plain string work, and which token belongs to which word."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.text.edits import mask_word, mask_words, replace_words, token_words
from harness.text.victims import Victim
from harness.text.words import find_words

AWKWARD = st.text(
    st.sampled_from(list(" \t\n'-_*@.,!?()[]abcZO09éß😀")) | st.characters(exclude_categories=["Cs"]), max_size=60
)


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def victim(request, tiny_victim_folder):
    return Victim.load(str(tiny_victim_folder(request.param)), device="cpu")


@settings(max_examples=300)
@example("'a' -- b_c, d!")
@given(AWKWARD)
def test_words_replaced_by_themselves_leave_the_text(text):
    assert replace_words(text, {i: word.text for i, word in enumerate(find_words(text))}) == text
    assert replace_words(text, {}) == text


@settings(max_examples=300)
@given(AWKWARD, st.data())
def test_replacing_is_cutting_and_joining(text, data):
    words = find_words(text)
    chosen = data.draw(st.sets(st.integers(0, len(words) - 1)) if words else st.just(set()))
    expected = text
    for position in sorted(chosen, reverse=True):
        expected = expected[: words[position].start] + "<new>" + expected[words[position].end :]
    assert replace_words(text, dict.fromkeys(chosen, "<new>")) == expected
    assert mask_words(text, chosen, "<new>") == mask_words(text, list(chosen)[::-1], "<new>") == expected


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["a", "film", "it's", "well-known"]), max_size=12), st.data())
def test_as_many_words_are_masked_as_asked(words, data):
    chosen = data.draw(st.sets(st.integers(0, len(words) - 1)) if words else st.just(set()))
    masked = mask_words(" ".join(words), chosen, "[MASK]")
    assert masked.count("[MASK]") == len(chosen)
    assert masked.split(" ") == " ".join("[MASK]" if i in chosen else word for i, word in enumerate(words)).split(" ")


def test_words_are_left_out():
    assert replace_words("a warm, long film", {0: "", 2: ""}) == " warm,  film"


@pytest.mark.parametrize("position", [-1, 2, 7])
def test_there_is_no_such_word(position):
    with pytest.raises(IndexError, match="2 words"):
        replace_words("two words", {position: "x"})
    with pytest.raises(IndexError):
        replace_words("", {0: "x"})


def test_a_victims_mask_is_one_token_of_its_own(victim):
    mask = mask_word(victim)
    assert mask == victim.tokenizer.mask_token
    encoded = victim.tokenizer(mask_words("a warm film", [1], mask))["input_ids"]
    assert encoded.count(victim.tokenizer.mask_token_id) == 1


def words_by_overlap(victim, text):
    """The slow way: the word whose characters a token shares."""
    words = find_words(text)
    encoded = victim.tokenizer(
        text,
        truncation=True,
        max_length=victim.max_length,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    found = []
    for (start, end), special in zip(encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True):
        shared = [i for i, w in enumerate(words) if not special and max(start, w.start) < min(end, w.end)]
        assert len(shared) <= 1
        found.append(shared[0] if shared else -1)
    return found, encoded["input_ids"]


def test_tokens_belong_to_the_word_they_share_characters_with(victim, words):
    draw = random.Random(0)
    texts = ["", "  ", "...", "unheard-of words, isn't it?", "(a) warm film!", " leading space", "one " * 200]
    for _ in range(60):
        chosen = draw.choices([*words, "qzjx", "well-known", "isn't"], k=draw.randint(1, 12))
        texts.append("".join(word + draw.choice([" ", ", ", "... ", "! ", "  "]) for word in chosen))
    found = token_words(victim, texts)
    for text, owners in zip(texts, found, strict=True):
        expected, ids = words_by_overlap(victim, text)
        assert len(owners) == len(ids)
        assert owners == expected
        whole = len(ids) < victim.max_length
        assert not whole or set(range(len(find_words(text)))) == set(owners) - {-1}
        real = [owner for owner in owners if owner >= 0]
        assert real == sorted(real)
    assert token_words(victim, []) == []
    assert token_words(victim, texts[5:7]) == found[5:7]


def test_one_word_of_many_tokens(victim):
    (owners,) = token_words(victim, ["a zzyzx film"])
    assert owners.count(1) > 1
    assert np.array_equal(sorted(set(owners)), [-1, 0, 1, 2])


def test_tokens_that_begin_with_the_space_before_their_word(tiny_victim_folder):
    """As byte-pair tokenizers have it that do not trim their offsets."""
    from transformers import RobertaTokenizerFast

    folder = str(tiny_victim_folder("roberta"))
    untrimmed = Victim.load(folder, device="cpu")
    untrimmed.tokenizer = RobertaTokenizerFast.from_pretrained(folder, trim_offsets=False)
    text = "the film is warm, (very) warm"
    offsets = untrimmed.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert any(text[start] == " " for start, end in offsets if end > start)
    assert token_words(untrimmed, [text]) == token_words(Victim.load(folder, device="cpu"), [text])
