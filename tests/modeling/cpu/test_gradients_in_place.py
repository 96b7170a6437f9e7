"""Gradients written straight to `.grad` are those that autograd would have accumulated."""

import torch

from bertjobs.modeling import build_classifier
from bertjobs.modeling.cpu import accelerate, write_gradients


def test_written_gradients_add_up_to_what_autograd_accumulates(small_config, pair_inputs):
    plain = accelerate(build_classifier(small_config, num_labels=3, seed=0))
    writing = accelerate(build_classifier(small_config, num_labels=3, seed=0))
    write_gradients(writing)
    for model in (plain, writing):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
    places = {name: p.grad.data_ptr() for name, p in writing.named_parameters()}
    for model in (plain, writing):
        for _ in range(2):
            model(pair_inputs).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), writing.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-7, rtol=1e-4, msg=name)
        assert b.grad.data_ptr() == places[name]


def test_a_model_that_writes_still_returns_gradients_where_none_is_set(small_config, pair_inputs):
    model = accelerate(build_classifier(small_config, num_labels=3, seed=0))
    write_gradients(model)
    model(pair_inputs).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_frozen_layers_get_no_gradient_and_pass_none_further(small_config, pair_inputs):
    model = accelerate(build_classifier(small_config, num_labels=3, seed=0))
    for part in (model.bert.embeddings, model.bert.encoder.layer[0]):
        part.requires_grad_(False)
    model(pair_inputs).square().sum().backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("bert.embeddings", "bert.encoder.layer.0."))
        assert (parameter.grad is None) == frozen, name
