"""What CUDA would run of the plain model, without a GPU: its kernels, waits, dtypes and shapes."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bertjobs.modeling import (
    BertConfig,
    ModelInputs,
    attention,
    build_classifier,
    build_pretraining,
    pack_rows,
)
from bertjobs.modeling.attention import attend_padded
from cuda_autocast import CudaAutocast, fake_cuda_autocast
from flash_on_cpu import FlashOnCpu
from host_waits import NoHostWaits

LENGTHS = (3, 5, 5, 8)
BF16_EPS = 2.0**-8
KERNELS_PER_LAYER = 80
"""Most operations that launch a kernel in one eager step of one layer in bf16, forward and backward."""
KERNELS_BESIDES = 85
"""The same for embeddings, pooler, classifier and loss."""


@pytest.fixture
def flash_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way of a GPU with flash attention on every device."""
    monkeypatch.setattr(
        attention, "has_flash", lambda device, dtype, head_size: dtype in (torch.bfloat16, torch.float16)
    )


def batch() -> ModelInputs:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 100, (n,), generator=generator).tolist() for n in LENGTHS]
    return pack_rows(rows, segments=[[0] * len(row) for row in rows])


def fake_batch() -> ModelInputs:
    """Return a batch of tensors on `cuda` that have shapes and no values; under `FakeTensorMode`."""
    N, B = sum(LENGTHS), len(LENGTHS)
    places = {"dtype": torch.int64, "device": "cuda"}
    return ModelInputs(
        ids_N=torch.empty(N, **places),
        segments_N=torch.empty(N, **places),
        positions_N=torch.empty(N, **places),
        offsets=torch.empty(B + 1, dtype=torch.int32, device="cuda"),
        starts_B=torch.empty(B, **places),
        lengths_B=torch.empty(B, dtype=torch.int64),
        max_len=max(LENGTHS),
        groups=(),
    )


def step(model: nn.Module, inputs: ModelInputs) -> float:
    """Take a forward and a backward pass under the dtypes of CUDA's autocast."""
    with torch.autocast("cpu", dtype=torch.bfloat16), CudaAutocast():
        loss = F.cross_entropy(model(inputs).float(), torch.tensor([0, 1, 2, 0]))
        with torch.autocast("cpu", enabled=False):
            loss.backward()
    return loss.item()


@pytest.mark.usefixtures("flash_everywhere")
def test_an_eager_step_launches_no_more_kernels_than_its_budget(small_config: BertConfig) -> None:
    found = {}
    for num_layers in (2, 4):
        config = replace(small_config, num_hidden_layers=num_layers)
        model = build_classifier(config, num_labels=3, seed=0).train()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        inputs = batch()
        with FlashOnCpu() as kernels:
            step(model, inputs)
        assert kernels.num_attentions == num_layers
        found[num_layers] = Counter(kernels.names)
    per_layer = (found[4].total() - found[2].total()) / 2
    besides = found[2].total() - 2 * per_layer
    assert per_layer <= KERNELS_PER_LAYER, (found[4] - found[2]).most_common()
    assert besides <= KERNELS_BESIDES, found[2].most_common()
    # One product for queries, keys and values: with the two of the feed-forward part and that of the context
    # four products a layer, and two more for each in the backward pass.
    products = {n: sum(found[n][name] for name in ("addmm", "mm", "bmm", "linear")) for n in found}
    assert (products[4] - products[2]) / 2 == 4 + 8


