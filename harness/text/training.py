"""Fine-tune an encoder into a victim, or train a word CNN or LSTM from scratch."""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import ConfigurationError, DataError
from harness.core.files import cache_folder, disk_errors, hash_json, write_json
from harness.core.progress import Progress
from harness.core.runs import Run
from harness.text.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, save_adapter, with_adapter
from harness.text.architectures import WORD_ENCODERS
from harness.text.datasets import TextDataset, available_splits, load_dataset, source_key
from harness.text.encoding import encode_texts
from harness.text.seen_texts import SEEN_FILE, save_seen
from harness.text.sources import victim_pointer
from harness.text.starting_points import encoder_name, load_starting_point, pretrained_classifier
from harness.text.victims import Victim, token_limit
from harness.text.word_vocabulary import StartVectors

VICTIM_FACTS = "victim.json"
VICTIM_FILES = ["model.safetensors", "config.json", "tokenizer.json", SEEN_FILE, VICTIM_FACTS]
ADAPTER_FILES = [ADAPTER_WEIGHTS, ADAPTER_CONFIG, "config.json", SEEN_FILE, VICTIM_FACTS]


@dataclass(frozen=True)
class TrainingSettings:
    """How a victim is trained: AdamW, linear warm-up over a tenth of the steps, then linear decay to 0.

    The defaults are those for fine-tuning; see `training_settings` for each encoder's.
    """

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 5e-5
    weight_decay: float = 0.01
    max_length: int = 256
    seed: int = 0


# From scratch it takes larger steps, and more of them; so do the few weights of an adapter.
_WORD_SETTINGS = _ADAPTER_SETTINGS = TrainingSettings(epochs=3, learning_rate=1e-3)


def training_settings(encoder: str, *, adapter: bool = False, **given: Any) -> TrainingSettings:
    """The settings for an encoder.

    Args:
        encoder: As in `train_victim`.
        adapter: Whether an adapter of it is trained.
        **given: Fields of `TrainingSettings`; None means the default of this encoder.
    """
    usual = _WORD_SETTINGS if encoder in WORD_ENCODERS else _ADAPTER_SETTINGS if adapter else TrainingSettings()
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class TrainingData:
    """Training rows and held-out rows that share no source text."""

    train: TextDataset
    heldout: TextDataset
    heldout_split: str


