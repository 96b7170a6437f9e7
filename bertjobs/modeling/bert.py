"""Define the BERT encoder, with Hugging Face's parameter names.

Shape suffixes: N: tokens of the batch, padding included. B: rows. K: tokens that are selected. D: hidden
size. F: intermediate size. I, O: inputs and outputs of a linear layer.

All linear layers run over the N tokens at once; only attention knows which tokens belong together.

Source: Devlin et al. 2019 (BERT), section 3; post-norm blocks as in Vaswani et al. 2017, section 3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.cpu.dropout import DropoutPool, HiddenMask, TokenMasks
from bertjobs.modeling.cpu.kernels import add_norm, attend, attend_packed, look_up, packs, project
from bertjobs.modeling.inputs import AttentionLayout, GroupedLayout, ModelInputs, PackedLayout


class BertModel(nn.Module):
    """Embeddings, encoder and pooler: `BertModel` of `transformers`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = _named(dense=nn.Linear(config.hidden_size, config.hidden_size))
        self._dropout: DropoutPool | None = None

    def set_dropout(self, pool: DropoutPool | None) -> None:
        """Use this pool's masks while in training mode. Evaluation mode drops nothing."""
        self._dropout = pool

    def write_gradients(self) -> None:
        """Add gradients of weights directly to `.grad` where it is set, which saves a pass over each.

        For an optimizer that keeps `.grad` allocated and sums over ranks itself. Autograd hooks on these
        parameters, and so DDP's reducer, no longer see their gradients.
        """
        for module in self.modules():
            # Not the embeddings: in fine-tuning the word table has a sparse gradient of its own.
            if isinstance(module, Linear):
                module.writes_gradients = True

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Return the last hidden states (N, D), in the order of the inputs."""
        layout = self._layout(inputs)
        return layout.restore(self._encode(inputs, layout, self._masks(inputs, layout), first_only=False))

    def first_tokens(self, inputs: ModelInputs) -> Tensor:
        """Return the last hidden states of each row's first token (B, D), in the order of the groups.

        The last layer computes nothing that only other tokens' results need.
        """
        layout = self._layout(inputs)
        return self._encode(inputs, layout, self._masks(inputs, layout), first_only=True)

    def hidden_at(self, inputs: ModelInputs, places_K: Tensor) -> Tensor:
        """Return the last hidden states (K, D) at these indices in N.

        Of the last layer, all that follows attention is computed for these tokens only.
        """
        layout = self._layout(inputs)
        # The caller's places, in the encoder's own order of tokens.
        masks, kept_K = self._masks(inputs, layout), layout.find(places_K)
        return self._encode(inputs, layout, masks, first_only=False, kept_K=kept_K)

    def pooled(self, inputs: ModelInputs) -> tuple[Tensor, TokenMasks | None]:
        """Return tanh(W h + b) of each row's first token, (B, D), and this pass's masks.

        The last layer computes nothing that only other tokens' results need.
        """
        layout = self._layout(inputs)
        masks = self._masks(inputs, layout)
        return self.pool(self._encode(inputs, layout, masks, first_only=True)), masks

    def pool(self, first_BD: Tensor) -> Tensor:
        """Return tanh(W h + b) of the last hidden states of first tokens."""
        return torch.tanh(self.pooler["dense"](first_BD))

    def _encode(
        self,
        inputs: ModelInputs,
        layout: AttentionLayout,
        masks: TokenMasks | None,
        *,
        first_only: bool,
        kept_K: Tensor | None = None,
    ) -> Tensor:
        hidden_ND = self.embeddings(inputs, order_N=layout.order_N, mask=masks.hidden(0) if masks else None)
        return self.encoder(hidden_ND, layout=layout, masks=masks, first_only=first_only, kept_K=kept_K)

    def _layout(self, inputs: ModelInputs) -> AttentionLayout:
        drops_attention = self.training and self.config.attention_probs_dropout_prob > 0
        # The packed kernel has no dropout on probabilities; with it, tokens go padded in groups.
        if not drops_attention and packs(inputs.ids_N.device, head_size=self.config.head_size):
            return PackedLayout(inputs)
        return GroupedLayout(inputs, num_heads=self.config.num_attention_heads)

    def _masks(self, inputs: ModelInputs, layout: AttentionLayout) -> TokenMasks | None:
        if not self.training or self._dropout is None:
            return None
        assert inputs.row_keys_B is not None, (
            "dropout needs row_keys_B: the masks of a row are a function of its key"
        )
        return TokenMasks(
            self._dropout,
            row_keys_B=inputs.row_keys_B,
            rows_N=layout.rows_N,
            # In the encoder's order, like everything that these masks multiply.
            positions_N=inputs.positions_N[layout.order_N],
        )


class Embeddings(nn.Module):
    """The sum of word, position and segment embeddings, then LayerNorm, which d2l's model does not have."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.writes_gradients = False
        self.LayerNorm = None
        if config.embedding_layer_norm:
            self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, inputs: ModelInputs, *, order_N: Tensor, mask: HiddenMask | None) -> Tensor:
        words_ND = self._look_up(self.word_embeddings, inputs.ids_N[order_N])
        segments_ND = self.token_type_embeddings(inputs.segments_N[order_N])
        positions_ND = self._look_up(self.position_embeddings, inputs.positions_N[order_N])
        # d2l's model neither normalises nor drops the sum.
        if self.LayerNorm is None:
            return words_ND + segments_ND + positions_ND
        hidden_ND = self.LayerNorm(words_ND + segments_ND + positions_ND)
        return hidden_ND if mask is None else hidden_ND * mask.of(hidden_ND)

    def _look_up(self, table: nn.Embedding, ids_N: Tensor) -> Tensor:
        return look_up(ids_N, table.weight, write_gradients=True) if self.writes_gradients else table(ids_N)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, index=i) for i in range(config.num_hidden_layers))
        self.recomputes = False
        """Activation checkpointing: keep only the layers' inputs, recompute the rest in the backward pass."""

    def forward(
        self,
        hidden_ND: Tensor,
        *,
        layout: AttentionLayout,
        masks: TokenMasks | None,
        first_only: bool,
        kept_K: Tensor | None,
    ) -> Tensor:
        # Only the last layer may leave tokens out: the output of a lower one is read by attention over all.
        *lower, last = self.layer
        for layer in lower:
            hidden_ND = self._run(layer, hidden_ND, layout=layout, masks=masks)
        return self._run(last, hidden_ND, layout=layout, masks=masks, first_only=first_only, kept_K=kept_K)

    def _run(self, layer: nn.Module, hidden_ND: Tensor, **given: Any) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            # Dropout masks are functions of the step, so there is no random state to preserve.
            return checkpoint(layer, hidden_ND, use_reentrant=False, preserve_rng_state=False, **given)
        return layer(hidden_ND, **given)


