"""Counter-fitting against a slow loop over the paper's formulas, and on real constraints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import DataError, MissingFileError
from textadv.counterfitting import CounterfittingSettings, counterfit, make, read_pairs
from textadv.vectors import NeighbourTable, WordVectors, load_vectors, save_vectors

ROUNDING = 1e-9  # a distance that is off by less is not off
Pairs = list[tuple[str, str]]


def slowly(vectors: WordVectors, synonyms: Pairs, antonyms: Pairs, chosen: CounterfittingSettings) -> dict[str, Any]:
    """Mrksic et al. (2016), word by word in Python: each word against the mean gradient of its active pairs."""

    def unit(v: list[float]) -> list[float]:
        length = math.sqrt(sum(x * x for x in v))
        return [x / length for x in v]

    def distance(u: list[float], v: list[float]) -> float:
        return 1 - sum(a * b for a, b in zip(u, v, strict=True))

    space = {word: unit([float(x) for x in row]) for word, row in zip(vectors.words, vectors.matrix, strict=True)}
    before = dict(space)
    apart = {frozenset(pair) for pair in antonyms if set(pair) <= set(space) and len(set(pair)) == 2}
    together = {frozenset(pair) for pair in synonyms if set(pair) <= set(space) and len(set(pair)) == 2} - apart
    near = {
        frozenset((a, b)) for a in space for b in space if a < b and distance(space[a], space[b]) <= chosen.rho
    } - apart
    for _ in range(chosen.steps):
        moved = {}
        for word, u in space.items():
            total, count = [0.0] * len(u), 0
            for pairs, weight in ((apart, chosen.repel), (together, -chosen.attract), (near, -chosen.preserve)):
                for pair in pairs:
                    if word not in pair:
                        continue
                    (other,) = pair - {word}
                    v, d = space[other], distance(u, space[other])
                    wanted = {
                        id(apart): d < chosen.delta - ROUNDING,
                        id(together): d > chosen.gamma + ROUNDING,
                        id(near): d > distance(before[word], before[other]) + ROUNDING,
                    }[id(pairs)]
                    if wanted:
                        # The gradient of 1 - u.v / |u| |v| by u, where both have length 1.
                        total = [t + weight * ((1 - d) * a - b) for t, a, b in zip(total, u, v, strict=True)]
                        count += 1
            moved[word] = unit([a + t / max(1, count) for a, t in zip(u, total, strict=True)])
        space = moved
    return space


WORDS = [f"w{i}" for i in range(14)]
PAIRS = st.lists(st.tuples(st.sampled_from([*WORDS, "unknown"]), st.sampled_from(WORDS)), max_size=20)


@given(st.integers(0, 10_000), PAIRS, PAIRS, st.sampled_from([0.02, 0.2, 0.6]), st.sampled_from([0.7, 1.0]))
@settings(deadline=None, max_examples=60)
def test_it_is_what_the_formulas_say(seed: int, synonyms: Pairs, antonyms: Pairs, rho: float, delta: float) -> None:
    matrix = np.random.default_rng(seed).normal(size=(len(WORDS), 5)).astype(np.float32)
    vectors = WordVectors(WORDS, matrix)
    chosen = CounterfittingSettings(steps=4, rho=rho, delta=delta, gamma=0.05, repel=0.3, attract=0.2, preserve=0.1)
    found = counterfit(vectors, synonyms, antonyms, chosen)
    slow = slowly(vectors, synonyms, antonyms, chosen)
    np.testing.assert_allclose(found.matrix, [slow[word] for word in WORDS], atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found.matrix, axis=1), 1, atol=1e-6)
    assert list(found.words) == WORDS


def test_a_pair_that_is_both_is_an_antonym() -> None:
    vectors = WordVectors(["a", "b"], np.array([[1, 0], [0.9, 0.5]], np.float32))
    found = counterfit(vectors, [("a", "b")], [("b", "a")])
    assert found.cosine(0, 1) < vectors.cosine(0, 1) - 0.3


def test_antonyms_end_at_a_right_angle_and_words_without_pairs_stay() -> None:
    vectors = WordVectors(["hot", "cold", "tree"], np.array([[1, 0.1, 0], [1, -0.1, 0], [0, 0, 2]], np.float32))
    found = counterfit(vectors, [], [("hot", "cold")], CounterfittingSettings(steps=200, repel=0.02))
    assert found.cosine(0, 1) == pytest.approx(0, abs=0.03)
    np.testing.assert_allclose(found.matrix[2], [0, 0, 1])


def test_more_words_than_are_compared_at_once() -> None:
    """The pairs within rho are found across blocks of the vocabulary."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(1300, 3)).astype(np.float32)
    matrix[1290] = matrix[1003] + 1e-3  # a close pair, neither of it in the first block
    vectors = WordVectors([str(i) for i in range(1300)], matrix)
    pulled = [("1003", "77")]
    kept = counterfit(vectors, pulled, [], CounterfittingSettings(rho=1e-4, preserve=0.1))
    free = counterfit(vectors, pulled, [], CounterfittingSettings(rho=1e-4, preserve=0.0))
    assert kept.cosine(1003, 1290) > free.cosine(1003, 1290) + 1e-3


