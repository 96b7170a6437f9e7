"""The BERT encoder, with Hugging Face's parameter names.

Legend: N tokens of the batch, padding included; B rows; D hidden size; F intermediate size; H heads.
All linear layers run over the N tokens at once; only attention knows which tokens belong together.

Source: Devlin et al. 2019, "BERT"; post-norm blocks as in Vaswani et al. 2017, section 3.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.dropout import DropoutPool, Mask, TokenMasks
from bertjobs.modeling.inputs import GroupedLayout, Layout, ModelInputs, PackedLayout
from bertjobs.modeling.kernels import add_norm, attend, attend_packed


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

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Return the last hidden states (N, D), in the order of the inputs."""
        hidden_ND, layout, _ = self.encode(inputs)
        return layout.restore(hidden_ND)

    def encode(self, inputs: ModelInputs) -> tuple[Tensor, Layout, TokenMasks | None]:
        """Return the last hidden states in the layout's order, with the layout and the masks of this pass."""
        layout = self._layout(inputs)
        masks = self._masks(inputs, layout)
        hidden_ND = self.embeddings(inputs, order_N=layout.order_N, mask=masks.hidden(0) if masks else None)
        return self.encoder(hidden_ND, layout=layout, masks=masks), layout, masks

    def pool(self, hidden_ND: Tensor, layout: Layout) -> Tensor:
        """Return tanh(W h + b) of each row's first token, (B, D)."""
        return torch.tanh(self.pooler["dense"](hidden_ND[layout.cls_B]))

    def _layout(self, inputs: ModelInputs) -> Layout:
        drops_attention = self.training and self.config.attention_probs_dropout_prob > 0
        is_half = torch.is_autocast_enabled("cuda")
        if inputs.ids_N.is_cuda and is_half and not drops_attention:
            return PackedLayout(inputs)
        return GroupedLayout(inputs)

    def _masks(self, inputs: ModelInputs, layout: Layout) -> TokenMasks | None:
        if not self.training or self._dropout is None:
            return None
        assert inputs.row_keys_B is not None, "dropout needs row_keys_B: what the masks of a row follow from"
        return TokenMasks(
            self._dropout,
            row_keys_N=inputs.row_keys_B[layout.rows_N],
            positions_N=inputs.positions_N[layout.order_N],
        )


class Embeddings(nn.Module):
    """Sum of word, position and segment embeddings, normalised except in d2l's model."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = None
        if config.embedding_layer_norm:
            self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, inputs: ModelInputs, *, order_N: Tensor, mask: Mask | None) -> Tensor:
        words_ND = self.word_embeddings(inputs.ids_N[order_N])
        segments_ND = self.token_type_embeddings(inputs.segments_N[order_N])
        positions_ND = self.position_embeddings(inputs.positions_N[order_N])
        if self.LayerNorm is None:
            return words_ND + segments_ND + positions_ND
        hidden_ND = self.LayerNorm(words_ND + segments_ND + positions_ND)
        return hidden_ND if mask is None else hidden_ND * mask.of(hidden_ND)


class Encoder(nn.Module):
    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, index=i) for i in range(config.num_hidden_layers))

    def forward(self, hidden_ND: Tensor, *, layout: Layout, masks: TokenMasks | None) -> Tensor:
        for layer in self.layer:
            hidden_ND = layer(hidden_ND, layout=layout, masks=masks)
        return hidden_ND


class Layer(nn.Module):
    """One block: attention, then the feed-forward network, each closed by the residual sum and LayerNorm."""

    def __init__(self, config: BertConfig, *, index: int) -> None:
        super().__init__()
        D, eps = config.hidden_size, config.layer_norm_eps
        self.attention = _named(
            self=_named(query=nn.Linear(D, D), key=nn.Linear(D, D), value=nn.Linear(D, D)),
            output=_named(dense=nn.Linear(D, D), LayerNorm=nn.LayerNorm(D, eps=eps)),
        )
        self.intermediate = _named(dense=nn.Linear(D, config.intermediate_size))
        self.output = _named(dense=nn.Linear(config.intermediate_size, D), LayerNorm=nn.LayerNorm(D, eps=eps))
        self._activation = activation_of(config.hidden_act)
        self._num_heads = config.num_attention_heads
        self._index = index

    def forward(self, hidden_ND: Tensor, *, layout: Layout, masks: TokenMasks | None) -> Tensor:
        attention_site, output_site = 1 + 2 * self._index, 2 + 2 * self._index  # site 0 is the embeddings
        context_ND = self._attend(hidden_ND, layout=layout, masks=masks)
        hidden_ND = _close(self.attention["output"], context_ND, hidden_ND, masks, site=attention_site)
        inner_NF = self._activation(self.intermediate["dense"](hidden_ND))
        return _close(self.output, inner_NF, hidden_ND, masks, site=output_site)

    def _attend(self, hidden_ND: Tensor, *, layout: Layout, masks: TokenMasks | None) -> Tensor:
        project = self.attention["self"]
        lowered_ND = _to_autocast_dtype(hidden_ND)  # once, not by each of the three layers
        q_ND, k_ND, v_ND = (project[name](lowered_ND) for name in ("query", "key", "value"))
        if isinstance(layout, PackedLayout):
            return attend_packed(q_ND, k_ND, v_ND, num_heads=self._num_heads, layout=layout)
        mask = masks.attention(self._index) if masks else None
        return attend(q_ND, k_ND, v_ND, num_heads=self._num_heads, layout=layout, mask=mask)


def activation_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return the activation that a `config.json` calls by this name."""
    tanh_gelu = partial(F.gelu, approximate="tanh")
    return {"gelu": F.gelu, "relu": F.relu, "gelu_new": tanh_gelu, "gelu_pytorch_tanh": tanh_gelu}[name]


def _close(
    block: nn.ModuleDict, branch: Tensor, residual_ND: Tensor, masks: TokenMasks | None, *, site: int
) -> Tensor:
    """Project a branch back to D and add it to the residual stream."""
    norm = block["LayerNorm"]
    return add_norm(
        block["dense"](branch),
        residual_ND,
        weight_D=norm.weight,
        bias_D=norm.bias,
        eps=norm.eps,
        mask=masks.hidden(site) if masks else None,
    )


def _named(**modules: nn.Module) -> nn.ModuleDict:
    """Group modules under the names that Hugging Face's checkpoints use."""
    return nn.ModuleDict(modules)


def _to_autocast_dtype(x: Tensor) -> Tensor:
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
