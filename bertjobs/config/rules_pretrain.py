"""Rules over the parameters of pretraining."""

import math
from typing import Any

from bertjobs.config.presets import size_names
from bertjobs.config.rule import (
    BATCH_SPLIT,
    DECAY_RATIO_IDLE,
    MICROBATCH_TOO_SMALL,
    NUM_HEADS_IDLE,
    WORKERS,
    WSD_TOO_LONG,
    Contradiction,
    Idle,
    vocabulary_idle,
)
from bertjobs.config.schema_pretrain import PUBLISHED_CORPORA

_BUDGETS = ("train.max_steps", "train.max_tokens", "train.max_time_s")


def _budgets(c: Any) -> list[str]:
    values = (c.train.max_steps, c.train.max_tokens, c.train.max_time_s)
    return [path for path, value in zip(_BUDGETS, values, strict=True) if value is not None]


def _action_ratios(c: Any) -> float:
    o = c.objective
    return float(o.mask_token_ratio + o.random_token_ratio + o.keep_token_ratio)


PRETRAIN_CONTRADICTIONS: tuple[Contradiction, ...] = (
    WORKERS,
    BATCH_SPLIT,
    WSD_TOO_LONG,
    MICROBATCH_TOO_SMALL,
    Contradiction(
        paths=("objective.mask_token_ratio", "objective.random_token_ratio", "objective.keep_token_ratio"),
        holds=lambda c: not math.isclose(_action_ratios(c), 1.0, abs_tol=1e-9),
        says=lambda c: (
            "the shares of predicted positions that are masked, replaced and kept must add up to 1, but add "
            f"up to {_action_ratios(c):g}"
        ),
    ),
    Contradiction(
        paths=_BUDGETS,
        holds=lambda c: len(_budgets(c)) > 1,
        says=lambda c: "a run has one budget: steps, tokens, time or epochs",
    ),
)

PRETRAIN_IDLE: tuple[Idle, ...] = (
    DECAY_RATIO_IDLE,
    Idle(
        path="train.epochs",
        holds=lambda c: bool(_budgets(c)),
        because="another budget says how long it takes",
    ),
    *vocabulary_idle("model.vocab", "model.vocab_kind", "model.vocab_size", "model.vocab_min_count"),
    *(
        Idle(
            path=path,
            holds=lambda c: c.model.source in size_names() and c.model.vocab is not None,
            because="a vocabulary was given, so none is made from the corpus",
        )
        for path in ("model.vocab_kind", "model.vocab_size", "model.vocab_min_count")
    ),
    Idle(
        path="model.vocab_size",
        holds=lambda c: c.model.source in size_names() and c.model.vocab_kind == "word",
        because="a word vocabulary takes every word that occurs --vocab-min-count times",
    ),
    Idle(
        path="model.vocab_min_count",
        holds=lambda c: c.model.source in size_names() and c.model.vocab_kind == "wordpiece",
        because="only a word vocabulary reads it; --vocab-size sizes wordpieces",
    ),
    NUM_HEADS_IDLE,
    Idle(
        path="data.path",
        holds=lambda c: c.data.corpus not in PUBLISHED_CORPORA,
        because="only a published corpus is looked for in a folder; --corpus names files by their path",
    ),
    Idle(
        path="data.valid_ratio",
        holds=lambda c: c.data.valid is not None,
        because="a validation corpus was given, so nothing is held out",
    ),
    Idle(
        path="objective.segments",
        holds=lambda c: c.objective.pairs == "none",
        because="without pairs there is one segment of full length",
    ),
)
