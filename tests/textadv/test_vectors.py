"""Word vectors and neighbour tables, against TextAttack's own embedding and against brute force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.core.errors import ConfigurationError, DataError, MissingFileError
from textadv.vectors import NeighbourTable, WordVectors, embedding, load_vectors, save_vectors

# What a loader that splits on spaces, lines or comments as Python sees them would trip over.
ODD_WORDS = ["#", '"', "a\x85b", "c\u2028d", "e\rf", "1.5", "naïve", "\u200b", "'s"]


def some_vectors(count: int = 200, width: int = 12, seed: int = 0) -> WordVectors:
    matrix = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return WordVectors([f"word{i}" for i in range(count)], matrix)


def textattacks(vectors: WordVectors) -> Any:
    from textadv.runtime import load_textattack

    load_textattack()
    from textattack.shared import WordEmbedding

    # Without a table of neighbours its own search fails: it slices the tuple that `topk` returns.
    exact = vectors.matrix.astype(np.float64)
    nearest = np.argsort(((exact[:, None] - exact) ** 2).sum(-1), axis=1, kind="stable")
    return WordEmbedding(vectors.matrix, dict(vectors.index), dict(enumerate(vectors.words)), nearest)


def by_brute_force(matrix: Any, index: int, topn: int) -> list[int]:
    """Exact for whole numbers: Python's integers."""
    rows = [[int(x) if float(x).is_integer() else float(x) for x in row] for row in matrix]
    distances = [(sum((a - b) ** 2 for a, b in zip(row, rows[index], strict=True)), i) for i, row in enumerate(rows)]
    return [i for _, i in sorted(distances) if i != index][:topn]


@given(
    arrays(np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.integers(-3, 3).map(float)),
    st.data(),
)
@settings(deadline=None, max_examples=150)
def test_neighbours_are_the_nearest_and_ties_go_by_index(matrix: Any, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(matrix) - 1))
    topn = data.draw(st.integers(1, 40))
    vectors = WordVectors([str(i) for i in range(len(matrix))], matrix)
    assert vectors.nearest(index, topn) == by_brute_force(matrix, index, topn)


def test_neighbours_are_exact_where_float32_products_are_not() -> None:
    # Far from the origin |a - b|^2 = |a|^2 - 2ab + |b|^2 has lost every digit that tells these words apart.
    generator = np.random.default_rng(3)
    matrix = (1000 + generator.normal(scale=0.01, size=(300, 20))).astype(np.float32)
    vectors = WordVectors([str(i) for i in range(300)], matrix)
    exact = matrix.astype(np.float64)
    for index in (0, 17, 299):
        order = np.argsort(((exact - exact[index]) ** 2).sum(1), kind="stable")
        assert vectors.nearest(index, 60) == [int(i) for i in order if i != index][:60]


def test_more_neighbours_than_were_first_asked_for() -> None:
    vectors = some_vectors()
    assert len(vectors.nearest(3, 2)) == 2
    assert vectors.nearest(3, 120) == by_brute_force(vectors.matrix, 3, 120)
    assert vectors.nearest(3, 5) == by_brute_force(vectors.matrix, 3, 5)
    assert len(vectors.nearest(3, 10_000)) == 199


def test_distances_and_neighbours_are_textattacks() -> None:
    vectors = some_vectors()
    ours, theirs = embedding(vectors), textattacks(vectors)
    generator = np.random.default_rng(1)
    for a, b in generator.integers(0, 200, (300, 2)).tolist():
        assert ours.get_cos_sim(a, b) == pytest.approx(theirs.get_cos_sim(a, b), abs=1e-6)
        assert ours.get_mse_dist(a, b) == pytest.approx(theirs.get_mse_dist(a, b), rel=1e-6)
        assert ours.get_cos_sim(a, b) == ours.get_cos_sim(b, a)
        assert ours.get_mse_dist(f"word{a}", b) == ours.get_mse_dist(a, f"word{b}")
    for index in range(0, 200, 7):
        assert ours.nearest_neighbours(index, 20) == theirs.nearest_neighbours(index, 20).tolist()
    assert ours.nearest_neighbours("word5", 4) == theirs.nearest_neighbours("word5", 4).tolist()


