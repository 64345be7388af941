"""Train a masked language model out of an encoder that has lost its head, or never had one.

The encoder learns through an adapter (`adapters.py`), with BERT's head on top (Devlin et al., NAACL 2019): a dense
layer, GELU, layer norm, and the word embeddings once more as the output layer. Masks are drawn anew for every batch.
What was trained is small, and is kept beside the model that it was merged into.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.compat import prepare_torchvision
from harness.core.devices import bf16_supported, choose_device
from harness.core.errors import ConfigurationError, DataError
from harness.core.files import disk_errors, hash_file, write_json
from harness.core.loading import unloadable
from harness.core.progress import Progress
from harness.text.adapters import merge, read_adapter, save_adapter, with_adapter
from harness.text.datasets import TextDataset, load_dataset
from harness.text.masking import IGNORED, Sequences, cut_sequences, mask_tokens
from harness.text.victims import weights_hash

if TYPE_CHECKING:
    import torch

FACTS, ADAPTER = "facts.json", "adapter"
# The artifact that an adapter is said to be one of.
_ENCODER = "minilm"
# Of BERT's head all but the output layer, which is the word embeddings.
_HEAD = "cls.predictions."


@dataclass(frozen=True)
class MaskedTrainingSettings:
    """How a masked LM is trained: AdamW, linear warm-up over a tenth of the steps, then linear decay to 0.

    Attributes:
        steps: Batches at most; fewer where `epochs` passes over the texts are fewer.
        epochs: Passes over the texts at most.
        batch_size: Sequences in one batch.
        length: Tokens in a sequence, special ones included.
        rank: Of the encoder's adapter.
        learning_rate: Of the adapter.
        head_learning_rate: Of the new head, which has further to go.
        weight_decay: Of all but biases and norms.
        heldout_share: Share of the texts that are not trained on.
        heldout_sequences: Sequences at most on which it is measured.
    """

    steps: int = 1000
    epochs: int = 3
    batch_size: int = 16
    length: int = 128
    rank: int = 32
    learning_rate: float = 2e-3
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    heldout_share: float = 0.05
    heldout_sequences: int = 512


def train_masked_lm(
    target: Path,
    encoder: Path,
    *,
    dataset: str,
    limit: int | None,
    seed: int,
    settings: MaskedTrainingSettings | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Train a masked LM and write it, with its facts, into `target`.

    Args:
        target: The folder to write: model, tokenizer and `facts.json`.
        encoder: A folder with an encoder of the BERT architecture.
        dataset: What `load_dataset` takes; its train split is read.
        limit: Texts to use; None for all.
        seed: What draws texts, masks and new weights.
        settings: How to train.
        device: A torch device; by default CUDA where there is one.

    Returns:
        The facts: data, settings, and accuracy and cross-entropy (nats) at masked tokens of held-out texts,
        beside those of the unigram distribution of the training tokens.

    Raises:
        ConfigurationError: There is no encoder of the BERT architecture.
        DataError: Too few texts.
    """
    import torch

    settings = settings or MaskedTrainingSettings()
    torch.manual_seed(seed)
    model, tokenizer = _load(encoder)
    data = load_dataset(dataset, "train").sample(limit, seed)
    kept, heldout = _hold_out(data, settings.heldout_share, seed)
    sequences = cut_sequences(tokenizer, kept, settings.length, model.config.max_position_embeddings)
    unigram = _unigram(sequences, model.config.vocab_size)
    with torch.no_grad():
        # The head begins as the unigram distribution and need not spend its first steps on learning it.
        model.cls.predictions.bias.copy_(torch.from_numpy(np.log(unigram)))
    model.to(choose_device(device))
    with_adapter(model, settings.rank, [name for name, _ in model.named_parameters() if name.startswith(_HEAD)])
    steps, seen = _train(model, tokenizer, sequences, settings, seed)
    with disk_errors(target):
        (target / ADAPTER).mkdir(parents=True, exist_ok=True)
        save_adapter(model, target / ADAPTER, _ENCODER)
    model, _ = adapted(encoder, target / ADAPTER)
    model.to(choose_device(device))
    # Short sequences, as it was trained on, and texts as long as the model takes.
    lengths = {"short": settings.length, "whole": int(model.config.max_position_embeddings)}
    measured = {
        name: _measure(model, tokenizer, heldout, length, unigram, settings, seed) for name, length in lengths.items()
    }
    facts: dict[str, Any] = {
        "encoder": {path.name: hash_file(path) for path in sorted(encoder.glob("*.safetensors"))},
        "dataset": data.name,
        "dataset_hash": data.hash,
        "rows": len(data),
        "train_texts": len(kept),
        "train_sequences": len(sequences),
        "train_tokens": sum(map(len, sequences.ids)),
        "steps": steps,
        "sequences_seen": seen,
        "dtype": "bf16" if bf16_supported(model.device) else "fp32",
        "seed": seed,
        "settings": asdict(settings),
        "heldout": measured,
        "hash": weights_hash(model, tokenizer),
    }
    save_masked_lm(model, tokenizer, target)
    write_json(target / FACTS, facts)
    return facts