class Layer(nn.Module):
    """Attention, then the feed-forward network, each followed by the residual sum and LayerNorm."""

    def __init__(self, config: BertConfig, *, index: int) -> None:
        super().__init__()
        D, F, eps = config.hidden_size, config.intermediate_size, config.layer_norm_eps
        # Hugging Face's names: `attention.self.query.weight`, `attention.output.dense.weight`, ...
        self.attention = _named(
            self=_named(query=Linear(D, D), key=Linear(D, D), value=Linear(D, D)),
            output=_named(dense=Linear(D, D), LayerNorm=nn.LayerNorm(D, eps=eps)),
        )
        self.intermediate = _named(dense=Linear(D, F))
        self.output = _named(dense=Linear(F, D), LayerNorm=nn.LayerNorm(D, eps=eps))
        self._activation = activation_of(config.hidden_act)
        self._num_heads = config.num_attention_heads
        self._index = index

    def forward(
        self,
        hidden_ND: Tensor,
        *,
        layout: AttentionLayout,
        masks: TokenMasks | None,
        first_only: bool = False,
        kept_K: Tensor | None = None,
    ) -> Tensor:
        """Return the output for all tokens (N, D), for each row's first token, or for the selected tokens."""
        context_ND = self._attend(hidden_ND, layout=layout, masks=masks, first_only=first_only)
        # With first_only the context is (B, D) already, and the residual takes the same rows.
        residual_ND = hidden_ND[layout.cls_B] if first_only else hidden_ND
        if kept_K is not None:
            # Nothing after attention mixes tokens, so the others are not computed.
            context_ND, residual_ND = context_ND.index_select(0, kept_K), residual_ND.index_select(0, kept_K)
            masks = masks.at(kept_K) if masks else None
        # Two sites per layer, so that no two masks of a pass are the same.
        attention_mask = output_mask = None
        if masks:  # site 0 is the embeddings
            attention_mask = masks.hidden(1 + 2 * self._index, first_only=first_only)
            output_mask = masks.hidden(2 + 2 * self._index, first_only=first_only)
        hidden_ND = _add_and_norm(self.attention["output"], context_ND, residual_ND, mask=attention_mask)
        inner_NF = self._activation(self.intermediate["dense"](hidden_ND))
        return _add_and_norm(self.output, inner_NF, hidden_ND, mask=output_mask)

    def _attend(
        self, hidden_ND: Tensor, *, layout: AttentionLayout, masks: TokenMasks | None, first_only: bool
    ) -> Tensor:
        query, key, value = (self.attention["self"][name] for name in ("query", "key", "value"))
        # Cast once for all three projections.
        hidden_ND = in_autocast_dtype(hidden_ND)
        if first_only:
            # Queries of the B first tokens, keys and values of all N.
            q_ND, (k_ND, v_ND) = query(hidden_ND[layout.cls_B]), _project_all(hidden_ND, key, value)
        else:
            q_ND, k_ND, v_ND = _project_all(hidden_ND, query, key, value)
        heads = self._num_heads
        if isinstance(layout, PackedLayout):
            return attend_packed(q_ND, k_ND, v_ND, layout=layout, num_heads=heads, first_only=first_only)
        mask = masks.attention(self._index) if masks else None
        return attend(q_ND, k_ND, v_ND, layout=layout, mask=mask, num_heads=heads, first_only=first_only)


class Linear(nn.Linear):
    """A linear layer in the autocast dtype, whose weight gradients may be added directly to `.grad`."""

    writes_gradients = False

    def forward(self, x_NI: Tensor) -> Tensor:
        (y_NO,) = _project_all(in_autocast_dtype(x_NI), self)
        return y_NO


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


def _project_all(x_NI: Tensor, *layers: Linear) -> tuple[Tensor, ...]:
    """Apply layers to one input; the gradients of the input are summed inside the matrix products."""
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    return project(x_NI, *parameters, write_gradients=layers[0].writes_gradients)


def _add_and_norm(block: Any, branch: Tensor, residual_ND: Tensor, *, mask: HiddenMask | None) -> Tensor:
    """Project a branch to D, add it to the residual stream, and normalise."""
    norm = block["LayerNorm"]
    branch_ND = block["dense"](branch)
    return add_norm(branch_ND, residual_ND, weight_D=norm.weight, bias_D=norm.bias, eps=norm.eps, mask=mask)


def _named(**modules: nn.Module) -> Any:
    """Group modules under Hugging Face's names; `Any`, since a ModuleDict's members have no static type."""
    return nn.ModuleDict(modules)


def in_autocast_dtype(x: Tensor) -> Tensor:
    """Return x in autocast's dtype for matrix products."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
