"""The victim: a Hugging Face sequence classifier, read for probabilities and per-layer features."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.compat import prepare_torchvision
from harness.core.devices import choose_device, torch_dtype
from harness.core.errors import ConfigurationError, HarnessError, MissingFileError, VictimError
from harness.core.loading import looks_like_path, unloadable
from harness.core.registry import Registry
from harness.core.weights import hash_weights
from harness.text.adapters import ADAPTER_CONFIG, load_adapter
from harness.text.architectures import (
    ARCHITECTURES,
    architecture_of,
    has_class_token,
    layer_width,
    refuse_textattack_checkpoint,
)
from harness.text.batches import padded_batches
from harness.text.claims import check_claims
from harness.text.encoding import encode_texts, prepare
from harness.text.seen_texts import read_seen
from harness.text.text_dataset import TextDataset

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")
# Each is a function that returns a folder; lazily, for what makes them needs what stands here.
VICTIMS: Registry[Callable[[], Path]] = Registry(
    "victim", lambda _, found: "" if callable(found) else f"{found!r} is no function that returns a folder"
)
VICTIMS.add("embedded", "harness.text.training:embedded_victim_folder", "a small encoder tuned on `embedded`, offline")
for _dataset in ("sst2", "ag_news", "imdb", "mr"):
    VICTIMS.add(
        f"minilm-lora-{_dataset}",
        f"harness.text.tuned:minilm_lora_{_dataset}",
        f"MiniLM with the adapter of this package for {_dataset}, offline",
    )


@dataclass(frozen=True)
class VictimOutputs:
    """What a victim says of n texts.

    Attributes:
        probabilities: (n, classes) float64, rows sum to 1.
        features: Layer number -> (n, d) float32 class representation. Layer 0 is the embedding layer, layer i
            the i-th block, so the last layer of a 12-layer encoder is 12; of an encoder-decoder they are the decoder's.
            The last is what the classification head reads. A word CNN or LSTM has no class token:
            layer 0 is the mean of its word vectors, layer 1 the pooled vector that its head reads, of another d.
        truncated: How many texts were longer than the victim takes.
        logits: (n, classes) float64, before the softmax; None where only probabilities are known.
        texts: The n texts; None where they are not at hand.
    """

    probabilities: NDArray[np.float64]
    features: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    truncated: int = 0
    logits: NDArray[np.float64] | None = None
    texts: tuple[str, ...] | None = None

    @property
    def predictions(self) -> NDArray[np.int64]:
        """(n,) int64, the most probable class."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    def take(self, positions: NDArray[np.int64]) -> VictimOutputs:
        """The outputs of some of the texts."""
        return VictimOutputs(
            self.probabilities[positions],
            {layer: values[positions] for layer, values in self.features.items()},
            logits=None if self.logits is None else self.logits[positions],
            texts=None if self.texts is None else tuple(self.texts[int(i)] for i in positions),
        )


