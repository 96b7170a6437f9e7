"""The span head is that of `transformers`: logits, loss, gradients, and the folder in both directions."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.inputs import ModelInputs, pack_rows
from bertjobs.modeling.span_head import BertForQuestionAnswering, span_loss_sum
from bertjobs.modeling.weights import load_weights, save_pretrained

CONFIG = BertConfig(
    vocab_size=120,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=48,
)
LENGTHS = (7, 12, 12, 20)
START, END = torch.tensor([0, 4, 11, 6]), torch.tensor([0, 9, 11, 19])


@pytest.fixture
def reference() -> transformers.BertForQuestionAnswering:
    torch.manual_seed(0)
    words = {
        key: getattr(CONFIG, key) for key in CONFIG.__dataclass_fields__ if key != "embedding_layer_norm"
    }
    return transformers.BertForQuestionAnswering(transformers.BertConfig(**words)).eval()


@pytest.fixture
def model(reference, implementation) -> BertForQuestionAnswering:
    model = BertForQuestionAnswering(CONFIG)
    model.load_state_dict(reference.state_dict())
    return implementation(model.eval())


def inputs_of(lengths: tuple[int, ...] = LENGTHS) -> ModelInputs:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, CONFIG.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    return pack_rows(ids, segments=[[0] * 3 + [1] * (n - 3) for n in lengths])


def one_by_one(reference: transformers.BertForQuestionAnswering) -> list[torch.Tensor]:
    """Return transformers' logits (2, L) of each row by itself, so that nothing is padded."""
    inputs, found = inputs_of(), []
    for start, length in zip(inputs.starts_B.tolist(), LENGTHS, strict=True):
        row = slice(start, start + length)
        output = reference(input_ids=inputs.ids_N[None, row], token_type_ids=inputs.segments_N[None, row])
        found.append(torch.cat((output.start_logits, output.end_logits)))
    return found


def test_logits_equal_transformers_and_are_hidden_beyond_each_row(model, reference):
    logits_2BL = model(inputs_of())
    assert logits_2BL.shape == (2, 4, 20)
    for row, expected_2L in enumerate(one_by_one(reference)):
        length = expected_2L.shape[1]
        torch.testing.assert_close(logits_2BL[:, row, :length], expected_2L, atol=1e-5, rtol=0)
        assert torch.isneginf(logits_2BL[:, row, length:]).all()


def test_the_loss_and_its_gradients_equal_transformers(model, reference):
    loss_sum = span_loss_sum(model(inputs_of()), start_B=START, end_B=END)
    # transformers' loss of a row by itself, where there is no padding in the softmax either.
    expected = sum(
        (F.cross_entropy(row[0], START[i]) + F.cross_entropy(row[1], END[i])) / 2
        for i, row in enumerate(one_by_one(reference))
    )
    torch.testing.assert_close(loss_sum, expected, atol=1e-5, rtol=0)
    loss_sum.backward()
    expected.backward()
    gradients = {name: p.grad for name, p in reference.named_parameters()}
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4, msg=name)


def test_the_loss_of_one_length_is_that_which_transformers_returns(model, reference):
    inputs = inputs_of((12, 12))
    start, end = torch.tensor([0, 4]), torch.tensor([0, 9])
    loss = span_loss_sum(model(inputs), start_B=start, end_B=end) / 2
    expected = reference(
        input_ids=inputs.ids_N.view(2, 12),
        token_type_ids=inputs.segments_N.view(2, 12),
        start_positions=start,
        end_positions=end,
    ).loss
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def test_a_folder_opens_in_transformers_and_one_of_transformers_opens_here(model, reference, tmp_path):
    save_pretrained(model, tmp_path / "ours")
    theirs, report = transformers.AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert type(theirs).__name__ == "BertForQuestionAnswering"
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    reference.save_pretrained(tmp_path / "theirs")
    loaded = load_weights(tmp_path / "theirs", cache=tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor), name
        assert torch.equal(loaded.state_dict[name], tensor), name
