"""Masks follow from (seed, step, row, position, site), whatever the batch looks like, at the right rate."""

from dataclasses import replace

import pytest
import torch

from bertjobs.modeling import BertConfig, ModelInputs, build_classifier, pack_rows
from bertjobs.modeling.cpu import DropoutPool, accelerate, row_keys, set_dropout
from bertjobs.modeling.cpu.dropout import NUM_POOL_ROWS, TokenMasks

LENGTHS = (4, 6, 6, 9)


def rows():
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, 100, (n,), generator=generator).tolist() for n in LENGTHS]


def keys(step: int = 0, seed: int = 0, of=(10, 20, 30, 40)) -> torch.Tensor:
    return row_keys(torch.tensor(of), seed=seed, step=step)


def one_group(ids=None, **key_words) -> ModelInputs:
    ids = rows() if ids is None else ids
    return pack_rows(ids, segments=[[0] * len(r) for r in ids], row_keys_B=keys(**key_words))


def three_groups() -> ModelInputs:
    segments = [[0] * n for n in LENGTHS]
    return pack_rows(rows(), segments=segments, row_keys_B=keys(), group_sizes=[1, 2, 1])


@pytest.fixture
def model(small_config):
    config = replace(small_config, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    model = accelerate(build_classifier(config, num_labels=3, seed=0)).train()
    set_dropout(model, DropoutPool(config, seed=5))
    return model


def test_logits_with_dropout_are_the_same_in_one_group_in_several_and_row_by_row(model):
    with torch.no_grad():
        padded_BC = model(one_group())
        packed_BC = model(three_groups())
        single_BC = torch.cat(
            [
                model(one_group(ids=[row], of=(key,)))
                for row, key in zip(rows(), (10, 20, 30, 40), strict=True)
            ]
        )
    torch.testing.assert_close(padded_BC, packed_BC, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded_BC, single_BC, atol=1e-5, rtol=0)


def test_gradients_with_dropout_are_the_same_whole_and_in_microbatches(model):
    model(one_group()).square().sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row, key in zip(rows(), (10, 20, 30, 40), strict=True):
        model(one_group(ids=[row], of=(key,))).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("other", [{"step": 1}, {"seed": 1}, {"of": (11, 20, 30, 40)}])
def test_another_step_seed_or_row_gives_another_mask(model, other):
    with torch.no_grad():
        logits_BC, others_BC = model(one_group()), model(one_group(**other))
    assert not torch.allclose(logits_BC[0], others_BC[0], atol=1e-4)
    if "of" in other:
        torch.testing.assert_close(logits_BC[1:], others_BC[1:], atol=1e-5, rtol=0)


def test_an_epochs_pool_is_its_own_and_the_same_each_time(model, small_config):
    config = model.config
    results = []
    for epoch in (0, 1, 0):
        set_dropout(model, DropoutPool(config, seed=5, epoch=epoch))
        with torch.no_grad():
            results.append(model(one_group()))
    assert torch.equal(results[0], results[2])
    assert not torch.allclose(results[0], results[1], atol=1e-4)


def test_evaluation_mode_drops_nothing(model):
    with torch.no_grad():
        model.eval()
        with_pool_BC = model(one_group())
        set_dropout(model, None)
        assert torch.equal(with_pool_BC, model.train()(one_group()))


def test_training_without_row_keys_is_refused(model):
    with pytest.raises(AssertionError, match="row_keys_B"):
        model(replace(one_group(), row_keys_B=None))


def masks_of(config: BertConfig, *, num_rows: int, length: int) -> TokenMasks:
    return TokenMasks(
        DropoutPool(config, seed=1),
        row_keys_B=row_keys(torch.arange(num_rows), seed=0, step=7),
        rows_N=torch.arange(num_rows).repeat_interleave(length),
        positions_N=torch.arange(length).repeat(num_rows),
    )


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_dropped_is_the_rate_and_the_rest_is_scaled_up(small_config, rate):
    config = replace(small_config, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    masks = masks_of(config, num_rows=300, length=20)
    hidden_ND = masks.hidden(3).of(torch.ones(6000, 32))
    attention_GLL = masks.attention(1).of(torch.ones(1200, 20, 20), first_row=0)
    for mask in (hidden_ND, attention_GLL):
        assert mask.unique().numel() == 2
        assert mask.max().item() == pytest.approx(1 / (1 - rate))
        # 190,000 numbers or more: the standard error of the share is below 0.002, rows repeating included.
        assert (mask == 0).float().mean().item() == pytest.approx(rate, abs=0.01)


def test_masks_of_sites_layers_heads_and_examples_are_unrelated(small_config):
    masks = masks_of(small_config, num_rows=200, length=10)
    ones_ND = torch.ones(2000, 32)
    kept = [masks.hidden(site).of(ones_ND).flatten() > 0 for site in (0, 1, 2)]
    heads = masks.attention(0).of(torch.ones(800, 10, 10), first_row=0).reshape(200, 4, 100) > 0
    kept += [heads[:, h].flatten() for h in range(2)]
    kept += [
        masks.attention(1).of(torch.ones(800, 10, 10), first_row=0).reshape(200, 4, 100)[:, 0].flatten() > 0
    ]
    kept = [k[: 200 * 100].float() for k in kept]
    correlation = torch.corrcoef(torch.stack(kept)) - torch.eye(len(kept))
    assert correlation.abs().max() < 0.06


def test_two_examples_rarely_begin_at_the_same_row_of_the_pool(small_config):
    masks = masks_of(small_config, num_rows=4000, length=1)
    first_B = masks.hidden(1).rows_N
    assert first_B.max() < NUM_POOL_ROWS
    assert first_B.unique().numel() == pytest.approx(
        NUM_POOL_ROWS * (1 - 2.718281828 ** (-4000 / 4096)), rel=0.03
    )