@pytest.mark.usefixtures("flash_everywhere")
@pytest.mark.parametrize("kind", ["classifier", "pretraining"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_step_makes_the_host_wait_for_nothing(
    small_config: BertConfig, kind: str, recomputes: bool
) -> None:
    device = torch.device("meta")
    build: Any = build_pretraining if kind == "pretraining" else build_classifier
    options = {} if kind == "pretraining" else {"num_labels": 3}
    model = build(small_config, seed=0, **options).to(device, torch.bfloat16).train()
    model.bert.encoder.recomputes = recomputes
    inputs = batch().to(device)
    places = torch.empty(4, dtype=torch.int64, device=device)
    with NoHostWaits() as waits:
        if kind == "pretraining":
            loss = model.losses(
                inputs, masked_P=places, targets_P=places, labels_B=places,
                mlm_scale=torch.empty((), device=device), nsp_scale=0.25,
            ).sum()  # fmt: skip
        else:
            loss = F.cross_entropy(model(inputs), places)
        loss.backward()
    assert waits.num_operations > 50 and waits.copies == []
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_padded_attention_makes_the_host_wait_for_nothing() -> None:
    inputs = batch().to(torch.device("meta"))
    q, k, v = (torch.empty(sum(LENGTHS), 2, 8, device="meta", requires_grad=True) for _ in range(3))
    with NoHostWaits() as waits:
        attend_padded(q, k, v, inputs=inputs, dropout=0.1).sum().backward()
    assert waits.num_operations > 10 and waits.copies == []


@pytest.mark.parametrize("has_flash", [True, False])
def test_under_cudas_autocast_products_are_bf16_and_the_residual_stream_fp32(
    small_config: BertConfig, monkeypatch: pytest.MonkeyPatch, has_flash: bool
) -> None:
    monkeypatch.setattr(attention, "_is_built_for", lambda device: has_flash)
    model = build_classifier(small_config, num_labels=3, seed=0).train()
    seen: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda module, given, output, name=name: seen.__setitem__(name, output.dtype)
        )
    with fake_cuda_autocast():
        # A parameter cannot become one of another device under the mode, but a call can be given others.
        there = {name: torch.empty(p.shape, device="cuda") for name, p in model.named_parameters()}
        inputs = fake_batch()
        logits_BC = torch.func.functional_call(model, there, (inputs,))
        assert logits_BC.device.type == "cuda" and logits_BC.shape == (4, 3)
    half = {name for name, dtype in seen.items() if dtype == torch.bfloat16}
    layers = [name for name in seen if name.endswith((".dense", ".query", "classifier"))]
    assert layers and half >= set(layers)
    assert "bert.encoder.layer.0.attention.self" in half
    for name in ("bert.embeddings", "bert.encoder.layer.0.attention.output", "bert.encoder.layer.0.output"):
        assert seen[name] == torch.float32, name


@pytest.mark.usefixtures("flash_everywhere")
def test_steps_by_flash_attention_are_those_of_padded_attention(small_config: BertConfig) -> None:
    config = replace(
        small_config, initializer_range=0.15, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    gradients = []
    for mode in (FlashOnCpu(), None):
        model = build_classifier(config, num_labels=3, seed=0).train()
        if mode is not None:
            with mode:
                step(model, batch())
            assert mode.num_attentions == 2
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attention, "has_flash", lambda *_, **__: False)
                step(model, batch())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, found in gradients[0].items():
        if not name.endswith("key.bias"):  # whose true gradient is 0: softmax does not see it
            expected = gradients[1][name]
            assert (found - expected).norm() / expected.norm() < 8 * BF16_EPS, name


@pytest.mark.usefixtures("flash_everywhere")
def test_recomputed_layers_drop_what_they_dropped(small_config: BertConfig) -> None:
    gradients = []
    for recomputes in (False, True):
        model = build_classifier(small_config, num_labels=3, seed=0).train()
        model.bert.encoder.recomputes = recomputes
        torch.manual_seed(3)
        with FlashOnCpu() as kernels:
            step(model, batch())
        assert kernels.num_attentions == 2 * (1 + recomputes)
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("has_flash", [True, False])
def test_torch_compile_follows_it_in_one_graph_for_batches_of_all_shapes(
    small_config: BertConfig, monkeypatch: pytest.MonkeyPatch, has_flash: bool
) -> None:
    monkeypatch.setattr(attention, "has_flash", lambda *_, **__: has_flash)
    model = build_classifier(replace(small_config, num_hidden_layers=1), num_labels=3, seed=0)
    graphs = []

    def keep(graph: torch.fx.GraphModule, examples: Any) -> Any:
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return lambda *given: (torch.zeros(4, 3),)  # flash attention does not run here

    torch._dynamo.reset()
    compiled = torch.compile(model.train(), backend=keep, dynamic=True, fullgraph=True)
    for lengths in (LENGTHS, (4, 4, 6, 9)):
        rows = [[1] * length for length in lengths]
        assert compiled(pack_rows(rows, segments=rows)).shape == (4, 3)
    torch._dynamo.reset()
    (targets,) = graphs
    assert any("_flash_attention_forward" in target for target in targets) is has_flash