def adapted(encoder: Path, adapter: Path) -> tuple[Any, Any]:
    """The masked LM that an encoder and an adapter of it make, the same weights on every machine.

    Args:
        encoder: A folder with the encoder.
        adapter: A folder `adapter` that `train_masked_lm` wrote.

    Returns:
        (model, tokenizer)

    Raises:
        ConfigurationError: There is no encoder of the BERT architecture.
        DataError: The adapter is not sound.
        VictimError: It does not fit the encoder.
    """
    settings, tensors = read_adapter(adapter)
    model, tokenizer = _load(encoder)
    merge(model, tensors, settings["lora_alpha"] / settings["r"], str(adapter))
    return model.eval(), tokenizer


def save_masked_lm(model: Any, tokenizer: Any, target: Path) -> None:
    """Write a model and its tokenizer, as `MaskedLanguageModel.load` opens them."""
    target.mkdir(parents=True, exist_ok=True)
    with disk_errors(target):
        model.save_pretrained(target, safe_serialization=True)
        tokenizer.save_pretrained(target)


def _load(encoder: Path) -> tuple[Any, Any]:
    prepare_torchvision()
    import transformers
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    verbosity = transformers.logging.get_verbosity()
    # The warning that the head is new is the very thing that is wanted here.
    transformers.logging.set_verbosity_error()
    options = {"trust_remote_code": False, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(encoder, **options)
        if config.model_type != "bert":
            raise ConfigurationError(
                f"a masked LM is made of an encoder of the BERT architecture; {encoder} holds {config.model_type!r}."
            )
        model = AutoModelForMaskedLM.from_pretrained(encoder, config=config, use_safetensors=True, **options)
        tokenizer = AutoTokenizer.from_pretrained(encoder, use_fast=True, **options)
    except ConfigurationError:
        raise
    except Exception as error:  # transformers, safetensors and tokenizers raise errors of their own
        raise ConfigurationError(*unloadable("encoder", "encoder of texts", str(encoder), error, "")) from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    if not tokenizer.is_fast or tokenizer.mask_token_id is None:
        raise ConfigurationError(f"the encoder in {encoder} has no fast tokenizer with a mask token.")
    tokenizer.model_max_length = int(config.max_position_embeddings)
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
    return model, tokenizer


def _hold_out(data: TextDataset, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Texts to train on and texts to measure on; equal texts are on one side, and count once."""
    texts = list(dict.fromkeys(data.texts))
    if len(texts) < 2:
        raise DataError(f"the {len(texts)} texts of {data.name!r} are too few to train on and to hold one out.")
    order = np.random.default_rng(seed).permutation(len(texts))
    cut = max(1, round(len(texts) * share))
    return [texts[i] for i in np.sort(order[cut:])], [texts[i] for i in np.sort(order[:cut])]


def _unigram(sequences: Sequences, vocabulary: int) -> NDArray[np.float32]:
    """(vocabulary,) probabilities of the tokens; one is added to each count, so that none is 0."""
    counts = np.bincount(np.concatenate([ids[1:-1] for ids in sequences.ids]), minlength=vocabulary) + 1.0
    return np.asarray(counts / counts.sum(), dtype=np.float32)


def _train(
    model: Any, tokenizer: Any, sequences: Sequences, settings: MaskedTrainingSettings, seed: int
) -> tuple[int, int]:
    """Train in place; the number of steps, and of sequences in them."""
    import torch

    steps = min(settings.steps, settings.epochs * math.ceil(len(sequences) / settings.batch_size))
    warmup = max(1, steps // 10)
    groups = []
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for of_head, rate in ((True, settings.head_learning_rate), (False, settings.learning_rate)):
        mine = [p for name, p in trained.items() if name.startswith(_HEAD) == of_head]
        groups.append({"params": [p for p in mine if p.ndim > 1], "lr": rate, "weight_decay": settings.weight_decay})
        groups.append({"params": [p for p in mine if p.ndim <= 1], "lr": rate, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / max(1, steps - warmup)))
    )
    generator = np.random.default_rng(seed)
    seen = 0
    # Without dropout, which a budget of about one pass over the texts has no use for: the model stays in eval mode.
    with Progress("training the masked LM", total=steps, unit="step") as bar:
        for rows in _random_batches(sequences, settings.batch_size, steps, generator):
            loss, answers = _masked_loss(model, tokenizer, sequences, rows, generator, bf16=True)
            count = max(1, answers.shape[1])
            if answers.size:
                (loss / count).backward()
                torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            schedule.step()
            seen += len(rows)
            bar.advance(note=f"loss {loss.item() / count:.3f}")
    return steps, seen


def _random_batches(
    sequences: Sequences, size: int, steps: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """`steps` batches, epoch after epoch, each in an order of its own."""
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if not len(order):
            order = generator.permutation(len(sequences))
        yield order[:size]
        order = order[size:]


def _masked_loss(
    model: Any,
    tokenizer: Any,
    sequences: Sequences,
    rows: NDArray[np.int64],
    generator: np.random.Generator,
    *,
    bf16: bool,
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Run one masked batch: the summed cross-entropy (nats) of the k tokens asked, and (2, k) labels and answers."""
    import torch

    padded = tokenizer.pad({"input_ids": [sequences.ids[row] for row in rows]}, return_tensors="np")
    ids, mask = padded["input_ids"], padded["attention_mask"]
    special = (mask == 0) | np.isin(ids, tokenizer.all_special_ids)
    read, labels = mask_tokens(ids, special, tokenizer.mask_token_id, len(tokenizer), generator)
    places = np.arange(ids.shape[1]) + np.array([sequences.starts[row] for row in rows])[:, None]
    places[:, 0] = 0  # the class token stays where it always is
    places = np.minimum(places, model.config.max_position_embeddings - 1)  # of padding
    device = model.device
    asked = torch.from_numpy(labels != IGNORED).to(device)
    gold = torch.from_numpy(labels[labels != IGNORED]).to(device)
    # bf16 products, where the hardware has them, double the tokens that a time pays for; weights stay float32.
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16 and bf16_supported(device)):
        hidden = model.bert(
            input_ids=torch.from_numpy(read).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            position_ids=torch.from_numpy(places).to(device),
        )[0]
        logits = model.cls(hidden[asked])  # the vocabulary's width at the asked tokens only
    loss = torch.nn.functional.cross_entropy(logits.float(), gold, reduction="sum")
    answers = torch.stack([gold, logits.argmax(dim=-1)]).cpu().numpy()
    return loss, answers


def _measure(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    length: int,
    unigram: NDArray[np.float32],
    settings: MaskedTrainingSettings,
    seed: int,
) -> dict[str, Any]:
    """Accuracy and cross-entropy at masked tokens of held-out texts, in sequences of at most `length` tokens."""
    import torch

    sequences = cut_sequences(tokenizer, texts, length, model.config.max_position_embeddings)
    generator = np.random.default_rng(seed)
    # Tokens, not sequences, are what is measured: about as many of them at each length.
    count = max(1, settings.heldout_sequences * settings.length // length)
    chosen = generator.permutation(len(sequences))[:count]
    total, answers = 0.0, [np.empty((2, 0), np.int64)]
    with torch.inference_mode():
        for start in range(0, len(chosen), settings.batch_size):
            rows = chosen[start : start + settings.batch_size]
            loss, pairs = _masked_loss(model, tokenizer, sequences, rows, generator, bf16=False)
            total += loss.item()
            answers.append(pairs)
    gold, predicted = np.concatenate(answers, axis=1)
    if not len(gold):
        raise DataError("the held-out texts are too short to ask for one token of them.", "Use more texts.")
    return {
        "length": length,
        "sequences": len(chosen),
        "tokens": len(gold),
        "accuracy": float((gold == predicted).mean()),
        "cross_entropy": total / len(gold),
        "unigram_accuracy": float((gold == unigram.argmax()).mean()),
        "unigram_cross_entropy": float(-np.log(unigram[gold]).mean()),
    }
