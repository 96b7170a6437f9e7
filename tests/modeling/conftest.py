"""What the modeling tests share: small configurations and inputs, golden values; one thread of a CPU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertjobs.modeling import BertConfig, ModelInputs, pack_rows
from bertjobs.modeling.cpu import accelerate, row_keys


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Very small matrices are slower on several threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_config() -> BertConfig:
    return BertConfig(
        vocab_size=120,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=48,
    )


@pytest.fixture
def pair_inputs() -> ModelInputs:
    """Three pairs of different lengths in one group, with keys for dropout."""
    ids = [[101 % 120, 7, 8, 9, 3], [101 % 120, 5, 3], [101 % 120, 4, 4, 4, 4, 4, 3]]
    segments = [[0] * 3 + [1] * (len(row) - 3) for row in ids]
    keys_B = row_keys(torch.arange(3), seed=0, step=0)
    return pack_rows(ids, segments=segments, row_keys_B=keys_B)


@pytest.fixture(params=["plain", "cpu"])
def implementation(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Leave a model as it is, or swap what is faster on CPUs in: both must pass the test."""
    return accelerate if request.param == "cpu" else lambda model: model


@pytest.fixture(scope="session")
def d2l_golden(data_root: Path) -> Path:
    return data_root / "golden" / "d2l"
