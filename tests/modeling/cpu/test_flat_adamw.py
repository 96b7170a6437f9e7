from types import ModuleType

import pytest
import torch

from bertjobs.config.sections import OptimSection
from bertjobs.errors import ConfigError, ModelError
from bertjobs.modeling.cpu.flat_adamw import FlatAdamW, build_optimizer
from bertjobs.modeling.param_groups import depth_of, freeze, parameter_groups
from bertjobs.training.distributed import current_ranks

USED = torch.tensor([0, 1, 2, 5, 7, 11, 60])
TOUCHED = torch.tensor([1, 5, 60])


def _optimizer(model: torch.nn.Module, **optim: object) -> FlatAdamW:
    return build_optimizer(
        model,
        num_layers=2,
        word_table=model.bert.embeddings.word_embeddings,
        token_ids_U=USED,
        optim=OptimSection.model_validate(optim),
    )


def _fill_gradients(model: torch.nn.Module, *, seed: int) -> dict[str, torch.Tensor]:
    """Add random gradients, as a backward pass does; the word table's only at the touched rows."""
    generator = torch.Generator().manual_seed(seed)
    gradients = {}
    for name, parameter in model.named_parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        if "word_embeddings" in name:
            gradient = torch.zeros_like(gradient).index_copy(0, TOUCHED, gradient[TOUCHED])
        assert parameter.grad is not None
        parameter.grad.add_(gradient)
        gradients[name] = gradient
    return gradients


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0, 1e6])
def test_steps_equal_torch_with_clipping(tiny: ModuleType, max_grad_norm: float) -> None:
    ours, theirs = tiny.make_model(), tiny.make_model()
    optimizer = _optimizer(ours, lr=1e-2, weight_decay=0.1, max_grad_norm=max_grad_norm)
    decayed = [p for p in theirs.parameters() if p.ndim >= 2]
    others = [p for p in theirs.parameters() if p.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-2
    )
    for step in range(4):
        optimizer.zero_grad()
        gradients = _fill_gradients(ours, seed=step)
        norm = optimizer.sum_gradients(current_ranks(), token_ids_T=TOUCHED)
        optimizer.step(lr=1e-2, grad_norm=norm)
        for name, parameter in theirs.named_parameters():
            parameter.grad = gradients[name]
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm or float("inf"))
        reference.step()
        assert float(norm) == pytest.approx(float(their_norm), rel=1e-5)
    unused = torch.ones(tiny.VOCAB_SIZE, dtype=torch.bool).index_fill(0, USED, False)
    for (name, our), their in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if "word_embeddings" in name:
            assert torch.equal(our[unused], tiny.make_model().get_parameter(name)[unused])
            our, their = our[USED], their[USED]
        torch.testing.assert_close(our, their, rtol=1e-4, atol=1e-6)


def test_clear_leaves_no_gradient(tiny: ModuleType) -> None:
    model = tiny.make_model()
    optimizer = _optimizer(model)
    _fill_gradients(model, seed=0)
    optimizer.scalars[0] = 3.0
    optimizer.sum_gradients(current_ranks(), token_ids_T=TOUCHED)
    optimizer.zero_grad()
    assert float(optimizer.sum_gradients(current_ranks(), token_ids_T=TOUCHED)) == 0.0
    assert not optimizer.scalars.any()
    assert all(not p.grad.any() for p in model.parameters())


def test_the_backward_pass_writes_into_the_buffers(tiny: ModuleType) -> None:
    model = tiny.make_model()
    _optimizer(model)
    before = {name: p.grad.data_ptr() for name, p in model.named_parameters()}
    words = model.bert.embeddings.word_embeddings
    loss = (words(TOUCHED) ** 2).sum() + sum(
        (p**2).sum() for p in model.parameters() if p is not words.weight
    )
    loss.backward()
    assert {name: p.grad.data_ptr() for name, p in model.named_parameters()} == before
    torch.testing.assert_close(words.weight.grad[TOUCHED], 2 * words.weight[TOUCHED].detach())
    assert all(p.grad.layout == torch.strided for p in model.parameters())


