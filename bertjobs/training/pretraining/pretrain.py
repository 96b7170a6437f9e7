"""Pretrain BERT: the shared loop over examples that are made on the fly, and the last weights at its end."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from bertjobs.config.pretrain import PretrainConfig, PretrainTrainSection
from bertjobs.modeling.cpu import accelerate, state_of, write_gradients
from bertjobs.modeling.heads import BertForPreTraining
from bertjobs.modeling.param_groups import num_trained
from bertjobs.storage import JobDir
from bertjobs.text.pretraining.masking import Masker
from bertjobs.text.pretraining.pairing import Pairing
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.training.adamw import make_optimizer
from bertjobs.training.checkpoints.run_state import RunState
from bertjobs.training.distributed import current_ranks
from bertjobs.training.gradient_exchange import DataParallel, uses_ddp
from bertjobs.training.loop import TrainLoop, determinism
from bertjobs.training.memory import MemoryNeed, check_memory, estimate_training, has_room_for_copy
from bertjobs.training.monitoring.progress import Hooks
from bertjobs.training.precision import fp32_products, training_dtype
from bertjobs.training.pretraining.pretrain_batches import (
    BlockSource,
    Corpus,
    PretrainBatchLoader,
    PretrainMicrobatch,
    PretrainStepBatch,
)
from bertjobs.training.pretraining.pretrain_metrics import VALID_SEED, PretrainMetrics, evaluate_pretraining
from bertjobs.training.schedule import Budget, check_schedule

_STEPS_PER_MASK_POOL = 1000
"""Drawing a pool of dropout masks takes some 50 ms, which is nothing over 1,000 steps."""


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """How a run ended. The model given to `pretrain` holds the last weights."""

    num_steps: int
    """Optimizer steps in all, those of earlier attempts included."""
    num_tokens: int
    """Tokens seen in all, padding not counted."""
    metrics: PretrainMetrics | None
    """Of the last weights; of those evaluated last where the run was stopped, None where none were."""
    best_step: int
    """Steps after which the validation loss was lowest."""
    stopped: str | None
    """What `Hooks.should_stop` said, where that ended the run."""
    plots: tuple[str, ...] = ()
    """Names of the pictures in the job's folder."""