def test_a_zero_vector_is_similar_to_nothing() -> None:
    vectors = WordVectors(["zero", "one"], np.array([[0, 0], [3, 4]], np.float32))
    ours, theirs = embedding(vectors), textattacks(vectors)
    assert ours.get_cos_sim("zero", "one") == theirs.get_cos_sim("zero", "one") == 0
    assert ours.get_cos_sim("zero", "zero") == theirs.get_cos_sim("zero", "zero") == 0
    assert ours.get_mse_dist("zero", "one") == theirs.get_mse_dist("zero", "one") == 25


def test_unknown_words_are_answered_as_textattack_does() -> None:
    vectors = some_vectors(5)
    ours, theirs = embedding(vectors), textattacks(vectors)
    for each in (ours, theirs):
        assert each["nothing"] is None
        assert each[5] is None
        with pytest.raises(KeyError):
            each.word2index("nothing")
        with pytest.raises(KeyError):
            each.get_cos_sim("nothing", "word1")
        with pytest.raises(KeyError):
            each.nearest_neighbours("nothing", 3)
    np.testing.assert_array_equal(ours["word3"], theirs["word3"])
    assert ours.index2word(ours.word2index("word4")) == "word4"


def test_textattacks_swap_and_constraint_run_on_it() -> None:
    vectors = some_vectors(300, 8)
    ours, theirs = embedding(vectors), textattacks(vectors)
    from textattack.constraints.semantics import WordEmbeddingDistance
    from textattack.shared import AttackedText
    from textattack.transformations import WordSwapEmbedding

    text = AttackedText("Word7 is not word9")
    outcomes = []
    for each in (ours, theirs):
        swapped = WordSwapEmbedding(max_candidates=30, embedding=each)(text)
        constraint = WordEmbeddingDistance(embedding=each, min_cos_sim=0.7)
        outcomes.append([found.text for found in swapped if constraint(found, text)])
    assert outcomes[0] == outcomes[1]
    assert 0 < len(outcomes[0]) < 60


def odd_vectors() -> WordVectors:
    return WordVectors(ODD_WORDS, np.random.default_rng(2).normal(size=(len(ODD_WORDS), 3)).astype(np.float32))


def write_text(folder: Path, vectors: WordVectors) -> None:
    lines = [
        f"{word} {' '.join(map(repr, row.tolist()))}" for word, row in zip(vectors.words, vectors.matrix, strict=True)
    ]
    (folder / "counter-fitted-vectors.txt").write_bytes(("\n".join(lines) + "\n\n").encode())


def write_npz(folder: Path, vectors: WordVectors) -> None:
    np.savez(folder / "glove6B_50d_fp16.npz", words="\n".join(vectors.words), vectors=vectors.matrix)


def write_npy(folder: Path, vectors: WordVectors) -> None:
    import pyarrow
    import pyarrow.parquet

    np.save(folder / "glove_6B_50d_emb.npy", vectors.matrix)
    pyarrow.parquet.write_table(pyarrow.table({"index": list(vectors.words)}), folder / "glove_6B_index.parquet")


WRITERS = [save_vectors, write_text, write_npz, write_npy]


@pytest.mark.parametrize("write", WRITERS)
def test_vectors_are_read_as_they_were_written(write: Any, tmp_path: Path) -> None:
    vectors = odd_vectors()
    write(tmp_path, vectors)
    found = load_vectors(tmp_path)
    assert list(found.words) == ODD_WORDS
    assert found.matrix.dtype == np.float32
    np.testing.assert_array_equal(found.matrix, vectors.matrix)
    assert found.hash == vectors.hash