class Victim:
    """A sequence classifier with its tokenizer.

    Inference runs under `torch.inference_mode`, on length-sorted batches that are padded to their own longest
    text. A text longer than `max_length` tokens is truncated, and counted.

    Most architectures have a class token in every layer (`harness.text.architectures` says where). The word CNN and
    word LSTM have none, which `has_class_token` says: they have the layers 0 and 1 of `VictimOutputs.features` and no
    others.

    Args:
        name: How rows and tables call the victim: a hub id or a folder's name, never a path.
        model: A Hugging Face sequence classifier.
        tokenizer: Its fast tokenizer.
        max_length: Tokens a text may have; by default what the model takes.
        batch_size: Texts in one forward.
        dtype: "fp32", or "bf16" where the hardware has it.
        device: A torch device; by default CUDA where there is one.

    Raises:
        VictimError: An unsupported architecture, fewer than two labels, or a slow tokenizer.
        ConfigurationError: bf16 was asked for on hardware without it.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        batch_size: int = 32,
        dtype: str = "fp32",
        device: str | None = None,
    ) -> None:
        self.architecture = architecture_of(model.config)
        _check_classifier(name, model.config)
        if not tokenizer.is_fast:
            raise VictimError(
                f"the victim {name!r} has only a slow tokenizer.", "Save a tokenizer.json beside the model."
            )
        limit = token_limit(model.config, tokenizer)
        if max_length is not None and not 3 <= max_length <= limit:
            raise ConfigurationError(
                f"--max-length {max_length} is outside what the victim takes (3 to {limit} tokens)."
            )
        self.name = name
        self.device = choose_device(device)
        self.max_length = max_length or limit
        self.batch_size = batch_size
        self.dtype = dtype
        self.tokenizer = tokenizer
        prepare(name, model, tokenizer)
        self.hash = weights_hash(model, tokenizer, self.architecture.settings)
        self.model = model.to(device=self.device, dtype=torch_dtype(dtype, self.device)).eval()
        # What was asked so far: texts to run forward and texts to run backward, equal ones each time.
        self.device_seconds = 0.0
        self.forwards = 0
        self.backwards = 0
        # Keys of the texts that trained it, where its folder says.
        self.seen = np.zeros(0, dtype=np.uint64)

    @classmethod
    def load(cls, spec: str, **options: Any) -> Victim:
        """Load a victim by name, or from a folder or the Hugging Face Hub.

        Args:
            spec: A name in `VICTIMS`, a folder, or a hub id such as `textattack/bert-base-uncased-imdb`.
            **options: Passed to the constructor.

        Raises:
            MissingFileError: The folder is not there.
            VictimError: It holds no classifier, or none in safetensors.
        """
        if not spec.strip():
            raise VictimError("no victim was named.", "Give a folder, a hub id, or `embedded`.")
        if spec in VICTIMS:
            return cls._from_pretrained(str(VICTIMS.get(spec)()), spec, **options)
        path = Path(spec).expanduser()
        if path.is_dir():
            victim = cls._from_pretrained(str(path), path.resolve().name, **options)
            victim.seen = read_seen(path)
            return victim
        if looks_like_path(spec):
            raise MissingFileError(f"there is no victim folder {spec}.", "Train one: harness victim train --out DIR.")
        return cls._from_pretrained(spec, spec, **options)

    @classmethod
    def _from_pretrained(cls, source: str, name: str, **options: Any) -> Victim:
        refuse_textattack_checkpoint(source)
        prepare_torchvision()
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        from harness.text import word_models

        word_models.register()
        folder = Path(source)
        if (folder / ADAPTER_CONFIG).is_file():
            return cls(name, *load_adapter(folder), **options)
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise VictimError(f"the folder {source} holds no model: config.json is missing.")
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            architecture_of(config)
            check_claims(name, config)
            _check_classifier(name, config)
            if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
                raise VictimError(
                    f"the folder {source} holds no tokenizer ({' or '.join(_TOKENIZER_FILES)}).",
                    "Save the tokenizer beside the model.",
                )
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                source, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, use_fast=True)
            token_limit(config, tokenizer)  # both say it in numbers
        except HarnessError:
            raise
        except Exception as error:  # transformers, safetensors and tokenizers raise errors of their own
            raise VictimError(
                *unloadable(
                    "victim",
                    "classifier",
                    source,
                    error,
                    "Check the spelling and the network, or train one: harness victim train.",
                )
            ) from error
        if loading["missing_keys"]:
            raise VictimError(
                f"the victim {name!r} has no trained classification head "
                f"(missing: {', '.join(sorted(loading['missing_keys'])[:3])}).",
                "Fine-tune it first: harness victim train --encoder ENCODER --dataset DATASET --out DIR.",
            )
        return cls(name, model, tokenizer, **options)

    @property
    def num_labels(self) -> int:
        """The number of classes."""
        return int(self.model.config.num_labels)

    @property
    def num_layers(self) -> int:
        """The number of blocks, an encoder-decoder's in its decoder; the last layer's number."""
        return int(getattr(self.model.config, self.architecture.layers))

    @property
    def has_class_token(self) -> bool:
        """Whether a layer's representation is a class token's; a word CNN or LSTM has none in any layer."""
        return has_class_token(self.model.config.model_type)

    def width(self, layer: int) -> int:
        """The dimension of a layer's representation (0 = embeddings, -1 = last)."""
        return layer_width(self.model.config, self.layer(layer))

    @cached_property
    def label_names(self) -> list[str]:
        """The class names of the model's configuration, in order."""
        names = self.model.config.id2label
        return [str(names[index]) for index in range(self.num_labels)]

    def with_own_labels(self, dataset: TextDataset) -> TextDataset:
        """The dataset with this victim's class numbers, where both call their classes by the same names.

        Names in a file are numbered by the alphabet, which the victim's need not be. Where none is one of the
        victim's (`neg` and `NEGATIVE`, `LABEL_0`) or all are numbers, the dataset's numbers are taken as they are.

        Raises:
            VictimError: Some names are the victim's, and others are not.
        """
        own = {name.casefold(): number for number, name in enumerate(self.label_names)}
        names = [str(name).casefold() for name in dataset.label_names or ()]
        shared = own.keys() & set(names)
        if all(name.isdigit() for name in shared) or len(own) < self.num_labels or len(set(names)) < len(names):
            return dataset
        if other := [name for name in dataset.label_names or () if str(name).casefold() not in own]:
            raise VictimError(
                f"the classes of {dataset.name!r} don't match the victim: {other[0]!r} is none of its "
                f"{', '.join(self.label_names)}.",
                "Use the dataset that the victim was trained on, or train a victim on this one.",
            )
        numbers = np.array([own[name] for name in names], dtype=np.int64)
        return replace(dataset, labels=numbers[dataset.labels], label_names=list(self.label_names))

    def check_labels(self, labels: NDArray[np.int64], dataset: str) -> None:
        """Refuse labels of a whole split that are not this victim's classes.

        Data of one class alone is taken: it may be a part of something larger.

        Raises:
            VictimError: A label that the victim cannot predict, or classes of the victim that the data lacks.
        """
        highest = int(labels.max(initial=-1))
        lowest = int(labels.min(initial=highest))
        if lowest < highest < self.num_labels - 1:
            raise VictimError(
                f"the labels of {dataset!r} don't match the victim: the data has labels {lowest} to {highest}, "
                f"the victim {self.name!r} knows 0 to {self.num_labels - 1}.",
                "Use the dataset that the victim was trained on, or train a victim on this one.",
            )
        if highest >= self.num_labels:
            raise VictimError(
                f"the labels of {dataset!r} don't match the victim: the data has label {highest}, "
                f"the victim {self.name!r} knows 0 to {self.num_labels - 1}.",
                "Use the dataset that the victim was trained on, or train a victim on this one.",
            )

    def layer(self, layer: int) -> int:
        """Turn a layer number, negative ones counted from the end, into 0..num_layers.

        Raises:
            ConfigurationError: There is no such layer.
        """
        number = layer + self.num_layers + 1 if layer < 0 else layer
        if not 0 <= number <= self.num_layers:
            raise ConfigurationError(
                f"the victim {self.name!r} has no layer {layer}.",
                f"Layers are 0 (embeddings) to {self.num_layers}, or -1 for the last.",
            )
        return number

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        """Encode n > 0 texts as this victim reads them: cut at `max_length`, without padding.

        Args:
            texts: n texts.
            **options: Of the tokenizer, such as `return_offsets_mapping`.

        Returns:
            See `harness.text.encoding.encode_texts`; `padded_batches` makes batches of it.
        """
        return encode_texts(self.tokenizer, self.model.config, texts, self.max_length, **options)

    def count_truncated(self, texts: Sequence[str]) -> int:
        """How many texts are longer than `max_length` tokens and so are read cut."""
        if not texts:
            return 0
        encodings = self.tokenizer(list(texts), truncation=True, max_length=self.max_length).encodings
        return sum(bool(encoding.overflowing) for encoding in encodings)

    def truncation_note(self, truncated: int, texts: int) -> str:
        """What has to be said of texts that were cut; empty when none was."""
        if not truncated:
            return ""
        return f"{truncated} of {texts} texts are longer than {self.max_length} tokens and were cut."

    def read(self, texts: Sequence[str], layers: Sequence[int] = ()) -> VictimOutputs:
        """Run the victim over texts once.

        Args:
            texts: n texts.
            layers: Layers to read the class representation of (0 = embeddings, -1 = last).

        Returns:
            Probabilities, logits and features in the order of `texts`.
        """
        import torch

        numbers = [self.layer(layer) for layer in layers]
        if not texts:
            empty = {n: np.zeros((0, self.width(n)), np.float32) for n in numbers}
            none = np.zeros((0, self.num_labels))
            return VictimOutputs(none, empty, logits=none.copy(), texts=())
        encodings = self.encode(texts)
        truncated = sum(bool(encoding.overflowing) for encoding in encodings.encodings)
        probabilities = np.zeros((len(texts), self.num_labels))
        logits = np.zeros((len(texts), self.num_labels))
        features = {n: np.zeros((len(texts), self.width(n)), np.float32) for n in numbers}
        # Texts that differ behind the cut, or in case to an uncased victim, are read alike, and are run once.
        alike: dict[tuple[int, ...], list[int]] = {}
        for row, ids in enumerate(encodings["input_ids"]):
            alike.setdefault(tuple(ids), []).append(row)
        members = list(alike.values())
        distinct = {key: [encodings[key][rows[0]] for rows in members] for key in encodings}
        started = time.perf_counter()
        with torch.inference_mode():
            for places, padded in padded_batches(self.tokenizer, distinct, self.batch_size):
                rows = np.concatenate([members[place] for place in places])
                copies = np.repeat(np.arange(len(places)), [len(members[place]) for place in places])
                batch = padded.to(self.device)
                output = self.model(**batch, output_hidden_states=bool(numbers))
                said = output.logits.double()
                logits[rows] = said.cpu().numpy()[copies]
                probabilities[rows] = torch.softmax(said, dim=-1).cpu().numpy()[copies]
                for n in numbers:
                    read = self.architecture.representation(self.model, output, batch, n)
                    features[n][rows] = read.float().cpu().numpy()[copies]
        self.device_seconds += time.perf_counter() - started
        self.forwards += len(texts)
        return VictimOutputs(probabilities, features, truncated, logits, tuple(texts))


