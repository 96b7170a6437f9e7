"""Our logits are those of `transformers` for the same weights, forward and backward."""

from dataclasses import replace

import pytest
import torch
import transformers

from bertjobs.modeling import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    ModelInputs,
    RowGroup,
    pack_rows,
)
from bertjobs.modeling.cpu import DropoutPool, accelerate, row_keys, set_dropout, state_of
from padded_rows import packed, padded_rows

CONFIG = BertConfig(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=48,
)
LENGTHS = (5, 9, 9, 12)


def theirs(name: str, config: BertConfig = CONFIG, **more):
    torch.manual_seed(0)
    words = {
        key: getattr(config, key) for key in config.__dataclass_fields__ if key != "embedding_layer_norm"
    }
    return getattr(transformers, name)(transformers.BertConfig(**words, **more)).eval()


def copy_of(model, theirs):
    missing, unexpected = model.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing
    assert set(unexpected) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}  # tied
    return model.eval()


def rows(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, CONFIG.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    return ids, [[0] * 3 + [1] * (n - 3) for n in lengths]


def grouped(ids, segments) -> ModelInputs:
    """Lay rows of LENGTHS out as three groups: 5 alone, 9 and 9 together, 12 padded to 14."""
    inputs = pack_rows(ids, segments=segments, group_sizes=[1, 2, 1])
    return replace(inputs, groups=(*inputs.groups[:2], RowGroup(1, 14)))


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_classifier_logits_and_gradients_equal_transformers(activation, implementation):
    config = BertConfig(**{**CONFIG.__dict__, "hidden_act": activation})
    reference = theirs("BertForSequenceClassification", config, num_labels=3)
    model = implementation(copy_of(BertForSequenceClassification(config, 3), reference))
    ids, segments = rows()
    inputs = pack_rows(ids, segments=segments)

    logits_BC, expected_BC = model(inputs), reference(**padded_rows(inputs)).logits
    torch.testing.assert_close(logits_BC, expected_BC, atol=1e-5, rtol=0)

    logits_BC.square().sum().backward()
    expected_BC.square().sum().backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    assert len(gradients) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4, msg=name)


def test_hidden_states_equal_transformers_in_the_callers_order(implementation):
    reference = theirs("BertModel")
    model = implementation(BertModel(CONFIG))
    model.load_state_dict(reference.state_dict())
    ids, segments = rows()
    inputs = pack_rows(ids, segments=segments)
    with torch.no_grad():
        hidden_ND, expected = model.eval()(inputs), reference(**padded_rows(inputs))
    expected_ND = packed(expected.last_hidden_state, inputs)
    torch.testing.assert_close(hidden_ND, expected_ND, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_pretraining_logits_at_masked_positions_equal_transformers(tied, implementation):
    config = BertConfig(**{**CONFIG.__dict__, "tie_word_embeddings": tied})
    reference = theirs("BertForPreTraining", config)
    model = implementation(BertForPreTraining(config))
    # Untied, transformers adds the decoder's own bias, and keeps a second one that it does not use.
    missing, unexpected = model.load_state_dict(reference.state_dict(), strict=False)
    assert not missing and len(unexpected) == (2 if tied else 1)
    model.eval()
    ids, segments = rows()
    inputs = pack_rows(ids, segments=segments)
    masked_P = torch.tensor([1, 7, 27])
    with torch.no_grad():
        mlm_PV, nsp_B2 = model(inputs, masked_P=masked_P)
        expected = reference(**padded_rows(inputs))
    expected_PV = packed(expected.prediction_logits, inputs)[masked_P]
    torch.testing.assert_close(mlm_PV, expected_PV, atol=1e-5, rtol=0)
    torch.testing.assert_close(nsp_B2, expected.seq_relationship_logits, atol=1e-5, rtol=0)


def test_several_groups_give_the_logits_and_gradients_of_one():
    reference = theirs("BertForSequenceClassification", num_labels=3)
    model = accelerate(copy_of(BertForSequenceClassification(CONFIG, 3), reference))
    ids, segments = rows()
    results = []
    for inputs in (pack_rows(ids, segments=segments), grouped(ids, segments)):
        model.zero_grad()
        logits_BC = model(inputs)
        logits_BC.square().sum().backward()
        results.append((logits_BC.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (logits_a, grads_a), (logits_b, grads_b) = results
    torch.testing.assert_close(logits_a, logits_b, atol=1e-6, rtol=0)
    for name in grads_a:
        torch.testing.assert_close(grads_a[name], grads_b[name], atol=1e-6, rtol=1e-4, msg=name)


def test_hidden_states_of_groups_come_back_in_the_callers_order():
    model = accelerate(BertModel(CONFIG)).eval()
    ids, segments = rows()
    one_group, groups = pack_rows(ids, segments=segments), grouped(ids, segments)
    with torch.no_grad():
        one_ND, groups_ND = model(one_group), model(groups)
    torch.testing.assert_close(one_ND, groups_ND, atol=1e-5, rtol=0)


@pytest.mark.parametrize("drops", [False, True])
def test_bf16_autocast_trains_and_stays_near_fp32(drops, implementation):
    config = BertConfig(**{**CONFIG.__dict__, "initializer_range": 0.15})  # so that all gradients count
    reference = theirs("BertForSequenceClassification", config, num_labels=3)
    model = implementation(copy_of(BertForSequenceClassification(config, 3), reference)).train(drops)
    if state_of(model) is not None:
        set_dropout(model, DropoutPool(config, seed=0) if drops else None)
    ids, segments = rows()
    keys_B = row_keys(torch.arange(len(LENGTHS)), seed=0, step=0)
    inputs = pack_rows(ids, segments=segments, row_keys_B=keys_B)
    torch.manual_seed(0)  # of the plain model's masks
    exact_BC = model(inputs)
    exact_BC.square().sum().backward()
    exact = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BC = model(inputs)
    torch.testing.assert_close(logits_BC.float(), exact_BC, atol=3e-2, rtol=3e-2)
    logits_BC.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        if not name.endswith("key.bias"):  # whose true gradient is 0: softmax does not see it
            error = (parameter.grad - exact[name]).norm() / exact[name].norm()
            assert error < 0.05, (name, error)
