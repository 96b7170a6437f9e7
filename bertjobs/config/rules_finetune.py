"""Rules over the parameters of fine-tuning and evaluation."""

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
    num_workers,
    vocabulary_idle,
)

FINETUNE_CONTRADICTIONS: tuple[Contradiction, ...] = (
    WORKERS,
    BATCH_SPLIT,
    WSD_TOO_LONG,
    MICROBATCH_TOO_SMALL,
)

FINETUNE_IDLE: tuple[Idle, ...] = (
    DECAY_RATIO_IDLE,
    Idle(
        path="train.epochs",
        holds=lambda c: c.train.max_steps is not None,
        because="--max-steps says how long it takes",
    ),
    *vocabulary_idle("model.vocab", "model.vocab_size"),
    Idle(
        path="model.vocab_size",
        holds=lambda c: c.model.source in size_names() and c.model.vocab is not None,
        because="the given vocabulary has its own size",
    ),
    NUM_HEADS_IDLE,
    Idle(
        path="data.valid_ratio",
        holds=lambda c: c.data.valid_split is not None,
        because="a named split is validated on, so nothing is held out",
    ),
    Idle(
        path="data.split_seed",
        holds=lambda c: c.data.valid_split is not None,
        because="a named split is validated on, so nothing is held out",
    ),
)

EVALUATE_CONTRADICTIONS: tuple[Contradiction, ...] = (
    WORKERS,
    Contradiction(
        paths=("resources.workers", "train.batch_size"),
        holds=lambda c: num_workers(c) > c.train.batch_size,
        says=lambda c: f"{num_workers(c)} workers cannot share batches of {c.train.batch_size}",
    ),
)
