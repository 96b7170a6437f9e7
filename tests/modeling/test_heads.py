"""Our logits are those of `transformers` for the same weights, forward and backward."""

from itertools import chain

import pytest
import torch
import transformers

from bertjobs.modeling import (
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    DropoutPool,
    ModelInputs,
    PaddedGroup,
    pad_rows,
    row_keys,
)

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


def padded(inputs: ModelInputs) -> dict[str, torch.Tensor]:
    num_rows, length = len(inputs.lengths_B), inputs.groups[0].length
    return {
        "input_ids": inputs.ids_N.view(num_rows, length),
        "token_type_ids": inputs.segments_N.view(num_rows, length),
        "attention_mask": (torch.arange(length) < inputs.lengths_B[:, None]).long(),
    }


def near_packed(ids, segments) -> ModelInputs:
    """Lay rows of LENGTHS out as three groups: 5 alone, 9 and 9 together, 12 padded to 14."""
    pad = [0, 0]
    return ModelInputs(
        ids_N=torch.tensor([*chain(*ids), *pad]),
        segments_N=torch.tensor([*chain(*segments), *pad]),
        positions_N=torch.cat([torch.arange(n) for n in (5, 9, 9, 14)]),
        groups=(PaddedGroup(0, 1, 5), PaddedGroup(5, 2, 9), PaddedGroup(23, 1, 14)),
        lengths_B=torch.tensor(LENGTHS),
        starts_B=torch.tensor([0, 5, 14, 23]),
    )


@pytest.mark.parametrize("activation", ["gelu", "relu", "gelu_new"])
def test_classifier_logits_and_gradients_equal_transformers(activation):
    config = BertConfig(**{**CONFIG.__dict__, "hidden_act": activation})
    reference = theirs("BertForSequenceClassification", config, num_labels=3)
    model = copy_of(BertForSequenceClassification(config, 3), reference)
    ids, segments = rows()
    inputs = pad_rows(ids, segments=segments, pad_id=0)

    logits_BC, expected_BC = model(inputs), reference(**padded(inputs)).logits
    torch.testing.assert_close(logits_BC, expected_BC, atol=1e-5, rtol=0)

    logits_BC.square().sum().backward()
    expected_BC.square().sum().backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    assert len(gradients) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4, msg=name)


def test_hidden_states_equal_transformers_in_the_callers_order():
    reference = theirs("BertModel")
    model = BertModel(CONFIG)
    model.load_state_dict(reference.state_dict())
    ids, segments = rows()
    inputs = pad_rows(ids, segments=segments, pad_id=0)
    with torch.no_grad():
        hidden_ND, expected = model.eval()(inputs), reference(**padded(inputs))
    real_N = padded(inputs)["attention_mask"].flatten().bool()
    expected_ND = expected.last_hidden_state.flatten(0, 1)
    torch.testing.assert_close(hidden_ND[real_N], expected_ND[real_N], atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_pretraining_logits_at_masked_positions_equal_transformers(tied):
    config = BertConfig(**{**CONFIG.__dict__, "tie_word_embeddings": tied})
    reference = theirs("BertForPreTraining", config)
    model = BertForPreTraining(config)
    # Untied, transformers adds the decoder's own bias, and keeps a second one that it does not use.
    missing, unexpected = model.load_state_dict(reference.state_dict(), strict=False)
    assert not missing and len(unexpected) == (2 if tied else 1)
    model.eval()
    ids, segments = rows()
    inputs = pad_rows(ids, segments=segments, pad_id=0)
    masked_P = torch.tensor([1, 14, 40])
    with torch.no_grad():
        mlm_PV, nsp_B2 = model(inputs, masked_P=masked_P)
        expected = reference(**padded(inputs))
    expected_PV = expected.prediction_logits.flatten(0, 1)[masked_P]
    torch.testing.assert_close(mlm_PV, expected_PV, atol=1e-5, rtol=0)
    torch.testing.assert_close(nsp_B2, expected.seq_relationship_logits, atol=1e-5, rtol=0)


def test_near_packed_groups_give_the_logits_and_gradients_of_the_padded_batch():
    model = copy_of(
        BertForSequenceClassification(CONFIG, 3), theirs("BertForSequenceClassification", num_labels=3)
    )
    ids, segments = rows()
    results = []
    for inputs in (pad_rows(ids, segments=segments, pad_id=0), near_packed(ids, segments)):
        model.zero_grad()
        logits_BC = model(inputs)
        logits_BC.square().sum().backward()
        results.append((logits_BC.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (logits_a, grads_a), (logits_b, grads_b) = results
    torch.testing.assert_close(logits_a, logits_b, atol=1e-6, rtol=0)
    for name in grads_a:
        torch.testing.assert_close(grads_a[name], grads_b[name], atol=1e-6, rtol=1e-4, msg=name)


def test_hidden_states_of_groups_come_back_in_the_callers_order():
    model = BertModel(CONFIG).eval()
    ids, segments = rows()
    padded_inputs, grouped = pad_rows(ids, segments=segments, pad_id=0), near_packed(ids, segments)
    with torch.no_grad():
        padded_ND, grouped_ND = model(padded_inputs), model(grouped)
    for i, length in enumerate(LENGTHS):
        a, b = int(padded_inputs.starts_B[i]), int(grouped.starts_B[i])
        torch.testing.assert_close(padded_ND[a : a + length], grouped_ND[b : b + length], atol=1e-5, rtol=0)


@pytest.mark.parametrize("drops", [False, True])
def test_bf16_autocast_trains_and_stays_near_fp32(drops):
    config = BertConfig(**{**CONFIG.__dict__, "initializer_range": 0.15})  # so that all gradients count
    reference = theirs("BertForSequenceClassification", config, num_labels=3)
    model = copy_of(BertForSequenceClassification(config, 3), reference).train()
    model.set_dropout(DropoutPool(config, seed=0) if drops else None)
    ids, segments = rows()
    keys_B = row_keys(torch.arange(len(LENGTHS)), seed=0, step=0)
    inputs = pad_rows(ids, segments=segments, pad_id=0, row_keys_B=keys_B)
    exact_BC = model(inputs)
    exact_BC.square().sum().backward()
    exact = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BC = model(inputs)
    torch.testing.assert_close(logits_BC.float(), exact_BC, atol=3e-2, rtol=3e-2)
    logits_BC.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        if not name.endswith("key.bias"):  # whose true gradient is 0: softmax does not see it
            error = (parameter.grad - exact[name]).norm() / exact[name].norm()
            assert error < 0.05, (name, error)
