"""A very small corpus, vocabulary and model to pretrain; hooks and folders as in `tiny.py`. Fp32 on the CPU.

Tests get this module as the fixture `tiny_pretrain`, `pretrain_ranks_worker.py` imports it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tiny

from bertjobs.config.pretrain import PretrainConfig
from bertjobs.modeling import BertConfig, BertForPreTraining, build_pretraining
from bertjobs.storage import JobDir
from bertjobs.text.corpus.blocks import Block, BlockInfo
from bertjobs.training.pretraining.pretrain import PretrainResult, pretrain

VOCAB_SIZE = 90


@dataclass(frozen=True)
class InMemoryBlocks:
    """The blocks of a small corpus."""

    blocks: Sequence[Block]
    infos: Sequence[BlockInfo]

    def get(self, number: int) -> Block:
        return self.blocks[number]


@dataclass(frozen=True)
class Vocabulary:
    """Ids 0 to 4 are special, those from 70 go on the word before them."""

    pad_id: int = 0
    unk_id: int = 1
    cls_id: int = 2
    sep_id: int = 3
    mask_id: int = 4
    vocab_size: int = VOCAB_SIZE

    @property
    def special_ids(self) -> np.ndarray:
        return np.arange(5)

    @property
    def is_continuation_V(self) -> np.ndarray:
        return np.arange(VOCAB_SIZE) >= 70


def make_corpus(num_documents: int, *, seed: int, num_blocks: int = 3) -> InMemoryBlocks:
    """Documents about a subject each: sentences that count up from one of its ids, which can be learnt."""
    rng = np.random.default_rng(seed)
    tables = []
    for documents in np.array_split(np.arange(num_documents), num_blocks):
        ids, owners = [], []
        for number, _ in enumerate(documents):
            subject = 5 + 12 * int(rng.integers(0, 7))
            for _ in range(int(rng.integers(2, 6))):
                start, length = int(rng.integers(0, 6)), int(rng.integers(2, 7))
                ids.append([subject + (start + i) % 12 for i in range(length)])
                owners.append(number)
        lists = pa.array(ids, pa.list_(pa.uint16()))
        tables.append(pa.table({"ids": lists, "document": pa.array(owners, pa.int32())}))
    return InMemoryBlocks([Block.from_arrow(t) for t in tables], [BlockInfo.of(t) for t in tables])


def make_model(
    *, dropout: float = 0.1, seed: int = 0, spread: float = 0.02, **words: Any
) -> BertForPreTraining:
    config = BertConfig(
        **{
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 32,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "initializer_range": spread,
            **words,
        }
    )
    return build_pretraining(config, seed=seed)


def make_config(
    *, optim: dict[str, Any] | None = None, objective: dict[str, Any] | None = None, **train: Any
) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "data": {"shuffle_blocks": 2},
            "text": {"max_len": 24},
            "objective": objective or {},
            "optim": {"lr": 3e-3, **(optim or {})},
            "train": {"batch_size": 8, "precision": "fp32", "eval_batch_size": 16, **train},
        }
    )


def run_pretrain(
    folder: Path,
    config: PretrainConfig,
    *,
    hooks: tiny.MemoryHooks | None = None,
    model: BertForPreTraining | None = None,
    num_documents: int = 60,
    **others: Any,
) -> tuple[PretrainResult, BertForPreTraining, tiny.MemoryHooks]:
    """Run `pretrain` in one call."""
    model, hooks = model or make_model(), hooks or tiny.MemoryHooks()
    result = pretrain(
        model,
        config=config,
        train=make_corpus(num_documents, seed=1),
        valid=make_corpus(40, seed=2, num_blocks=1),
        tokenizer=Vocabulary(),
        job_dir=JobDir(str(folder), "j-test"),
        hooks=hooks,
        writes_behind=False,
        **others,
    )
    return result, model, hooks