def _check_classifier(name: str, config: Any) -> None:
    if config.num_labels < 2:
        raise VictimError(
            f"the victim {name!r} has {config.num_labels} label: it is a regressor, not a classifier.",
            "Use a classifier with at least two labels.",
        )


_NO_LIMIT = 10**9


def token_limit(config: Any, tokenizer: Any) -> int:
    """The most tokens, special ones included, that a model and its tokenizer take; 512 where neither says."""
    positions = int(getattr(config, "max_position_embeddings", 0))
    known = ARCHITECTURES.get(config.model_type)
    if known and known.counts_from_padding:
        positions -= max(2, (config.pad_token_id or 0) + 1)
    # XLNet has no table and says -1; a tokenizer that knows no limit says 10^30.
    limits = [n for n in (positions, int(tokenizer.model_max_length)) if 0 < n < _NO_LIMIT]
    return min(limits, default=512)


# Settings that change outputs and that no tensor's shape shows.
_DECIDING_SETTINGS = (
    "model_type",
    "activation",
    "hidden_act",
    "layer_norm_eps",
    "n_heads",
    "num_attention_heads",
    "pad_token_id",
    "position_embedding_type",
    "sinusoidal_pos_embds",
)


def weights_hash(model: Any, tokenizer: Any, more_settings: Sequence[str] = ()) -> str:
    """SHA-256 over what decides the outputs: architecture, every tensor, and the tokenizer.

    Args:
        model: A model of transformers.
        tokenizer: Its fast tokenizer.
        more_settings: Names of settings that decide the outputs of such a model, besides those of classifiers.
    """
    settings = {name: getattr(model.config, name, None) for name in (*_DECIDING_SETTINGS, *more_settings)}
    tokens = json.loads(tokenizer.backend_tokenizer.to_str())
    # Truncation and padding are settings of the last call, not of the tokenizer.
    tokens.pop("truncation", None)
    tokens.pop("padding", None)
    return hash_weights(json.dumps(settings).encode(), model, json.dumps(tokens, sort_keys=True).encode())
