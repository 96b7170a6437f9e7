"""BERT: embeddings, a stack of Transformer layers, a pooler. Standard modules, Hugging Face's names.

    ids, segments, positions (N)
        -> sum of three embeddings, LayerNorm, dropout                      Embeddings
        -> [attention, add & norm, feed-forward, add & norm] per layer      Layer
        -> hidden states (N, D)

This is what CUDA runs, what every other implementation is compared with, and all that a head needs to know.
The tokens of all rows lie one after another without padding. All but attention looks at one token at a time,
so only attention needs to know where a row begins; see `inputs.py`.

Shape suffixes: N: tokens of the batch. B: rows. K: tokens that are selected. D: hidden size. F: intermediate
size. H: heads. E: head size.

Source: Devlin et al. 2019 (BERT), section 3; post-norm layers as in Vaswani et al. 2017, section 3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertjobs.modeling.attention import attend
from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.inputs import ModelInputs


class BertModel(nn.Module):
    """Embeddings, encoder and pooler: `BertModel` of `transformers`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Return the last hidden states (N, D)."""
        return self.encoder(self.embeddings(inputs), inputs)

    def hidden_at(self, inputs: ModelInputs, places_K: Tensor) -> Tensor:
        """Return the last hidden states (K, D) at these indices in N.

        Of the last layer, all that follows attention is computed for these tokens only.
        """
        return self.encoder(self.embeddings(inputs), inputs, places_K)

    def first_tokens(self, inputs: ModelInputs) -> Tensor:
        """Return the last hidden states of each row's first token (B, D)."""
        return self.hidden_at(inputs, inputs.starts_B)

    def pooled(self, inputs: ModelInputs) -> Tensor:
        """Return tanh(W h + b) of each row's first token (B, D)."""
        return self.pooler(self.first_tokens(inputs))


class Embeddings(nn.Module):
    """The sum of word, position and segment embeddings, then LayerNorm and dropout."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, D)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, D)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, D)
        # d2l's model neither normalises nor drops the sum.
        self.LayerNorm = nn.LayerNorm(D, eps=config.layer_norm_eps) if config.embedding_layer_norm else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Return the first layer's input (N, D)."""
        words_ND = self.word_embeddings(inputs.ids_N)
        segments_ND = self.token_type_embeddings(inputs.segments_N)
        sum_ND = words_ND + segments_ND + self.position_embeddings(inputs.positions_N)
        return sum_ND if self.LayerNorm is None else self.dropout(self.LayerNorm(sum_ND))


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.recomputes = False
        """Activation checkpointing: keep only the layers' inputs, recompute the rest in the backward pass."""

    def forward(self, hidden_ND: Tensor, inputs: ModelInputs, places_K: Tensor | None = None) -> Tensor:
        """Return the last layer's output for all tokens (N, D), or at these indices in N only (K, D)."""
        # Only the last layer may leave tokens out: the output of a lower one is read by attention over all.
        *lower, last = self.layer
        for layer in lower:
            hidden_ND = self._run(layer, hidden_ND, inputs)
        return self._run(last, hidden_ND, inputs, places_K)

    def _run(self, layer: nn.Module, *given: Any) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            # Recomputed with the same dropout masks: the random state is kept and put back.
            return checkpoint(layer, *given, use_reentrant=False)
        return layer(*given)


class Layer(nn.Module):
    """Attention, then the feed-forward network, each followed by dropout, the residual sum and LayerNorm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = AddAndNorm(config.intermediate_size, config)

    def forward(self, hidden_ND: Tensor, inputs: ModelInputs, places_K: Tensor | None = None) -> Tensor:
        """Return the output for all tokens (N, D), or at these indices in N only (K, D)."""
        context_ND = self.attention.self(hidden_ND, inputs)
        if places_K is not None:
            # Nothing after attention mixes tokens, so the others need not be computed.
            context_ND, hidden_ND = (x_ND.index_select(0, places_K) for x_ND in (context_ND, hidden_ND))
        hidden_ND = self.attention.output(context_ND, hidden_ND)
        return self.output(self.intermediate(hidden_ND), hidden_ND)


class Attention(nn.Module):
    """The two parts of attention, under Hugging Face's names."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = AddAndNorm(config.hidden_size, config)


class SelfAttention(nn.Module):
    """Project to queries, keys and values, and attend."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.query, self.key, self.value = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.num_heads = config.num_attention_heads
        self.dropout_rate = config.attention_probs_dropout_prob

    def forward(self, hidden_ND: Tensor, inputs: ModelInputs) -> Tensor:
        """Return the context (N, D): for each token and head, a mean of values of its row."""
        N, D = hidden_ND.shape
        # One product instead of three; the three weights stay parameters of their own, under their names.
        layers = (self.query, self.key, self.value)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        qkv_N3HE = F.linear(hidden_ND, weight, bias).view(N, 3, self.num_heads, -1)
        q_NHE, k_NHE, v_NHE = qkv_N3HE.unbind(1)
        dropout = self.dropout_rate if self.training else 0.0
        return attend(q_NHE, k_NHE, v_NHE, inputs=inputs, dropout=dropout).reshape(N, D)


class Intermediate(nn.Module):
    """The first half of the feed-forward network."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation_of(config.hidden_act)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Return the activations (N, F)."""
        return self.activation(self.dense(hidden_ND))


class AddAndNorm(nn.Module):
    """Project a branch to D, drop, add the residual, normalise."""

    def __init__(self, size: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, branch: Tensor, residual_ND: Tensor) -> Tensor:
        """Return LayerNorm(residual + dropout(W branch + b))."""
        # Under autocast the branch is in half precision; the sum, and so the residual stream, is in fp32.
        return self.LayerNorm(residual_ND + self.dropout(self.dense(branch)))


class Pooler(nn.Module):
    """tanh of a linear layer, trained with next-sentence prediction."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_BD: Tensor) -> Tensor:
        """Return tanh(W h + b) of the last hidden states of first tokens."""
        return torch.tanh(self.dense(first_BD))


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation that has this name in a `config.json`."""
    tanh_gelu = partial(F.gelu, approximate="tanh")
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "relu": F.relu,
        "gelu_new": tanh_gelu,
        "gelu_pytorch_tanh": tanh_gelu,
    }
    return activations[name]