def test_rounding_moves_nothing() -> None:
    """Every step renormalises: a distance that grew by the last digit is no distance to win back."""
    matrix = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    found = counterfit(WordVectors([str(i) for i in range(300)], matrix), [], [])
    np.testing.assert_allclose(found.matrix, matrix / np.linalg.norm(matrix, axis=1, keepdims=True), atol=1e-6)


def test_a_vector_without_direction_is_named() -> None:
    with pytest.raises(DataError, match="'b' is zero"):
        counterfit(WordVectors(["a", "b"], np.array([[1, 0], [0, 0]], np.float32)), [], [])


def write_sources(folder: Path) -> dict[str, Path]:
    glove, constraints = folder / "glove", folder / "constraints"
    constraints.mkdir(parents=True)
    words = ["good", "nice", "bad", "42", "film"]
    save_vectors(glove, WordVectors(words, np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)))
    for name, text in {
        "vocabulary.txt": "good\nnice\nbad\nfilm\nunheard\n",
        "ppdb_synonyms.txt": "good nice\ngood unheard\n",
        "ppdb_antonyms.txt": "good bad \n",
        "wordnet_antonyms.txt": "nice bad\nbad nice\n",
    }.items():
        (constraints / name).write_text(text)
    return {"glove": glove, "counterfit-constraints": constraints}


def test_making_the_stand_in(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    target = tmp_path / "made"
    make(target, sources, dataset=None, limit=None, seed=0)
    found = load_vectors(target)
    assert list(found.words) == ["good", "nice", "bad", "film"]  # in vocabulary.txt, and in GloVe's order
    facts = json.loads((target / "facts.json").read_text())
    assert (facts["words"], facts["dimensions"], facts["hash"]) == (4, 4, found.hash)
    assert facts["source_hash"] == load_vectors(sources["glove"]).hash
    assert {kind: facts[kind]["pairs"] for kind in ("synonyms", "antonyms")} == {"synonyms": 1, "antonyms": 2}
    assert facts["synonyms"]["mean_cosine_after"] == pytest.approx(found.cosine(0, 1), abs=1e-6)
    assert facts["settings"]["steps"] == 20
    make(tmp_path / "again", sources, dataset=None, limit=None, seed=1)
    for name in ("vectors.safetensors", "words.txt", "facts.json"):
        assert (target / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("name", ["vocabulary.txt", "wordnet_antonyms.txt"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    (sources["counterfit-constraints"] / name).unlink()
    with pytest.raises(MissingFileError, match=name) as caught:
        make(tmp_path / "made", sources, dataset=None, limit=None, seed=0)
    assert "harness fetch counterfit-constraints" in caught.value.hint
    assert not (tmp_path / "made").exists()


def test_a_line_that_is_no_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("a b\n\nc\n")
    with pytest.raises(DataError, match="has 1 words"):
        read_pairs(path)
    path.write_bytes(b"a \xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_pairs(path)


def test_real_constraints(shared_data: Path) -> None:
    """A frequent part of GloVe: antonyms go apart, synonyms together, and both judges of similarity agree more."""
    from scipy.stats import spearmanr

    lexical = shared_data / "lexical"
    folder = lexical / "counterfit_constraints"
    everything = load_vectors(lexical)
    vocabulary = set((folder / "vocabulary.txt").read_text().split())
    rows = [row for row, word in enumerate(everything.words) if word in vocabulary][:12_000]
    before = WordVectors([everything.words[row] for row in rows], everything.matrix[rows])
    synonyms = read_pairs(folder / "ppdb_synonyms.txt")
    antonyms = read_pairs(folder / "ppdb_antonyms.txt") + read_pairs(folder / "wordnet_antonyms.txt")
    after = counterfit(before, synonyms, antonyms)

    def cosines(space: WordVectors, pairs: Pairs) -> np.ndarray[Any, Any]:
        known = {(a, b) for a, b in pairs if a in space.index and b in space.index and a != b}
        return np.array([space.cosine(space.index[a], space.index[b]) for a, b in sorted(known)])

    assert cosines(after, antonyms).mean() < cosines(before, antonyms).mean() - 0.3
    assert cosines(after, synonyms).mean() > cosines(before, synonyms).mean() + 0.2

    lines = [line.split("\t") for line in (folder / "SimLex-999.txt").read_text().splitlines()[1:]]
    judged = [line for line in lines if line[0] in before.index and line[1] in before.index]
    gold = [float(line[3]) for line in judged]

    def simlex(space: WordVectors) -> float:
        said = [space.cosine(space.index[a], space.index[b]) for a, b, *_ in judged]
        return float(spearmanr(said, gold).statistic)

    assert len(judged) > 700
    assert simlex(after) > simlex(before) + 0.08

    table = NeighbourTable.load(lexical)

    def shared_neighbours(space: WordVectors) -> float:
        shares = []
        for number, word in enumerate(table.words[:1500]):
            theirs = {table.words[i] for i in table.neighbours[number]} & space.index.keys()
            if theirs and word in space.index:
                ours = {space.words[i] for i in space.nearest(space.index[word], len(theirs))}
                shares.append(len(ours & theirs) / len(theirs))
        return float(np.mean(shares))

    assert shared_neighbours(after) > 1.7 * shared_neighbours(before)
