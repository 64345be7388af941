"""The word CNN and word LSTM classifiers, in the form of transformers models.

The architectures are those that TextAttack (Morris et al., EMNLP 2020) attacks beside BERT: a convolutional network
over word vectors (Kim, EMNLP 2014) and a bidirectional LSTM (Hochreiter & Schmidhuber, 1997), both pooled by the
maximum over the text. The code is new and differs on purpose in three things: the words of a text alone decide its
output, never the padding beside it (TextAttack pads to a fixed length and pools over the padding); the LSTM has
dropout too (TextAttack's depth of 1 switches it off); weights are safetensors (TextAttack's are pickles).

As models of transformers they are loaded, saved, hashed and read like every other victim. Import this module only
after `harness.core.compat.prepare_torchvision`, for transformers is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from harness.text.architectures import LSTM, WORD_CNN


class WordCnnConfig(PretrainedConfig):  # type: ignore[misc]
    """Sizes of a word CNN; the defaults are TextAttack's.

    Args:
        vocab_size: Words, padding and the unknown word included.
        embedding_size: Dimension of a word vector.
        filters: Filters of each kernel width.
        kernel_widths: How many words a filter sees at once.
        dropout: Share of word vectors' and pooled features' values that training drops.
        pad_token_id: The padding's number; its vector is 0.
        **common: What all configurations of transformers have, such as `id2label`.
    """

    model_type = WORD_CNN
    num_hidden_layers = 1

    def __init__(
        self,
        vocab_size: int = 30_000,
        embedding_size: int = 200,
        filters: int = 150,
        kernel_widths: Sequence[int] = (3, 4, 5),
        dropout: float = 0.3,
        pad_token_id: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, **common)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.filters = filters
        self.kernel_widths = list(kernel_widths)
        self.dropout = dropout

    @property
    def hidden_size(self) -> int:
        """Dimension of the pooled representation."""
        return self.filters * len(self.kernel_widths)


class WordLstmConfig(PretrainedConfig):  # type: ignore[misc]
    """Sizes of a word LSTM; the defaults are TextAttack's.

    Args:
        vocab_size: Words, padding and the unknown word included.
        embedding_size: Dimension of a word vector.
        hidden_size: Dimension of the pooled representation, half of it a direction.
        depth: LSTM layers on top of each other; only the last one is pooled.
        dropout: Share of word vectors' and pooled features' values that training drops.
        pad_token_id: The padding's number; its vector is 0.
        **common: What all configurations of transformers have, such as `id2label`.
    """

    model_type = LSTM
    num_hidden_layers = 1

    def __init__(
        self,
        vocab_size: int = 30_000,
        embedding_size: int = 200,
        hidden_size: int = 150,
        depth: int = 1,
        dropout: float = 0.3,
        pad_token_id: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, **common)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.depth = depth
        self.dropout = dropout


class WordClassifier(PreTrainedModel):  # type: ignore[misc]
    """Word vectors, an encoder that pools them to one vector a text, and a linear head.

    A subclass gives `pool`. Input is right-padded.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def pool(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """From word vectors to one vector a text.

        Args:
            words: (batch, tokens, embedding_size), 0 at padding; at least one token.
            lengths: (batch,) int64, words of each text; may be 0.

        Returns:
            (batch, hidden_size); what a text's row holds does not depend on `tokens`.
        """
        raise NotImplementedError

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> Any:
        """Classify a batch of texts.

        Args:
            input_ids: (batch, tokens) word numbers; tokens may be 0, where every text is empty.
            attention_mask: (batch, tokens), 1 for words and 0 for the padding after them; by default all are words.
            labels: (batch,) classes; with them the output has the mean cross-entropy as `loss`.
            inputs_embeds: (batch, tokens, embedding_size) word vectors in place of `input_ids`.
            output_hidden_states: Whether to give `hidden_states`: one (batch, 1, d) tensor a layer, pooled over the
                text already. Layer 0 is the mean of the word vectors, layer 1 what the head reads.

        Returns:
            A `SequenceClassifierOutput`.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self.embeddings(input_ids)
        if attention_mask is None:
            attention_mask = torch.ones(inputs_embeds.shape[:2], device=inputs_embeds.device)
        mask = attention_mask.to(inputs_embeds.dtype).unsqueeze(-1)
        words = inputs_embeds * mask
        lengths = attention_mask.long().sum(dim=1)
        if words.shape[1] == 0:
            words = nn.functional.pad(words, (0, 0, 0, 1))
        pooled = self.pool(self.dropout(words), lengths)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        states = None
        if output_hidden_states:
            mean = words.sum(dim=1) / lengths.clamp(min=1).unsqueeze(-1).to(words.dtype)
            states = (mean.unsqueeze(1), pooled.unsqueeze(1))
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=states)

    def get_input_embeddings(self) -> nn.Embedding:
        """The word vectors, whose gradients white-box attacks read."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word vectors."""
        self.embeddings = value

    def _init_weights(self, module: nn.Module) -> None:
        # As TextAttack: unit vectors of random direction for words, PyTorch's own start for the rest.
        if isinstance(module, nn.Embedding):
            with torch.no_grad():
                module.weight.uniform_(-0.25, 0.25)
                module.weight /= module.weight.norm(dim=1, keepdim=True)
                module.weight[self.config.pad_token_id] = 0.0


class WordCnn(WordClassifier):
    """Filters over windows of words, each pooled by its maximum over the text (Kim, EMNLP 2014).

    Only windows inside the text count; one that is shorter than a kernel is seen by it once, with zeros after it.
    """

    config_class: ClassVar[type] = WordCnnConfig

    def __init__(self, config: WordCnnConfig) -> None:
        super().__init__(config)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.filters, width) for width in config.kernel_widths
        )
        self.post_init()

    def pool(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The largest rectified response of each filter: (batch, kernel widths x filters)."""
        missing = max(self.config.kernel_widths) - words.shape[1]
        channels = nn.functional.pad(words.transpose(1, 2), (0, max(0, missing)))
        pooled = []
        for width, convolution in zip(self.config.kernel_widths, self.convolutions, strict=True):
            responses = torch.relu(convolution(channels))
            start = torch.arange(responses.shape[2], device=words.device)
            outside = start > (lengths - width).clamp(min=0).unsqueeze(1)
            # 0 is below every rectified response, and each text has one window at least.
            pooled.append(responses.masked_fill(outside.unsqueeze(1), 0.0).amax(dim=2))
        return torch.cat(pooled, dim=1)


class WordLstm(WordClassifier):
    """A bidirectional LSTM over the words, pooled by the maximum over the text."""

    config_class: ClassVar[type] = WordLstmConfig

    def __init__(self, config: WordLstmConfig) -> None:
        super().__init__(config)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size // 2,
            num_layers=config.depth,
            dropout=config.dropout if config.depth > 1 else 0.0,
            bidirectional=True,
            batch_first=True,
        )
        self.post_init()

    def pool(self, words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The largest value of each unit over the words: (batch, hidden_size). An empty text is read as one 0."""
        packed = pack_padded_sequence(words, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        # cuDNN gives no gradients outside training, and attacks ask for them without dropout.
        slow = words.is_cuda and torch.is_grad_enabled() and not self.training
        with torch.backends.cudnn.flags(enabled=False) if slow else nullcontext():
            states, _ = self.lstm(packed)
        padded, _ = pad_packed_sequence(states, batch_first=True, padding_value=-torch.inf)
        return padded.amax(dim=1)


def register() -> None:
    """Make `AutoConfig` and `AutoModelForSequenceClassification` know the two architectures."""
    for config, model in ((WordCnnConfig, WordCnn), (WordLstmConfig, WordLstm)):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForSequenceClassification.register(config, model, exist_ok=True)
