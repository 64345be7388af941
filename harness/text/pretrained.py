"""Language models of transformers by folder or hub id: safetensors only, no remote code, no random heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from harness.core.compat import prepare_torchvision
from harness.core.errors import ConfigurationError, MissingFileError
from harness.core.loading import looks_like_path, unloadable


class Pretrained(NamedTuple):
    """A model and its fast tokenizer, and how messages and rows call it: never a path."""

    name: str
    model: Any
    tokenizer: Any


def load_pretrained(kind: str, head: str, model_class: str, source: str | Path, hint: str) -> Pretrained:
    """Load a language model from a folder, or from the Hugging Face Hub.

    Args:
        kind: What it is to be, such as "masked LM".
        head: What a checkpoint without a trained head lacks, such as "masked-LM head".
        model_class: The class of transformers that opens it.
        source: A folder that `save_pretrained` wrote, with the tokenizer; or a hub id.
        hint: How to get one.

    Raises:
        MissingFileError: There is no such folder.
        ConfigurationError: There is no such model, none in safetensors, one without a trained head, or no tokenizer.
    """
    folder = Path(source).expanduser()
    local = folder.is_dir() or isinstance(source, Path) or looks_like_path(source)
    if local and not (folder / "config.json").is_file():
        raise MissingFileError(f"the folder {folder} holds no {kind}: config.json is missing.", hint)
    origin = str(folder) if local else str(source)
    prepare_torchvision()
    import transformers

    verbosity = transformers.logging.get_verbosity()
    # It would warn of heads that the checkpoint has besides; tensors that are missing are checked below.
    transformers.logging.set_verbosity_error()
    try:
        model, loading = getattr(transformers, model_class).from_pretrained(
            origin,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=local,
            output_loading_info=True,
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            origin, trust_remote_code=False, use_fast=True, local_files_only=local
        )
    except Exception as error:  # transformers, safetensors and tokenizers raise errors of their own
        raise ConfigurationError(*unloadable(kind, kind, origin, error, hint)) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    name = folder.resolve().name if local else origin
    if loading["missing_keys"]:
        raise ConfigurationError(
            f"the model in {origin} has no trained {head} (missing: {', '.join(sorted(loading['missing_keys'])[:3])}).",
            hint,
        )
    return Pretrained(name, model, tokenizer)
