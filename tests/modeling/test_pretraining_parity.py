"""Pretraining logits and losses are those of `transformers`, and checkpoints go both ways."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

from bertjobs.modeling import (
    BertConfig,
    BertForPreTraining,
    build_classifier,
    build_pretraining,
    load_weights,
    pack_rows,
    save_pretrained,
)
from bertjobs.modeling.cpu import DropoutPool, accelerate, row_keys, set_dropout, write_gradients
from bertjobs.modeling.inputs import ModelInputs
from padded_rows import packed, padded_rows

IDS = [[2, 7, 8, 9, 3, 11, 12, 3], [2, 5, 3, 9, 3], [2, 4, 4, 14, 4, 4, 3, 9, 9, 3]]
MASKED_P = torch.tensor([1, 3, 9, 15, 17, 21])
TARGETS_P = torch.tensor([70, 9, 33, 4, 101, 9])
LABELS_B = torch.tensor([0, 1, 1])


@pytest.fixture
def inputs() -> ModelInputs:
    segments = [[int(3 in row[:i]) for i in range(len(row))] for row in IDS]
    keys_B = row_keys(torch.arange(3), seed=0, step=0)
    return pack_rows(IDS, segments=segments, row_keys_B=keys_B)


def theirs(config: BertConfig) -> transformers.BertForPreTraining:
    words = {k: v for k, v in vars(config).items() if k != "embedding_layer_norm"}
    torch.manual_seed(0)
    return transformers.BertForPreTraining(transformers.BertConfig(**words)).eval()


def their_output(reference: Any, inputs: ModelInputs) -> Any:
    labels_N = torch.full_like(inputs.ids_N, -100)
    labels_N[MASKED_P] = TARGETS_P
    rows = labels_N.split(inputs.lengths_B.tolist())
    labels_BL = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-100)
    return reference(**padded_rows(inputs), labels=labels_BL, next_sentence_label=LABELS_B)


def our_losses(model: BertForPreTraining, inputs: ModelInputs) -> torch.Tensor:
    return model.losses(
        inputs,
        masked_P=MASKED_P,
        targets_P=TARGETS_P,
        labels_B=LABELS_B,
        mlm_scale=torch.tensor(1 / len(MASKED_P)),
        nsp_scale=1 / len(LABELS_B),
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("implementation", ["plain", "cpu", "cpu, writing gradients"])
def test_loss_and_gradients_equal_transformers(small_config, inputs, tied, recomputes, implementation):
    config = BertConfig(**{**vars(small_config), "tie_word_embeddings": tied})
    reference = theirs(config)
    model = BertForPreTraining(config)
    model.load_state_dict(reference.state_dict(), strict=False)
    model.eval().bert.encoder.recomputes = recomputes
    if implementation != "plain":
        accelerate(model)
    if implementation == "cpu, writing gradients":
        write_gradients(model, tables=True)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    expected, losses = their_output(reference, inputs), our_losses(model, inputs)
    assert abs((losses.sum() - expected.loss).item()) < 1e-5
    losses.sum().backward()
    expected.loss.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4, msg=name)


def test_logits_and_loss_agree_out_of_a_folder_of_transformers_and_into_one(
    small_config, inputs, tmp_path, implementation
):
    theirs(small_config).save_pretrained(tmp_path / "theirs")
    model = build_pretraining(load_weights(tmp_path / "theirs", cache=tmp_path), seed=9).eval()
    implementation(model)
    save_pretrained(model, tmp_path / "ours")
    for folder in ("theirs", "ours"):
        reference, report = transformers.BertForPreTraining.from_pretrained(
            tmp_path / folder, output_loading_info=True
        )
        assert not report["missing_keys"] and not report["mismatched_keys"], folder
        with torch.no_grad():
            expected = their_output(reference.eval(), inputs)
            mlm_PV, nsp_B2 = model(inputs, masked_P=MASKED_P)
            loss = our_losses(model, inputs).sum()
        expected_PV = packed(expected.prediction_logits, inputs)[MASKED_P]
        torch.testing.assert_close(mlm_PV, expected_PV, atol=1e-5, rtol=0)
        torch.testing.assert_close(nsp_B2, expected.seq_relationship_logits, atol=1e-5, rtol=0)
        assert abs(float(loss - expected.loss)) < 1e-5


def test_what_we_save_opens_as_what_it_is_and_as_a_masked_language_model(small_config, inputs, tmp_path):
    model = build_pretraining(small_config, seed=0).eval()
    save_pretrained(model, tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).architectures == ["BertForPreTraining"]
    masked, report = transformers.BertForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    with torch.no_grad():
        mlm_PV, _ = model(inputs, masked_P=MASKED_P)
        expected = masked.eval()(**padded_rows(inputs))
    torch.testing.assert_close(mlm_PV, packed(expected.logits, inputs)[MASKED_P], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_classifier_takes_the_encoder_of_a_pretrained_checkpoint(small_config, tmp_path, layer_norm):
    d2l = {"tie_word_embeddings": False, "embedding_layer_norm": False, "hidden_act": "relu"}
    config = small_config if layer_norm else BertConfig(**{**vars(small_config), **d2l})
    pretrained = build_pretraining(config, seed=0)
    save_pretrained(pretrained, tmp_path)
    loaded = load_weights(tmp_path, cache=tmp_path)
    classifier = build_classifier(loaded, num_labels=3, seed=1)
    kept, encoder = classifier.bert.state_dict(), pretrained.bert.state_dict()
    assert kept.keys() == encoder.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in encoder.items())
    again = build_pretraining(loaded, seed=1).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in pretrained.state_dict().items())


def test_scores_are_the_losses_without_gradients(small_config, inputs, implementation):
    model = implementation(build_pretraining(small_config, seed=0)).eval()
    scores = model.scores(inputs, masked_P=MASKED_P, targets_P=TARGETS_P, labels_B=LABELS_B)
    mlm_loss, nsp_loss = our_losses(model, inputs).tolist()
    assert float(scores.mlm_loss_sum) / 6 == pytest.approx(mlm_loss, rel=1e-5)
    assert float(scores.nsp_loss_sum) / 3 == pytest.approx(nsp_loss, rel=1e-5)
    mlm_PV, nsp_B2 = model(inputs, masked_P=MASKED_P)
    assert int(scores.num_masked_correct) == int((mlm_PV.argmax(1) == TARGETS_P).sum())
    assert int(scores.num_pairs_correct) == int((nsp_B2.argmax(1) == LABELS_B).sum())


def test_dropout_masks_of_kept_tokens_are_those_of_all_tokens(small_config, inputs):
    model = accelerate(build_pretraining(small_config, seed=0)).train()
    set_dropout(model, DropoutPool(small_config, seed=3))
    all_ND = model.bert(inputs)
    kept_KD = model.bert.hidden_at(inputs, MASKED_P)
    torch.testing.assert_close(kept_KD, all_ND[MASKED_P], atol=1e-6, rtol=1e-5)
    assert F.mse_loss(kept_KD, model.eval().bert(inputs)[MASKED_P]) > 1e-4


def test_bf16_autocast_stays_near_fp32(small_config, inputs, implementation):
    model = build_pretraining(BertConfig(**{**vars(small_config), "initializer_range": 0.15}), seed=0)
    implementation(model).eval()
    exact = our_losses(model, inputs)
    exact.sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = our_losses(model, inputs)
    losses.sum().backward()
    torch.testing.assert_close(losses, exact, rtol=3e-2, atol=3e-2)
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        if not name.endswith("key.bias"):  # whose true gradient is 0: softmax does not see it
            error = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
            assert error < 0.06, (name, error)
