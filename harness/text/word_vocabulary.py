"""What a word CNN or LSTM starts from: a vocabulary of whole words, and word vectors where the user has some."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.compat import prepare_torchvision
from harness.core.errors import DataError, MissingFileError
from harness.core.files import hash_strings

PAD, UNKNOWN = "[PAD]", "[UNK]"
# The most frequent words of the training texts, among those that occur twice: the others train the unknown word.
TRAINING_WORDS = 30_000
MIN_OCCURRENCES = 2
# With vectors, their words come after, so that a synonym that no training text has is read as itself.
ALL_WORDS = 120_000
MAX_LENGTH = 512


@dataclass(frozen=True)
class StartVectors:
    """Word vectors to start training from.

    Attributes:
        words: n words, the most frequent first.
        matrix: (n, d) float32.
    """

    words: Sequence[str]
    matrix: NDArray[np.float32]

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of words and numbers."""
        digest = hashlib.sha256(hash_strings(self.words).encode())
        digest.update(np.ascontiguousarray(self.matrix, dtype="<f4").tobytes())
        return digest.hexdigest()


def read_start_vectors(path: Path) -> StartVectors:
    """Read word vectors from a NumPy archive.

    Args:
        path: An .npz file with `words`, one string with a word a line, and `vectors`, (n, d) numbers; or a folder
            with one such file.

    Raises:
        MissingFileError: There is no such file.
        DataError: It is not such an archive, or holds numbers that are not finite.
    """
    path = Path(path).expanduser()
    archives = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    if len(archives) != 1 or not archives[0].is_file():
        raise MissingFileError(
            f"there are no word vectors in {path}.", "Give an .npz file, or a folder that holds one, as --vectors."
        )
    try:
        with np.load(archives[0], allow_pickle=False) as archive:
            words = str(archive["words"]).split("\n")
            matrix = np.asarray(archive["vectors"], dtype=np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archives[0]} holds no word vectors: {error}.",
            "It needs `words`, one string with a word a line, and `vectors`, one row a word.",
        ) from error
    if matrix.ndim != 2 or len(words) != len(matrix) or not matrix.size:
        raise DataError(f"{archives[0]} has {len(words)} words for vectors of shape {matrix.shape}.")
    if not np.isfinite(matrix).all():
        raise DataError(f"{archives[0]} holds vectors with numbers that are not finite.")
    return StartVectors(words, matrix)


def word_tokenizer(texts: Sequence[str], vectors: StartVectors | None = None) -> Any:
    """A fast tokenizer into lower-case words: runs of characters between white space, each punctuation mark alone.

    Args:
        texts: Training texts; their words make the vocabulary.
        vectors: Their words join it.

    Returns:
        A `PreTrainedTokenizerFast`; it adds no special tokens, so an empty text has none.
    """
    prepare_torchvision()
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers  # type: ignore[import-untyped]
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(
        vocab_size=TRAINING_WORDS + 2,
        min_frequency=MIN_OCCURRENCES,
        special_tokens=[PAD, UNKNOWN],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    vocabulary = backend.get_vocab()

    def whole(word: str) -> bool:
        parts = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(word))
        return len(parts) == 1 and parts[0][0] == word

    for word in vectors.words if vectors else ():
        if len(vocabulary) >= ALL_WORDS + 2:
            break
        # What the tokenizer would split, such as "u.s.", it never looks up.
        if word not in vocabulary and whole(word):
            vocabulary[word] = len(vocabulary)
    backend.model = models.WordLevel(vocabulary, unk_token=UNKNOWN)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def new_word_classifier(
    encoder: str, texts: Sequence[str], label_names: Sequence[str], vectors: StartVectors | None = None
) -> tuple[Any, Any]:
    """An untrained word CNN or LSTM and its tokenizer; PyTorch's random generator decides its weights.

    Args:
        encoder: "wordcnn" or "lstm".
        texts: Training texts, for the vocabulary.
        label_names: The classes.
        vectors: Start of the word vectors, scaled to length 1 as TextAttack does; their dimension becomes the model's.

    Returns:
        (model, tokenizer)
    """
    tokenizer = word_tokenizer(texts, vectors)
    import torch

    from harness.text.word_models import WordCnn, WordCnnConfig, WordLstm, WordLstmConfig

    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    if vectors:
        sizes["embedding_size"] = vectors.matrix.shape[1]
    model: Any = WordCnn(WordCnnConfig(**sizes)) if encoder == "wordcnn" else WordLstm(WordLstmConfig(**sizes))
    if vectors:
        numbers = tokenizer.get_vocab()
        known = [row for row, word in enumerate(vectors.words) if word in numbers and word not in (PAD, UNKNOWN)]
        rows = vectors.matrix[known]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        with torch.no_grad():
            places = torch.as_tensor([numbers[vectors.words[row]] for row in known])
            model.embeddings.weight[places] = torch.as_tensor(rows / np.maximum(lengths, 1e-12))
    return model, tokenizer
