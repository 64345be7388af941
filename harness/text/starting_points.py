"""What a victim's training starts from: a pretrained encoder with a fresh head, or an untrained word model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, HarnessError, MissingFileError, VictimError
from harness.core.files import hash_file, hash_json
from harness.core.loading import looks_like_path, summary
from harness.text.architectures import WORD_ENCODERS, architecture_of
from harness.text.encoding import prepare
from harness.text.word_vocabulary import StartVectors, new_word_classifier

# What of a folder decides where training starts; the last four are a tokenizer's.
_DECIDING_FILES = ("*.safetensors", "config.json", "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt")


def encoder_name(encoder: str) -> str:
    """How an encoder is named in facts and rows: the hub id, or the folder's name without its path."""
    if encoder in WORD_ENCODERS:
        return encoder
    return Path(encoder).resolve().name if Path(encoder).is_dir() else encoder


def encoder_hash(encoder: str) -> str | None:
    """What identifies a pretrained encoder; None for one that is trained from scratch.

    Args:
        encoder: As in `load_starting_point`.

    Returns:
        SHA-256 (hex) over a folder's weights, configuration and tokenizer, or the commit of a repository of the Hub.

    Raises:
        MissingFileError: The folder is not there.
        VictimError: The Hub cannot be reached and the cache does not have it.
    """
    if encoder in WORD_ENCODERS:
        return None
    source = _source(encoder)
    if Path(source).is_dir():
        files = sorted({path for pattern in _DECIDING_FILES for path in Path(source).glob(pattern)})
        return hash_json({path.name: hash_file(path) for path in files})
    prepare_torchvision()
    from transformers import AutoConfig

    try:
        commit: str | None = AutoConfig.from_pretrained(source, trust_remote_code=False)._commit_hash
    except Exception as error:  # transformers and the Hub's client raise errors of their own
        raise _unloadable(encoder, error) from error
    return commit


def load_starting_point(
    encoder: str, label_names: Sequence[str], texts: Sequence[str], vectors: StartVectors | None = None
) -> tuple[Any, Any]:
    """A classifier to train, and its tokenizer. PyTorch's random generator decides the weights that are new.

    Args:
        encoder: What to fine-tune: a hub id, a folder, or `embedded`; or what to train from scratch: `wordcnn` or
            `lstm`. A folder of such a name is given as `./lstm`.
        label_names: The classes.
        texts: Training texts, of which the word models make their vocabulary.
        vectors: Word vectors that the word models start from; without them they start from random ones.

    Returns:
        (model, tokenizer)

    Raises:
        MissingFileError: The folder is not there.
        VictimError: It cannot be loaded, or is of an architecture that is not supported.
        ConfigurationError: Word vectors for an encoder that takes none.
    """
    if encoder in WORD_ENCODERS:
        return new_word_classifier(encoder, texts, label_names, vectors)
    if vectors:
        raise ConfigurationError(
            f"the encoder {encoder!r} takes no word vectors.",
            f"Leave out --vectors, or train one of: {', '.join(sorted(WORD_ENCODERS))}.",
        )
    model, tokenizer, _ = pretrained_classifier(encoder, label_names)
    return model, tokenizer


def pretrained_classifier(encoder: str, label_names: Sequence[str]) -> tuple[Any, Any, list[str]]:
    """A pretrained encoder with a fresh head.

    Args:
        encoder: A hub id, a folder, or `embedded`.
        label_names: The classes.

    Returns:
        (model, tokenizer, names of the tensors that are not pretrained)

    Raises:
        MissingFileError: The folder is not there.
        VictimError: It cannot be loaded, or is of an architecture that is not supported.
    """
    source = _source(encoder)
    prepare_torchvision()
    import transformers
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from harness.text import word_models

    word_models.register()
    verbosity = transformers.logging.get_verbosity()
    # The warning that the head is new is the very thing that is wanted here.
    transformers.logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        architecture_of(config)
        config.num_labels = len(label_names)
        config.id2label = dict(enumerate(label_names))
        config.label2id = {name: index for index, name in enumerate(label_names)}
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            source, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, use_fast=True)
        prepare(encoder_name(encoder), model, tokenizer)
    except HarnessError:
        raise
    except Exception as error:  # transformers, safetensors and tokenizers raise errors of their own
        raise _unloadable(encoder, error) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    return model, tokenizer, sorted(loading["missing_keys"])


def _source(encoder: str) -> str:
    """The folder or hub id behind an encoder's name."""
    if encoder == "embedded":
        from harness.text.embedded import encoder_folder

        return str(encoder_folder())
    if looks_like_path(encoder) and not Path(encoder).is_dir():
        raise MissingFileError(
            f"there is no encoder folder {encoder}.",
            f"Give a folder, a hub id, `embedded`, or one of: {', '.join(sorted(WORD_ENCODERS))}.",
        )
    return encoder


def _unloadable(encoder: str, error: Exception) -> VictimError:
    return VictimError(
        f"the encoder {encoder!r} cannot be loaded: {summary(error)}.",
        "Give a folder with safetensors weights, a hub id, or `embedded`.",
    )