def pretrain(
    model: BertForPreTraining,
    *,
    config: PretrainConfig,
    train: BlockSource,
    valid: BlockSource,
    tokenizer: Tokenizer,
    job_dir: JobDir,
    hooks: Hooks,
    resume: str | None = None,
    data_parallel: DataParallel | None = None,
    writes_behind: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> PretrainResult:
    """Train a model, already on its device, on `train`; leave it with its last weights.

    resume: the name of a published checkpoint of `job_dir`. clock: in seconds; a budget by time follows it.
    data_parallel: as `make_exchange`. writes_behind: as `finetune`.
    Writes `checkpoints/`, `metrics.jsonl`, `tensorboard/` and `plots/`; the caller writes `model/`.

    Raises:
        DataError: no example can be made of a corpus. ConfigError: as `finetune`.
        ModelError: the checkpoint is damaged, or belongs to another run; no whole words in the vocabulary.
        TrainingError: the loss is not finite. OutOfMemory: with what to change.
        StorageError: an artefact cannot be written. LeaseLost: from the hooks.
    """
    check_schedule(config.optim)
    with determinism(config.train.deterministic), fp32_products(config.train.precision):
        accelerate(model)
        objective = _Pretraining(model, config=config, train=train, valid=valid, tokenizer=tokenizer)
        _prepare(model, config=config)
        need = memory_need(model, config=config)
        check_memory(model, need)
        device = next(model.parameters()).device
        has_ddp = uses_ddp(config.train.grad_exchange, ranks=current_ranks(), device=device)
        optimizer = make_optimizer(
            model,
            uses_ddp=has_ddp,
            num_layers=model.config.num_hidden_layers,
            optim=config.optim,
            dtype=training_dtype(config.train.precision, device),
        )
        loop = TrainLoop(
            model,
            objective=objective,
            optimizer=optimizer,
            optim=config.optim,
            train=config.train,
            job_dir=job_dir,
            hooks=hooks,
            clock=clock,
            data_parallel=data_parallel,
            writes_behind=writes_behind and has_room_for_copy(model, need),
        )
        if state_of(model) is not None and not has_ddp:
            write_gradients(model, tables=True)  # straight into the optimizer's buffers
        loop.begin(resume)
        try:
            loop.train()
            return _finish(loop, job_dir=job_dir)
        finally:
            loop.close()


class _Pretraining:
    """Mean cross-entropy of the masked positions plus that of the sentence pairs.

    Source: Devlin et al. 2019 (BERT), section 3.1 and appendix A.2; Lan et al. 2020 (ALBERT), section 3.1,
    for sentence order.
    """

    def __init__(
        self,
        model: BertForPreTraining,
        *,
        config: PretrainConfig,
        train: BlockSource,
        valid: BlockSource,
        tokenizer: Tokenizer,
    ) -> None:
        self._model, self._config = model, config
        self._ranks = current_ranks()
        self._has_pairs = config.objective.pairs != "none"
        self.loss_names: tuple[str, ...] = ("mlm_loss", "nsp_loss") if self._has_pairs else ("mlm_loss",)
        self._loader, self._valid_loader = (
            self._make_loader(source, tokenizer=tokenizer, seed=seed)
            for source, seed in ((train, config.train.seed), (valid, VALID_SEED))
        )
        device = next(model.parameters()).device
        self._log_frequencies_V = self._loader.corpus.log_frequencies().to(device)
        self._steps_per_epoch = -(-self._loader.corpus.num_examples // config.train.batch_size)
        self.budget = budget_of(config.train, steps_per_epoch=self._steps_per_epoch)

    def identity(self) -> Mapping[str, Any]:
        return {
            "num_examples": self._loader.corpus.num_examples,
            "num_corpus_tokens": self._loader.corpus.num_tokens,
            "batch_size": self._config.train.batch_size,
            "seed": self._config.train.seed,
            "max_len": self._config.text.max_len,
            "objective": self._config.objective.model_dump(),
            "budget": asdict(self.budget),
        }

    def epoch_of(self, step: int) -> int:
        return step // self._steps_per_epoch

    def mask_pool_of(self, step: int) -> int:
        return step // _STEPS_PER_MASK_POOL  # an epoch may be a million steps

    def step_batch(self, step: int) -> PretrainStepBatch:
        train = self._config.train
        return self._loader.step_batch(step, batch_size=train.batch_size, min_microbatches=train.accumulation)

    def losses(self, microbatch: PretrainMicrobatch, batch: PretrainStepBatch) -> Tensor:
        return self._model.losses(
            microbatch.inputs,
            masked_P=microbatch.masked_P,
            targets_P=microbatch.targets_P,
            labels_B=microbatch.labels_B if self._has_pairs else None,
            mlm_scale=1.0 / batch.num_masked,
            nsp_scale=1.0 / batch.num_rows,
        )

    def is_evaluation_step(self, num_done: int) -> bool:
        eval_steps = self._config.train.eval_steps
        return eval_steps is not None and num_done % eval_steps == 0

    def evaluate(self) -> PretrainMetrics:
        train = self._config.train
        return evaluate_pretraining(
            self._model,
            self._valid_loader,
            log_frequencies_V=self._log_frequencies_V,
            num_examples=train.eval_examples,
            batch_size=train.eval_batch_size,
            has_pairs=self._has_pairs,
            ranks=self._ranks,
            precision=train.precision,
        )

    def value_of(self, scores: PretrainMetrics) -> float:
        return -scores.loss

    def scores_from_json(self, content: Mapping[str, Any]) -> PretrainMetrics:
        return PretrainMetrics.from_json(content)

    def is_out_of_patience(self, state: RunState) -> bool:
        return False

    def step_to_keep(self, state: RunState) -> int | None:
        return None  # the result is the last weights

    def _make_loader(self, source: BlockSource, *, tokenizer: Tokenizer, seed: int) -> PretrainBatchLoader:
        config = self._config
        pairing = Pairing(config.objective, config.text.max_len, sep_id=tokenizer.sep_id)
        return PretrainBatchLoader(
            Corpus(
                source,
                pairing=pairing,
                ranks=self._ranks,
                seed=seed,
                shuffle_blocks=config.data.shuffle_blocks,
                vocab_size=self._model.config.vocab_size,
            ),
            pairing=pairing,
            masker=Masker(config.objective, tokenizer),
            tokenizer=tokenizer,
            seed=seed,
            max_tokens=config.train.microbatch_tokens,
            ranks=self._ranks,
        )


def budget_of(train: PretrainTrainSection, *, steps_per_epoch: int) -> Budget:
    """Return the run's length: tokens, seconds or steps where given, else epochs."""
    if train.max_tokens is not None:
        return Budget(num_tokens=train.max_tokens)
    if train.max_time_s is not None:
        return Budget(train_s=train.max_time_s)
    return Budget(num_steps=train.max_steps or train.epochs * steps_per_epoch)


def _prepare(model: BertForPreTraining, *, config: PretrainConfig) -> None:
    """Freeze the heads that the objective does not use; set activation checkpointing."""
    if config.objective.pairs == "none":
        model.bert.pooler.requires_grad_(False)
        model.cls.seq_relationship.requires_grad_(False)
    model.bert.encoder.recomputes = config.train.activation_checkpointing


def memory_need(model: BertForPreTraining, *, config: PretrainConfig) -> MemoryNeed:
    """Estimate a worker's memory: for its share of a batch, or for `microbatch_tokens` where that is less."""
    device = next(model.parameters()).device
    train, max_len = config.train, config.text.max_len
    share = -(-train.batch_size // (current_ranks().world_size * train.accumulation))
    return estimate_training(
        model.config,
        num_weights=sum(p.numel() for p in model.parameters()),
        num_trained=num_trained(model.parameters()),
        num_tokens=min(train.microbatch_tokens, share * max_len),
        max_len=max_len,
        dtype=training_dtype(train.precision, device),
        device=device,
        recomputes=train.activation_checkpointing,
        predicts_words=True,
    )


def _finish(loop: TrainLoop, *, job_dir: JobDir) -> PretrainResult:
    """Plot the curves."""
    state, plots = loop.state, tuple[str, ...]()
    if loop.stopped is None and loop.lines is not None:
        from bertjobs.training.monitoring.plots import save_pretraining_plots  # matplotlib: paid at the end

        plots = save_pretraining_plots(job_dir.outputs(), loop.lines)
    return PretrainResult(
        num_steps=state.num_done,
        num_tokens=state.num_tokens,
        metrics=state.last.metrics if state.last else None,
        best_step=state.best.step if state.best else 0,
        stopped=loop.stopped,
        plots=plots,
    )