def test_only_matrices_decay(tiny: ModuleType) -> None:
    model = tiny.make_model()
    groups = parameter_groups(model, num_layers=2, optim=OptimSection(weight_decay=0.3))
    shapes = dict(model.named_parameters())
    assert [(group.weight_decay, group.lr_scale) for group in groups] == [(0.0, 1.0), (0.3, 1.0)]
    assert all(shapes[name].ndim == 1 for name in groups[0].names)
    assert all(shapes[name].ndim == 2 for name in groups[1].names)
    assert sum(len(group.names) for group in groups) == len(shapes)


def test_layer_decay_slows_lower_layers_down(tiny: ModuleType) -> None:
    model = tiny.make_model()
    groups = parameter_groups(model, num_layers=2, optim=OptimSection(layer_decay=0.5))
    scales = {name: group.lr_scale for group in groups for name in group.names}
    assert scales["bert.embeddings.word_embeddings.weight"] == 0.125
    assert scales["bert.encoder.layer.0.intermediate.dense.weight"] == 0.25
    assert scales["bert.encoder.layer.1.output.LayerNorm.bias"] == 0.5
    assert scales["bert.pooler.dense.weight"] == scales["classifier.bias"] == 1.0
    assert len(scales) == len(list(model.parameters()))


def test_layer_decay_reaches_the_step(tiny: ModuleType) -> None:
    model, before = tiny.make_model(), tiny.make_model()
    optimizer = _optimizer(model, layer_decay=0.5, weight_decay=0.0, max_grad_norm=0.0)
    for parameter in model.parameters():
        parameter.grad.fill_(1.0)
    optimizer.step(lr=1e-3, grad_norm=optimizer.sum_gradients(current_ranks(), token_ids_T=USED))
    for name, moved in (("bert.encoder.layer.0.output.dense.weight", 0.25e-3), ("classifier.weight", 1e-3)):
        change = before.get_parameter(name) - model.get_parameter(name)
        torch.testing.assert_close(change, torch.full_like(change, moved), rtol=1e-3, atol=1e-8)


def test_depths_follow_the_names() -> None:
    assert depth_of("bert.embeddings.LayerNorm.weight", num_layers=12) == 0
    assert depth_of("bert.encoder.layer.11.output.dense.bias", num_layers=12) == 12
    assert depth_of("bert.pooler.dense.bias", num_layers=12) == 13


def test_frozen_layers_get_no_gradient_and_are_not_in_the_optimizer(tiny: ModuleType) -> None:
    model, before = tiny.make_model(), tiny.make_model()
    optimizer = _optimizer(model, freeze_layers=1)
    names = {key.removesuffix(".exp_avg") for key in optimizer.state() if key.endswith(".exp_avg")}
    frozen = {n for n, _ in model.named_parameters() if "embeddings" in n or ".layer.0." in n}
    assert len(frozen) == 21
    assert names == {name for name, _ in model.named_parameters()} - frozen
    sum(((p - 3) ** 2).sum() for p in model.parameters()).backward()
    optimizer.step(lr=0.1, grad_norm=optimizer.sum_gradients(current_ranks(), token_ids_T=TOUCHED))
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name in frozen)
        assert torch.equal(parameter, before.get_parameter(name)) == (name in frozen)


def test_all_layers_frozen_trains_the_head(tiny: ModuleType) -> None:
    model = tiny.make_model()
    freeze(model, num_layers=2, freeze_layers=2)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
    ]


def test_more_frozen_layers_than_the_model_has_are_refused(tiny: ModuleType) -> None:
    with pytest.raises(
        ConfigError, match=r"--freeze-layers 3: the model has 2 encoder layers\. Give 2 at most"
    ):
        freeze(tiny.make_model(), num_layers=2, freeze_layers=3)


def test_state_of_other_wordpieces_or_frozen_layers_is_refused(tiny: ModuleType) -> None:
    optimizer = _optimizer(tiny.make_model())
    other_words = {**optimizer.state(), "word_rows.token_ids": USED + 1}
    with pytest.raises(ModelError, match="belong to another model, to other frozen layers or to other data"):
        optimizer.load_state(other_words, num_steps_done=1)
    with pytest.raises(ModelError, match="other frozen layers"):
        _optimizer(tiny.make_model(), freeze_layers=1).load_state(optimizer.state(), num_steps_done=1)