def test_the_hash_is_of_words_and_numbers() -> None:
    vectors = odd_vectors()
    other = vectors.matrix.copy()
    other[0, 0] = np.nextafter(other[0, 0], 9)
    hashes = {vectors.hash, WordVectors(ODD_WORDS, other).hash, WordVectors(ODD_WORDS[::-1], vectors.matrix).hash}
    assert len(hashes) == 3


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_cut_in_half_is_named(write: Any, tmp_path: Path) -> None:
    write(tmp_path, odd_vectors())
    path = max(tmp_path.iterdir(), key=lambda path: path.stat().st_size if path.suffix != ".parquet" else 0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot be read") as caught:
        load_vectors(tmp_path)
    assert path.name in caught.value.message


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    words = np.array([{"a": 1}], dtype=object)
    np.savez(tmp_path / "glove6B_50d_fp16.npz", words=words, vectors=np.zeros((1, 2)))
    with pytest.raises(DataError, match="cannot be read"):
        load_vectors(tmp_path)


def test_a_folder_without_vectors_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no word vectors") as caught:
        load_vectors(tmp_path)
    assert "counter-fitted-vectors.txt" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "matrix", "complaint"),
    [
        (["a", "b"], np.ones((3, 2), np.float32), "do not go with"),
        (["a", "a"], np.ones((2, 2), np.float32), "stand twice"),
        (["a", "b"], np.array([[1, 2], [np.nan, 0]], np.float32), "not finite"),
        ([], np.ones((0, 2), np.float32), "no word vectors"),
    ],
)
def test_vectors_that_cannot_be_are_refused(words: list[str], matrix: Any, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        WordVectors(words, matrix)


def test_a_word_with_a_newline_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="newline"):
        save_vectors(tmp_path, WordVectors(["a\nb"], np.ones((1, 2), np.float32)))
    assert list(tmp_path.iterdir()) == []


def write_table(folder: Path, table: Any) -> Path:
    (folder / "counterfitted_neighbors.json").write_text(json.dumps(table), encoding="utf-8")
    return folder


def test_a_table_of_neighbours_keeps_its_order(tmp_path: Path) -> None:
    table = {"good": ["nice", "fine", "good", "decent"], "fine": [], "nice": ["good"]}
    found = NeighbourTable.load(write_table(tmp_path, table))
    ours = embedding(found)
    names = [ours.index2word(i) for i in ours.nearest_neighbours(ours.word2index("good"), 10)]
    assert names == ["nice", "fine", "decent"]  # never the word itself
    assert len(ours.nearest_neighbours("good", 2)) == 2
    assert ours.nearest_neighbours("fine", 5) == []
    assert ours.nearest_neighbours("decent", 5) == []  # a neighbour without an entry
    with pytest.raises(KeyError):
        ours.word2index("bad")
    assert found.hash != NeighbourTable.load(write_table(tmp_path, {**table, "nice": ["fine"]})).hash


def test_words_in_a_table_have_no_distance(tmp_path: Path) -> None:
    ours = embedding(NeighbourTable.load(write_table(tmp_path, {"a": ["b"]})))
    for ask in (ours.get_cos_sim, ours.get_mse_dist):
        with pytest.raises(ConfigurationError, match="no vectors"):
            ask("a", "b")
    with pytest.raises(ConfigurationError, match="no vectors"):
        ours["a"]


@pytest.mark.parametrize("table", [["a"], {"a": "b"}, {"a": [1]}, 3])
def test_a_table_of_another_form_is_refused(table: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an object of lists of words"):
        NeighbourTable.load(write_table(tmp_path, table))
    with pytest.raises(MissingFileError):
        NeighbourTable.load(tmp_path / "nowhere")


def test_real_vectors(shared_data: Path) -> None:
    vectors = load_vectors(shared_data / "lexical")
    assert vectors.matrix.shape == (88_555, 50)
    ours = embedding(vectors)
    assert ours.get_cos_sim("good", "better") > ours.get_cos_sim("good", "xbox")
    movie = vectors.index["movie"]
    exact = ((vectors.matrix.astype(np.float64) - vectors.matrix[movie]) ** 2).sum(1)
    assert vectors.nearest(movie, 50) == np.argsort(exact, kind="stable")[1:51].tolist()


def test_real_neighbours(shared_data: Path) -> None:
    path = shared_data / "lexical" / "counterfitted_neighbors.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    ours = embedding(NeighbourTable.load(path.parent))
    from textattack.transformations import WordSwapEmbedding

    swap = WordSwapEmbedding(max_candidates=50, embedding=ours)
    for word in ("movie", "good", "terrible", "br"):
        assert swap._get_replacement_words(word) == raw[word]