def training_data(
    spec: str,
    limit: int | None,
    seed: int,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
) -> TrainingData:
    """Load the rows to train on and the rows to measure accuracy on.

    The held-out rows are the `validation` split where there is one, else a tenth of `train`. Rows whose text
    is also held out are dropped from training.

    Raises:
        DataError: Fewer than two classes are left to train on.
    """
    columns: dict[str, Any] = {"text_column": text_column, "label_column": label_column}
    train = load_dataset(spec, "train", **columns)
    if "validation" in available_splits(spec):
        heldout, name = load_dataset(spec, "validation", **columns), "validation"
    else:
        order = np.random.default_rng(seed).permutation(len(train))
        cut = max(1, len(train) // 10)
        heldout, name = train.take(np.sort(order[:cut])), "train (a tenth, not trained on)"
    unseen = {source_key(text) for text in heldout.texts}
    keep = np.array([i for i, text in enumerate(train.texts) if source_key(text) not in unseen], dtype=np.int64)
    train = train.take(keep).sample(limit, seed)
    if len(np.unique(train.labels)) < 2:
        raise DataError(
            f"the {len(train)} training rows of {train.name!r} hold fewer than two classes.",
            "Raise --limit, or check the label column.",
        )
    return TrainingData(train, heldout, name)


def train_victim(
    encoder: str,
    data: TrainingData,
    settings: TrainingSettings,
    run: Run,
    *,
    vectors: StartVectors | None = None,
    adapter_rank: int | None = None,
) -> dict[str, Any]:
    """Train `encoder` on `data` and keep it, with its held-out accuracy, in the folder of `run`.

    Args:
        encoder: What to fine-tune: a hub id, a folder, or `embedded`; or what to train from scratch: `wordcnn` or
            `lstm`.
        data: What to train and measure on.
        settings: How to train.
        run: An open run; its folder becomes a loadable victim.
        vectors: Word vectors that `wordcnn` and `lstm` start from; without them they start from random ones.
        adapter_rank: Train and keep an adapter of this rank (`harness.text.adapters`); None trains all weights.

    Returns:
        The facts of `victim.json`: accuracy with a 95 % Wilson interval, counts, settings.
    """
    import torch
    from scipy.stats import binomtest

    _seed_everything(settings.seed)
    classes = max(data.train.num_classes, data.heldout.num_classes)
    names = data.train.label_names or [f"LABEL_{index}" for index in range(classes)]
    if adapter_rank is None:
        model, tokenizer = load_starting_point(encoder, names, data.train.texts, vectors)
    elif encoder in WORD_ENCODERS or vectors:
        raise ConfigurationError(
            "an adapter is one of a pretrained encoder, without word vectors.", "Leave out --adapter-rank."
        )
    else:
        model, tokenizer = _adaptable(encoder, names, adapter_rank)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    rest = [p for p in trained if p.ndim <= 1]  # biases and norms are not decayed
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        fused=True,
    )
    steps = settings.epochs * math.ceil(len(data.train) / settings.batch_size)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
    )
    longest = min(settings.max_length, token_limit(model.config, tokenizer))
    encoded = encode_texts(tokenizer, model.config, data.train.texts, longest)
    lengths = np.array([len(ids) for ids in encoded["input_ids"]])
    truncated = sum(bool(encoding.overflowing) for encoding in encoded.encodings)
    generator = np.random.default_rng(settings.seed)
    with Progress("training the victim", total=steps, unit="step") as bar:
        for _ in range(settings.epochs):
            for rows in _batches(lengths, settings.batch_size, generator):
                batch = tokenizer.pad(
                    {key: [encoded[key][row] for row in rows] for key in encoded}, return_tensors="pt"
                ).to(device)
                loss = model(**batch, labels=torch.as_tensor(data.train.labels[rows], device=device)).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                bar.advance(note=f"loss {loss.item():.3f}")
    with disk_errors(run.folder), tempfile.TemporaryDirectory(dir=run.folder, prefix=".saving-") as staged:
        if adapter_rank is None:
            model.eval().save_pretrained(staged, safe_serialization=True)
            tokenizer.save_pretrained(staged)
        else:
            _save_adapter(model, Path(staged), encoder)
        save_seen(Path(staged), data.train.texts)
        for file in Path(staged).iterdir():
            file.replace(run.path(file.name))
    # As it was written: an adapter is rounded and merged.
    victim = Victim.load(str(run.folder.resolve()))
    outputs = victim.read(data.heldout.texts)
    correct = int((outputs.predictions == data.heldout.labels).sum())
    interval = binomtest(correct, len(data.heldout)).proportion_ci(0.95, method="wilson")
    facts: dict[str, Any] = {
        "encoder": encoder_name(encoder),
        "dataset": data.train.name,
        "dataset_hash": data.train.hash,
        "train_rows": len(data.train),
        "train_rows_truncated": truncated,
        "heldout_split": data.heldout_split,
        "heldout_rows": len(data.heldout),
        "heldout_hash": data.heldout.hash,
        "accuracy": correct / len(data.heldout),
        "accuracy_low": float(interval.low),
        "accuracy_high": float(interval.high),
        "settings": asdict(settings),
        "victim_hash": victim.hash,
    }
    write_json(run.path(VICTIM_FACTS), facts)
    return facts


def _adaptable(encoder: str, label_names: Sequence[str], rank: int) -> tuple[Any, Any]:
    """A classifier and its tokenizer; the head and what is not pretrained are trained whole, the rest by an adapter."""
    model, tokenizer, new = pretrained_classifier(encoder, label_names)
    inside = f"{model.base_model_prefix}."
    whole = [name for name, _ in model.named_parameters() if name in new or not name.startswith(inside)]
    with_adapter(model, rank, whole)
    return model, tokenizer


def _save_adapter(model: Any, folder: Path, encoder: str) -> None:
    save_adapter(model, folder, victim_pointer(encoder), task="SEQ_CLS")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def embedded_victim_folder() -> Path:
    """The embedded default victim, fine-tuned on first use and kept in the user's cache folder.

    Texts and encoder come from the extra `demo`.
    """
    import filelock

    settings = TrainingSettings(learning_rate=1e-4)
    key = {"encoder": "embedded", "dataset": "embedded", "limit": 2000, **asdict(settings)}
    folder = cache_folder("victims", f"embedded-{hash_json(key)[:12]}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two first uses at once: the second waits for the first one's victim.
    with filelock.FileLock(f"{folder}.lock"):
        run = Run(folder, "victim train", key)
        if not run.finished:
            data = training_data("embedded", key["limit"], settings.seed)
            with run:
                facts = train_victim("embedded", data, settings, run)
                run.finish(VICTIM_FILES, accuracy=facts["accuracy"])
    return folder


def _batches(lengths: NDArray[np.int64], size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Batches of similar length in random order: padding stays small, the order stays random."""
    order = generator.permutation(len(lengths))
    pool = size * 50
    batches = []
    for start in range(0, len(order), pool):
        window = order[start : start + pool]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    for position in generator.permutation(len(batches)):
        yield batches[position]


def _seed_everything(seed: int) -> None:
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (libraries below use the global generator)
    torch.manual_seed(seed)
