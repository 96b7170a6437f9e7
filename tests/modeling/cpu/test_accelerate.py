"""The accelerated model is the plain one: outputs, gradients, 20 steps, dropout; in fp32 and in bf16."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.modeling import (
    BertConfig,
    BertForSequenceClassification,
    ModelInputs,
    bert,
    build_classifier,
    build_pretraining,
    pack_rows,
)
from bertjobs.modeling.cpu import DropoutPool, accelerate, row_keys, set_dropout, state_of, write_gradients
from bertjobs.modeling.cpu.dropout import TokenMasks

BF16_EPS = 2.0**-8
"""The share by which rounding to bf16 changes a number at most."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4 * BF16_EPS}
"""Of outputs. fp32 has 2^-24, of which sums of some hundred terms leave 1e-5; in bf16 a layer rounds four
times on each path."""
MASKED_P, TARGETS_P = torch.tensor([1, 4, 9, 11]), torch.tensor([7, 3, 40, 8])
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


@pytest.fixture(scope="module")
def config(small_config: BertConfig) -> BertConfig:
    return replace(
        small_config, initializer_range=0.15, hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3
    )


def batch(*, step: int = 0) -> ModelInputs:
    """Rows of 3 to 9 tokens in three groups, two of them with padding."""
    generator = torch.Generator().manual_seed(step)
    rows = [torch.randint(1, 100, (n,), generator=generator).tolist() for n in (3, 4, 4, 5, 7, 9)]
    return pack_rows(
        rows,
        segments=[[0] * 2 + [1] * (len(row) - 2) for row in rows],
        row_keys_B=row_keys(torch.arange(len(rows)), seed=0, step=step),
        group_sizes=[3, 1, 2],
    )


def classifier_loss(model: nn.Module, inputs: ModelInputs) -> Tensor:
    return F.cross_entropy(model(inputs).float(), torch.tensor([0, 1, 2, 0, 1, 2]))


def pretraining_loss(model: Any, inputs: ModelInputs) -> Tensor:
    return model.losses(
        inputs, masked_P=MASKED_P, targets_P=TARGETS_P, labels_B=torch.tensor([0, 1, 1, 0, 1, 0]),
        mlm_scale=torch.tensor(0.25), nsp_scale=1 / 6,
    ).sum()  # fmt: skip


KINDS: dict[str, tuple[Callable[[BertConfig], nn.Module], Callable[[Any, ModelInputs], Tensor]]] = {
    "classifier": (lambda config: build_classifier(config, num_labels=3, seed=0), classifier_loss),
    "pretraining": (lambda config: build_pretraining(config, seed=0), pretraining_loss),
}


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def assert_near(found: Tensor, expected: Tensor, *, tolerance: float, name: str = "") -> None:
    """Compare by the norm of the difference: single small numbers are differences of large ones."""
    error = (found.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-3)
    assert error < tolerance, (name, float(error))


