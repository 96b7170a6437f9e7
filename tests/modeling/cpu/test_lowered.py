"""Weights are cast once per update, as neighbours; linear layers in bf16 compute what autograd does."""

import pytest
import torch
from torch import nn

from bertjobs.config.sections import OptimSection
from bertjobs.modeling import build_classifier
from bertjobs.modeling.cpu import accelerate, state_of
from bertjobs.modeling.cpu.flat_adamw import FlatAdamW, build_optimizer
from bertjobs.modeling.cpu.lowered import LoweredWeights, join, project_jointly
from bertjobs.training.distributed import current_ranks

BF16 = torch.bfloat16


def flat_parameters() -> tuple[torch.Tensor, list[nn.Parameter]]:
    flat = torch.arange(40.0) + 0.001  # which bf16 rounds away
    return flat, [nn.Parameter(flat[i : i + 12].view(3, 4)) for i in (0, 12, 28)]


def test_neighbours_are_stacked_and_others_are_not_served() -> None:
    flat, (a, b, c) = flat_parameters()
    lowered = LoweredWeights(flat, [a, b, c])
    assert torch.equal(lowered.of([a, b], BF16), torch.cat([a, b]).to(BF16))
    assert lowered.of([a, c], BF16) is None and lowered.of([b, a], BF16) is None
    assert lowered.of([nn.Parameter(torch.zeros(3, 4))], BF16) is None
    assert torch.equal(join([a, c], dtype=BF16, lowered=lowered), torch.cat([a, c]).to(BF16))
    assert torch.equal(join([a, b], dtype=BF16, lowered=None), torch.cat([a, b]).to(BF16))


def test_weights_are_cast_again_after_an_update_and_not_before() -> None:
    flat, parameters = flat_parameters()
    lowered = LoweredWeights(flat, parameters)
    first = lowered.of(parameters[:1], BF16)
    assert lowered.of(parameters[:1], BF16).data_ptr() == first.data_ptr()
    version = first._version
    lowered.of(parameters[1:2], BF16)
    assert first._version == version  # no second cast
    flat += 100
    lowered.mark_stale()
    assert torch.equal(lowered.of(parameters[:1], BF16), parameters[0].to(BF16))


def test_a_parameter_changed_by_others_is_noticed() -> None:
    flat, parameters = flat_parameters()
    lowered = LoweredWeights(flat, parameters)
    lowered.of(parameters[:1], BF16)
    with torch.no_grad():
        parameters[2].fill_(7.0)
        parameters[1].fill_(8.0)
    found = lowered.of(parameters[2:], BF16)
    assert (found == 7.0).all()
    version = found._version
    assert (lowered.of(parameters[1:2], BF16) == 8.0).all()
    assert found._version == version  # one cast for both


@pytest.mark.parametrize("writes", [False, True])
def test_layers_side_by_side_have_the_gradients_of_autograd(writes: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, size) for size in (4, 6)]
    layers[1].bias.requires_grad_(False)
    x = torch.randn(5, 8, dtype=BF16, requires_grad=True)
    weights = torch.randn(5, 10, dtype=BF16)
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    with torch.autocast("cpu", dtype=BF16):
        expected = torch.cat([layer(x) for layer in layers], dim=1)
    expected_grads = torch.autograd.grad((expected * weights).sum(), [x, *parameters[:3]])
    if writes:
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
    found = project_jointly(x, *parameters, write_gradients=writes, lowered=None)
    (found * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    # Both round their products to bf16.
    torch.testing.assert_close(x.grad, expected_grads[0], atol=0.02, rtol=0.02)
    for parameter, gradient in zip(parameters, expected_grads[1:], strict=False):
        torch.testing.assert_close(parameter.grad - int(writes), gradient, atol=0.02, rtol=0.02)
    if writes:
        assert (layers[1].bias.grad == 1).all()
    else:
        assert layers[1].bias.grad is None


def optimizer_of(model: nn.Module, config) -> FlatAdamW:
    return build_optimizer(model, num_layers=config.num_hidden_layers, optim=OptimSection())


def hidden_of(model, inputs) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=BF16):
        return model.bert(inputs)


def test_the_model_follows_every_change_of_its_weights(small_config, pair_inputs) -> None:
    model = accelerate(build_classifier(small_config, num_labels=3, seed=0)).eval()
    fresh = accelerate(build_classifier(small_config, num_labels=3, seed=0)).eval()
    optimizer = optimizer_of(model, small_config)
    assert state_of(model).lowered is optimizer.lowered

    def assert_current() -> None:
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(hidden_of(model, pair_inputs), hidden_of(fresh, pair_inputs))

    assert_current()
    before = hidden_of(model, pair_inputs)
    optimizer.scalars.fill_(0)
    for parameter in model.parameters():
        parameter.grad.fill_(0.1)
    optimizer.step(lr=0.1, grad_norm=torch.tensor(1.0))
    assert_current()
    assert not torch.equal(hidden_of(model, pair_inputs), before)
    other = build_classifier(small_config, num_labels=3, seed=1).state_dict()
    optimizer.load_weights(model, other)
    assert_current()
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    optimizer.broadcast_weights(model, current_ranks())
    assert_current()
    model.load_state_dict(other)  # without the optimizer's knowledge
    assert_current()


def test_queries_keys_and_values_of_a_layer_are_neighbours_in_the_optimizer(small_config) -> None:
    model = accelerate(build_classifier(small_config, num_labels=3, seed=0))
    lowered = optimizer_of(model, small_config).lowered
    attention = model.bert.encoder.layer[1].attention.self
    layers = (attention.query, attention.key, attention.value)
    assert lowered.of([layer.weight for layer in layers], BF16) is not None
    assert lowered.of([layer.bias for layer in layers], BF16) is not None
