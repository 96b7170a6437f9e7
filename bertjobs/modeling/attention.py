"""Attention over packed rows, each token to the tokens of its own row, by torch's own operators.

On CUDA in bf16 or fp16, where the queries of all rows lie one after another: flash attention, which has
dropout and reads where rows begin. Elsewhere: rows padded to the longest one, and a mask.

`aten::_flash_attention_forward` is private. It is what `torch.nn.attention.varlen` and nested tensors call;
the first has no dropout, the second costs the host more time than a small layer takes. It is used in this
module only, and `tests/modeling/test_attention.py` fails first when torch changes it.

Shape suffixes: N: tokens. B: rows. L: tokens of the longest row. H: heads. E: head size.
Source: Vaswani et al. 2017, section 3.2.1; Dao 2023, "FlashAttention-2".
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bertjobs.modeling.inputs import ModelInputs, padded_places

_FIRST_GPU_WITH_FLASH = (8, 0)


def attend(
    q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, *, inputs: ModelInputs, dropout: float = 0.0
) -> Tensor:
    """Return softmax(Q K^T / sqrt(E)) V per row and head, with dropout on the probabilities."""
    if has_flash(q_NHE.device, q_NHE.dtype, head_size=q_NHE.shape[-1]):
        return attend_flash(q_NHE, k_NHE, v_NHE, inputs=inputs, dropout=dropout)
    return attend_padded(q_NHE, k_NHE, v_NHE, inputs=inputs, dropout=dropout)


def attend_flash(
    q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, *, inputs: ModelInputs, dropout: float
) -> Tensor:
    """Compute attention without padding. Its masks are drawn from CUDA's random state."""
    offsets, longest = inputs.offsets, inputs.max_len
    # In order: where the rows of queries and of keys begin, the longest of each, dropout, not causal, no mask
    # returned for debugging. The other results are what the backward pass needs; autograd keeps them.
    context_NHE, *_ = torch.ops.aten._flash_attention_forward(
        q_NHE, k_NHE, v_NHE, offsets, offsets, longest, longest, dropout, False, False
    )
    return context_NHE


def attend_padded(
    q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, *, inputs: ModelInputs, dropout: float
) -> Tensor:
    """Compute attention with rows padded to the longest one: on any device, in any dtype."""
    # `torch.compile` cannot follow the lock of a cached property (Python 3.11), and finds repetitions itself.
    places = padded_places(inputs) if torch.compiler.is_compiling() else inputs.padded
    # (B * L) tokens, then (B, L, H, E), then heads before positions.
    q_BHLE, k_BHLE, v_BHLE = (
        x_NHE.index_select(0, places.token_BL.flatten()).unflatten(0, places.token_BL.shape).transpose(1, 2)
        for x_NHE in (q_NHE, k_NHE, v_NHE)
    )
    is_key_B11L = places.is_token_BL.unsqueeze(1).unsqueeze(1)
    context_BHLE = F.scaled_dot_product_attention(
        q_BHLE, k_BHLE, v_BHLE, attn_mask=is_key_B11L, dropout_p=dropout
    )
    return context_BHLE.transpose(1, 2).flatten(0, 1).index_select(0, places.place_N)


def has_flash(device: torch.device, dtype: torch.dtype, *, head_size: int) -> bool:
    """Return whether flash attention runs: Ampere or later, half precision, heads of up to 256."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return head_size % 8 == 0 and head_size <= 256 and _is_built_for(device)


@cache
def _is_built_for(device: torch.device) -> bool:
    # A build without flash attention, and ROCm's, have no such operator for this device.
    return (
        torch.backends.cuda.is_flash_attention_available()
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= _FIRST_GPU_WITH_FLASH
    )
