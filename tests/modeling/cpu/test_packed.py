"""Attention over packed groups is that over padded groups; few shapes occur; padding has no gradient."""

from dataclasses import replace

import pytest
import torch

from bertjobs.modeling import BertConfig, ModelInputs, pack_rows
from bertjobs.modeling.cpu import DropoutPool, row_keys
from bertjobs.modeling.cpu.dropout import TokenMasks
from bertjobs.modeling.cpu.kernels import attend
from bertjobs.modeling.cpu.layout import GroupedLayout
from bertjobs.modeling.cpu.packed import PackedLayout
from bertjobs.modeling.cpu.packed_attention import attend_packed

CONFIG = BertConfig(
    vocab_size=50,
    hidden_size=8,
    num_attention_heads=2,
    max_position_embeddings=64,
    attention_probs_dropout_prob=0.3,
)
H, D = 2, 8


def batch(*lengths: int) -> ModelInputs:
    rows = [[1] * length for length in lengths]
    keys = row_keys(torch.arange(len(rows)), seed=0, step=0)
    return pack_rows(rows, segments=rows, row_keys_B=keys)


def packed_of(inputs: ModelInputs) -> PackedLayout:
    return PackedLayout(inputs, num_heads=H, max_length=CONFIG.max_position_embeddings)


def masks_of(inputs: ModelInputs, layout: GroupedLayout | PackedLayout) -> TokenMasks:
    return TokenMasks(
        DropoutPool(CONFIG, seed=0),
        row_keys_B=inputs.row_keys_B,
        rows_N=layout.rows_N,
        positions_N=inputs.positions_N[layout.order_N],
    )


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("first_only", [False, True])
def test_packed_attention_has_the_results_and_gradients_of_grouped_attention(
    first_only: bool, drops: bool
) -> None:
    # Eleven rows: a group of eight and one of three, both with padding.
    inputs = batch(2, 3, 3, 5, 8, 9, 9, 10, 11, 16, 17)
    num_rows, num_tokens = 11, len(inputs.ids_N)
    grouped, packed = GroupedLayout(inputs, num_heads=H), packed_of(inputs)
    torch.manual_seed(0)
    qkv_N3D = torch.randn(num_tokens, 3 * D, requires_grad=True)
    masks = [masks_of(inputs, layout).attention(1) if drops else None for layout in (grouped, packed)]

    q, k, v = (part[grouped.order_N] for part in qkv_N3D.chunk(3, dim=1))
    q = q[grouped.cls_B] if first_only else q
    plain = attend(q, k, v, num_heads=H, layout=grouped, first_only=first_only, mask=masks[0])
    plain = plain if first_only else grouped.restore(plain)

    projected = qkv_N3D[packed.order_N]
    first_BD = projected[packed.cls_B][:, :D] if first_only else None
    rest = projected[:, D:] if first_only else projected
    found = attend_packed(rest.contiguous(), first_BD, layout=packed, mask=masks[1])
    found = found if first_only else packed.restore(found)

    torch.testing.assert_close(found, plain, atol=1e-6, rtol=1e-5)
    assert found.shape == (num_rows if first_only else num_tokens, D)
    weights = torch.randn_like(plain)
    (expected,) = torch.autograd.grad((plain * weights).sum(), qkv_N3D)
    (gradient,) = torch.autograd.grad((found * weights).sum(), qkv_N3D)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_padding_gets_no_gradient() -> None:
    inputs = batch(3, 4, 6)
    packed = packed_of(inputs)
    projected = torch.randn(len(packed.order_N), 3 * D, requires_grad=True)
    packed.restore(attend_packed(projected, None, layout=packed, mask=None)).square().sum().backward()
    assert projected.grad[:13].abs().sum() > 0
    assert torch.equal(projected.grad[13:], torch.zeros(19, 3 * D))


def test_token_counts_and_group_lengths_are_rounded_up() -> None:
    packed = packed_of(batch(*[5] * 7, 9, *[20] * 12, 30))
    assert [(group.num_rows, group.length) for group in packed.groups] == [(8, 16), (8, 24), (5, 32)]
    assert len(packed.order_N) == 320  # 314 tokens
    assert len(packed_of(batch(32)).order_N) == 64  # one token of padding at least


def test_batches_of_near_lengths_have_the_same_shapes() -> None:
    shapes = {
        (len(packed.order_N), *packed.groups)
        for extra in range(1, 7)
        for packed in [packed_of(batch(*[16 + extra] * 8, *[24 + extra] * 8))]
    }
    assert len(shapes) == 4  # 336 to 416 tokens in steps of 16: four multiples of 32


def test_large_batches_have_eight_groups_at_most() -> None:
    assert [group.num_rows for group in packed_of(batch(*[4] * 100)).groups] == [13] * 7 + [9]


def test_no_group_is_longer_than_the_dropout_masks() -> None:
    inputs = batch(60, 61)
    (group,) = PackedLayout(inputs, num_heads=H, max_length=62).groups
    assert group.length == 62


def test_a_row_s_attention_does_not_depend_on_the_other_rows() -> None:
    alone, beside = batch(7), batch(7, 9, 30)
    beside = replace(beside, row_keys_B=torch.cat((alone.row_keys_B, beside.row_keys_B[1:])))
    torch.manual_seed(0)
    qkv_N3D = torch.randn(46, 3 * D)
    found = []
    for inputs in (alone, beside):
        packed = packed_of(inputs)
        mask = masks_of(inputs, packed).attention(0)
        found.append(attend_packed(qkv_N3D[packed.order_N], None, layout=packed, mask=mask)[:7])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)
