"""Compute the plain model's modules on a CPU: grouped attention, keyed dropout, gradients written in place.

Each class here takes the place of the plain module that it is derived from: it has no parameters and no
constructor of its own, only another `forward`. `accelerate.py` swaps them.

Shape suffixes: N: tokens of the encoder, the padding of groups included. B: rows. K: tokens that are
selected. D: hidden size. F: intermediate size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertjobs.modeling import bert
from bertjobs.modeling.cpu.dropout import DropoutPool, HiddenMask, TokenMasks
from bertjobs.modeling.cpu.kernels import add_norm, attend, look_up, project
from bertjobs.modeling.cpu.layout import GroupedLayout
from bertjobs.modeling.cpu.lowered import LoweredWeights, project_jointly
from bertjobs.modeling.cpu.packed import PackedLayout
from bertjobs.modeling.cpu.packed_attention import attend_packed
from bertjobs.modeling.inputs import ModelInputs


@dataclass
class CpuState:
    """What the modules of one model share."""

    pool: DropoutPool | None = None
    """Where masks are taken from while training; without one, nothing is dropped."""
    masks: TokenMasks | None = None
    """Those of the last forward pass of the encoder, for the head that follows it."""
    writes_gradients: bool = False
    """Whether gradients of weights are added to `.grad` directly; see `write_gradients`."""
    writes_table: bool = False
    """Whether those of the word and position tables are."""
    lowered: LoweredWeights | None = None
    """The weights in bf16, where an optimizer keeps them in a flat buffer; else each use casts them."""


class Pass(NamedTuple):
    """What one forward pass of the encoder needs beside hidden states."""

    layout: GroupedLayout | PackedLayout
    masks: TokenMasks | None
    kept_K: Tensor | None
    """Of the last layer, the tokens (in the encoder's order) that it computes."""
    first_only: bool
    """Whether the last layer computes each row's first token only."""


class CpuBertModel(bert.BertModel):
    """`BertModel`, over groups of padded rows."""

    state: CpuState

    def forward(self, inputs: ModelInputs) -> Tensor:
        layout = self._layout(inputs)
        return layout.restore(self._encode(inputs, layout))

    def hidden_at(self, inputs: ModelInputs, places_K: Tensor) -> Tensor:
        layout = self._layout(inputs)
        return self._encode(inputs, layout, kept_K=layout.find(places_K))

    def first_tokens(self, inputs: ModelInputs) -> Tensor:
        # The last layer computes nothing that only other tokens' results need: not even their queries.
        return self._encode(inputs, self._layout(inputs), first_only=True)

    def _encode(
        self,
        inputs: ModelInputs,
        layout: GroupedLayout | PackedLayout,
        *,
        kept_K: Tensor | None = None,
        first_only: bool = False,
    ) -> Tensor:
        masks = self.state.masks = self._masks(inputs, layout)
        one_pass = Pass(layout, masks, kept_K, first_only)
        hidden_ND = self.embeddings(inputs, order_N=layout.order_N, mask=masks.hidden(0) if masks else None)
        return self.encoder(hidden_ND, one_pass)

    def _layout(self, inputs: ModelInputs) -> GroupedLayout | PackedLayout:
        num_heads = self.config.num_attention_heads
        if not torch.is_autocast_enabled("cpu"):
            return GroupedLayout(inputs, num_heads=num_heads)
        return PackedLayout(inputs, num_heads=num_heads, max_length=self.config.max_position_embeddings)

    def _masks(self, inputs: ModelInputs, layout: GroupedLayout | PackedLayout) -> TokenMasks | None:
        if not self.training or self.state.pool is None:
            return None
        assert inputs.row_keys_B is not None, (
            "dropout needs row_keys_B: the masks of a row are a function of its key"
        )
        return TokenMasks(
            self.state.pool,
            row_keys_B=inputs.row_keys_B,
            rows_N=layout.rows_N,
            # In the encoder's order, like everything that these masks multiply.
            positions_N=inputs.positions_N[layout.order_N],
        )


class CpuEmbeddings(bert.Embeddings):
    """`Embeddings`, in the encoder's order of tokens."""

    state: CpuState

    def forward(  # type: ignore[override]  # called by CpuBertModel only
        self, inputs: ModelInputs, *, order_N: Tensor, mask: HiddenMask | None
    ) -> Tensor:
        words_ND = self._look_up(self.word_embeddings, inputs.ids_N[order_N])
        segments_ND = self.token_type_embeddings(inputs.segments_N[order_N])
        positions_ND = self._look_up(self.position_embeddings, inputs.positions_N[order_N])
        # d2l's model neither normalises nor drops the sum.
        if self.LayerNorm is None:
            return words_ND + segments_ND + positions_ND
        hidden_ND = self.LayerNorm(words_ND + segments_ND + positions_ND)
        return hidden_ND if mask is None else hidden_ND * mask.of(hidden_ND)

    def _look_up(self, table: nn.Embedding, ids_N: Tensor) -> Tensor:
        if self.state.writes_table:
            return look_up(ids_N, table.weight, write_gradients=True)
        return table(ids_N)


class CpuEncoder(bert.Encoder):
    """`Encoder`; a layer also gets its number, by which its dropout masks are found."""

    def forward(self, hidden_ND: Tensor, one_pass: Pass) -> Tensor:  # type: ignore[override]
        *lower, last = self.layer
        for i, layer in enumerate(lower):
            hidden_ND = self._run(layer, hidden_ND, one_pass._replace(kept_K=None, first_only=False), i)
        return self._run(last, hidden_ND, one_pass, len(lower))

    def _run(self, layer: nn.Module, *given: Any) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            # Dropout masks are functions of the step, so there is no random state to preserve.
            return checkpoint(layer, *given, use_reentrant=False, preserve_rng_state=False)
        return layer(*given)


class CpuLayer(bert.Layer):
    """`Layer`, by kernels that have their own backward passes."""

    state: CpuState

    def forward(self, hidden_ND: Tensor, one_pass: Pass, index: int) -> Tensor:  # type: ignore[override]
        layout, masks, kept_K, first_only = one_pass
        context_ND = self._attend(hidden_ND, one_pass, index)
        # With first_only the context is (B, D) already, and the residual takes the same rows.
        residual_ND = hidden_ND[layout.cls_B] if first_only else hidden_ND
        if kept_K is not None:
            # Nothing after attention mixes tokens, so the others are not computed.
            context_ND, residual_ND = context_ND.index_select(0, kept_K), residual_ND.index_select(0, kept_K)
            masks = masks.at(kept_K) if masks else None
        # Two sites per layer, so that no two masks of a pass are the same.
        attention_mask = output_mask = None
        if masks:  # site 0 is the embeddings
            attention_mask = masks.hidden(1 + 2 * index, first_only=first_only)
            output_mask = masks.hidden(2 + 2 * index, first_only=first_only)
        hidden_ND = self._add_and_norm(self.attention.output, context_ND, residual_ND, attention_mask)
        intermediate = self.intermediate
        inner_NF = intermediate.activation(self._linear(intermediate.dense, hidden_ND))
        return self._add_and_norm(self.output, inner_NF, hidden_ND, output_mask)

    def _attend(self, hidden_ND: Tensor, one_pass: Pass, index: int) -> Tensor:
        layout, masks, _, first_only = one_pass
        attention = self.attention.self
        query, key, value = attention.query, attention.key, attention.value
        # Cast once for all three projections.
        hidden_ND = in_autocast_dtype(hidden_ND)
        mask = masks.attention(index) if masks else None
        if isinstance(layout, PackedLayout):
            first_BD = None
            if first_only:
                first_BD, projected = (
                    self._join(hidden_ND[layout.cls_B], query),
                    self._join(hidden_ND, key, value),
                )
            else:
                projected = self._join(hidden_ND, query, key, value)
            return attend_packed(projected, first_BD, layout=layout, mask=mask)
        if first_only:
            # Queries of the B first tokens, keys and values of all N.
            (q_ND,) = self._project(hidden_ND[layout.cls_B], query)
            k_ND, v_ND = self._project(hidden_ND, key, value)
        else:
            q_ND, k_ND, v_ND = self._project(hidden_ND, query, key, value)
        return attend(
            q_ND, k_ND, v_ND, layout=layout, mask=mask, num_heads=attention.num_heads, first_only=first_only
        )

    def _add_and_norm(
        self, block: bert.AddAndNorm, branch: Tensor, residual_ND: Tensor, mask: HiddenMask | None
    ) -> Tensor:
        """Project a branch to D, add it to the residual stream, and normalise."""
        branch_ND, norm = self._linear(block.dense, branch), block.LayerNorm
        return add_norm(
            branch_ND, residual_ND, weight_D=norm.weight, bias_D=norm.bias, eps=norm.eps, mask=mask
        )

    def _linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        return project_one(x, layer, state=self.state)

    def _project(self, x_NI: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
        return project(x_NI, *_parameters_of(layers), write_gradients=self.state.writes_gradients)

    def _join(self, x_NI: Tensor, *layers: nn.Linear) -> Tensor:
        return project_jointly(
            x_NI,
            *_parameters_of(layers),
            write_gradients=self.state.writes_gradients,
            lowered=self.state.lowered,
        )


def project_one(x: Tensor, layer: nn.Linear, *, state: CpuState) -> Tensor:
    """Apply a linear layer in autocast's dtype, with its gradients written as the state says."""
    x, write = in_autocast_dtype(x), state.writes_gradients
    if x.dtype != torch.float32:
        return project_jointly(x, *_parameters_of((layer,)), write_gradients=write, lowered=state.lowered)
    (result,) = project(x, *_parameters_of((layer,)), write_gradients=write)
    return result


def _parameters_of(layers: Sequence[nn.Linear]) -> list[Tensor]:
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def in_autocast_dtype(x: Tensor) -> Tensor:
    """Return x in autocast's dtype for matrix products."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x