@PRECISIONS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writes", [False, True])
def test_outputs_and_gradients_are_those_of_the_plain_model(
    config: BertConfig, kind: str, dtype: torch.dtype, writes: bool
) -> None:
    make, loss_of = KINDS[kind]
    plain, fast = make(config).eval(), accelerate(make(config)).eval()
    if writes:
        write_gradients(fast, tables=True)
        for parameter in fast.parameters():
            parameter.grad = torch.zeros_like(parameter)
    with autocast(dtype), torch.no_grad():
        hidden_ND, expected_ND = fast.bert(batch()), plain.bert(batch())
        assert_near(hidden_ND, expected_ND, tolerance=TOLERANCE[dtype])
        assert_near(fast.bert.pooled(batch()), plain.bert.pooled(batch()), tolerance=TOLERANCE[dtype])
    with autocast(dtype):
        losses = [loss_of(model, batch()) for model in (fast, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=TOLERANCE[dtype])
    for loss in losses:
        loss.backward()
    for (name, found), expected in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if not name.endswith("key.bias"):  # whose true gradient is 0: softmax does not see it
            assert_near(found.grad, expected.grad, tolerance=2 * TOLERANCE[dtype], name=name)


@PRECISIONS
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_have_the_losses_of_the_plain_model(
    config: BertConfig, kind: str, dtype: torch.dtype
) -> None:
    make, loss_of = KINDS[kind]
    curves = []
    for model in (make(config), accelerate(make(config))):
        optimizer = torch.optim.AdamW(model.eval().parameters(), lr=1e-3)
        losses = []
        for step in range(20):
            with autocast(dtype):
                loss = loss_of(model, batch(step=step % 4))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    # AdamW's first steps have the size of the rate whatever the gradient is, so that small differences of
    # single gradients do not stay small differences of weights.
    tolerance = 1e-4 if dtype == torch.float32 else 8 * BF16_EPS
    assert curves[1] == pytest.approx(curves[0], rel=tolerance, abs=tolerance)
    assert curves[0][-1] < 0.8 * curves[0][0]


def feed_the_same_masks(
    monkeypatch: pytest.MonkeyPatch, model: BertForSequenceClassification, inputs: ModelInputs
) -> None:
    """Let the plain model drop what keyed dropout drops: elements and probabilities, site by site."""
    num_rows, layers = len(inputs.starts_B), count()
    masks = TokenMasks(
        DropoutPool(model.config, seed=5),
        row_keys_B=inputs.row_keys_B,
        rows_N=torch.arange(num_rows).repeat_interleave(inputs.lengths_B),
        positions_N=inputs.positions_N,
    )

    def at(site: int) -> Callable[[Tensor], Tensor]:
        def drop(x: Tensor) -> Tensor:
            # The last layer has first tokens only.
            those = masks if len(x) == len(inputs.ids_N) else masks.at(inputs.starts_B)
            return x * those.hidden(site).of(x)

        return drop

    sites: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [(model.bert.embeddings.dropout, at(0))]
    for i, layer in enumerate(model.bert.encoder.layer):
        sites += [(layer.attention.output.dropout, at(1 + 2 * i)), (layer.output.dropout, at(2 + 2 * i))]
    sites.append((model.dropout, lambda x: x * masks.classifier().of(x)))
    for module, drop in sites:
        monkeypatch.setattr(module, "forward", drop)

    def attend(q_NHE: Tensor, k_NHE: Tensor, v_NHE: Tensor, *, inputs: ModelInputs, dropout: float) -> Tensor:
        assert dropout == model.config.attention_probs_dropout_prob
        mask, context = masks.attention(next(layers)), []
        lengths = inputs.lengths_B.tolist()
        for r, row in enumerate(zip(*(x.split(lengths) for x in (q_NHE, k_NHE, v_NHE)), strict=True)):
            q, k, v = (x.transpose(0, 1) for x in row)
            probs_HLL = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(dim=-1)
            context.append((probs_HLL * mask.of(probs_HLL, first_row=r) @ v).transpose(0, 1))
        return torch.cat(context)

    monkeypatch.setattr(bert, "attend", attend)


@PRECISIONS
def test_with_the_same_masks_dropout_is_that_of_the_plain_model(
    monkeypatch: pytest.MonkeyPatch, config: BertConfig, dtype: torch.dtype
) -> None:
    plain, fast = (build_classifier(config, num_labels=3, seed=0).train() for _ in range(2))
    set_dropout(accelerate(fast), DropoutPool(config, seed=5))
    inputs = batch()
    feed_the_same_masks(monkeypatch, plain, inputs)
    with autocast(dtype):
        found, expected = fast(inputs), plain(inputs)
    assert_near(found, expected, tolerance=TOLERANCE[dtype])
    for logits in (found, expected):
        logits.float().square().sum().backward()
    with torch.no_grad():
        assert not torch.allclose(found.float(), fast.eval()(inputs), atol=0.1)  # they did drop something
    for (name, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if not name.endswith("key.bias"):
            assert_near(ours.grad, theirs.grad, tolerance=2 * TOLERANCE[dtype], name=name)


def test_parameters_stay_where_they_are_under_their_names(config: BertConfig) -> None:
    model = build_pretraining(config, seed=0)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert state_of(model) is None
    assert accelerate(model) is model
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before
    state = state_of(model)
    assert state is not None
    assert state_of(accelerate(model)) is state  # a second call changes nothing


def test_a_model_on_another_device_stays_the_plain_one(config: BertConfig) -> None:
    model = accelerate(build_classifier(config, num_labels=3, seed=0).to("meta"))
    assert state_of(model) is None
    assert type(model.bert) is bert.BertModel and type(model.dropout) is nn.Dropout
    with pytest.raises(AssertionError, match="call `accelerate` first"):
        set_dropout(model, None)


class TokenTagger(nn.Module):
    """A head that knows the plain model only."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = bert.BertModel(config)
        self.dropout = nn.Dropout(0.5)
        self.tags = nn.Linear(config.hidden_size, 4)

    def forward(self, inputs: ModelInputs) -> Tensor:
        return self.tags(self.dropout(self.bert(inputs)))


def test_a_new_head_is_accelerated_without_its_knowing(config: BertConfig) -> None:
    torch.manual_seed(0)
    plain, fast = TokenTagger(config), TokenTagger(config)
    fast.load_state_dict(plain.state_dict())
    accelerate(fast)
    assert_near(fast.eval()(batch()), plain.eval()(batch()), tolerance=1e-5)
    set_dropout(fast.train(), DropoutPool(config, seed=0))
    torch.manual_seed(1)
    dropped_NT = fast(batch())
    assert dropped_NT.shape == (32, 4)
    torch.manual_seed(1)
    assert torch.equal(fast(batch()), dropped_NT)
    torch.manual_seed(2)
    assert not torch.equal(fast(batch()), dropped_NT)  # over tokens, dropout follows torch's random state
