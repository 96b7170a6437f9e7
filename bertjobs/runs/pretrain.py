"""Pretrain: the driver encodes the corpus and starts the workers; each worker trains as one rank.

Knows no queue: the run's reporter does.
"""

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import ray

from bertjobs.config import PretrainConfig
from bertjobs.config.sections import TextSection
from bertjobs.jobs.job import Grant
from bertjobs.modeling.build import build_pretraining
from bertjobs.modeling.heads import BertForPreTraining
from bertjobs.modeling.weights import save_pretrained
from bertjobs.runs import ray_train
from bertjobs.runs.artefacts import Artefact
from bertjobs.runs.data.corpus_blocks import StoredBlocks
from bertjobs.runs.data.encode_corpus import encode_corpus
from bertjobs.runs.model_card import ModelCard
from bertjobs.runs.model_source import model_and_tokenizer
from bertjobs.runs.reporting import TrainingHooks, stop_reason, watched
from bertjobs.runs.run_context import OpenReporter, Outcome, Reporter, Run
from bertjobs.runs.trackers import tracked
from bertjobs.storage import JobDir
from bertjobs.text.corpus.files import PUBLISHED_CORPORA, find_files, own_files
from bertjobs.text.corpus.shards import plan_shards
from bertjobs.text.pretraining.pairing import Pairing
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.vocabulary import make_vocabulary
from bertjobs.training.distributed import current_ranks
from bertjobs.training.pretraining.pretrain import pretrain

log = logging.getLogger(__name__)

METRIC = "mlm_accuracy"
"""The metric in the live series after each validation, besides the loss."""


def run_pretrain(run: Run[PretrainConfig]) -> Outcome:
    """Drive one pretraining attempt.

    Raises: DataError, ModelError, ConfigError: the request is wrong. TrainingError, WorkerLost, LeaseLost.
    """
    began = time.monotonic()
    data = run.config.data
    run.reporter.set_phase("reading the corpus")
    files = find_files(data.corpus, data.path, split="train", cache=run.settings.cache)
    source, tokenizer = model_and_tokenizer(
        run,
        max_len=run.config.text.max_len,
        new_vocabulary=lambda: _build_vocabulary(run, files),
    )
    run.reporter.set_phase("encoding the corpus")
    train, valid = _blocks(run, files, tokenizer)
    _check_blocks(run, train, valid, sep_id=tokenizer.sep_id)
    run.reporter.set_phase("starting workers")
    returned = ray_train.run_group(
        pretrain_worker,
        PretrainWork(
            config=run.config,
            source=ray.put(source),
            tokenizer=tokenizer,
            train=train,
            valid=valid,
            grant=run.grant,
            job_dir=run.job_dir,
            job_id=run.id,
            checkpoint=run.checkpoint,
            open_reporter=run.open_reporter,
        ),
        grant=run.grant,
        run_name=run.attempt_name,
        settings=run.settings,
    )
    if reason := returned["stopped"]:
        raise stop_reason(reason)
    metrics = returned["metrics"] | {
        "num_train_documents": sum(info.num_documents for info in train.infos),
        "num_train_tokens": sum(info.num_tokens for info in train.infos),
        "run_s": time.monotonic() - began,
    }
    run.job_dir.outputs().write_json("metrics.json", metrics)
    return Outcome(
        metrics=metrics,
        artifacts={
            "model": run.job_dir.path_of(run.job_dir.own("model")),
            "plots": [run.job_dir.outputs().path_of(name) for name in returned["plots"]],
        },
    )


@dataclass(frozen=True, kw_only=True)
class PretrainWork:
    """What every rank is given."""

    config: PretrainConfig
    source: ray.ObjectRef
    """Weights, or the size of a model that starts from random weights."""
    tokenizer: Tokenizer
    train: StoredBlocks
    valid: StoredBlocks
    grant: Grant
    job_dir: JobDir
    job_id: str
    checkpoint: str | None
    """Name of the published checkpoint to resume from."""
    open_reporter: OpenReporter


def pretrain_worker(work: PretrainWork) -> dict[str, Any]:
    """Train on one rank; rank 0 reports, writes the model and returns the metrics."""
    config = work.config
    device = ray_train.set_up_worker(work.grant)
    with (
        closing(work.open_reporter()) as reporter,
        watched(reporter, is_first=current_ranks().is_first),
        tracked(
            config.train.report_to,
            config=config.model_dump(mode="json"),
            job_dir=work.job_dir,
            is_first=current_ranks().is_first,
        ) as tracker,
    ):
        ray_train.report_nodes(reporter)
        model = build_pretraining(
            ray.get(work.source),
            seed=config.train.seed,
            hidden_dropout=config.model.hidden_dropout,
            attention_dropout=config.model.attention_dropout,
        ).to(device)
        result = pretrain(
            model,
            config=config,
            train=work.train,
            valid=work.valid,
            tokenizer=work.tokenizer,
            job_dir=work.job_dir,
            hooks=TrainingHooks(reporter, metric=METRIC, device=device, tracker=tracker),
            resume=work.checkpoint,
            data_parallel=ray_train.data_parallel,
        )
        if result.metrics is None or result.stopped is not None:
            if tracker is not None:
                tracker.end("stopped")
            return {"stopped": result.stopped}
        if current_ranks().is_first:
            reporter.confirm_lease()
            _write_model(model, work, metrics=result.metrics.to_json())
    return {
        "stopped": None,
        "plots": list(result.plots),
        "metrics": result.metrics.to_json() | {"num_steps": result.num_steps},
    }


def _write_model(model: BertForPreTraining, work: PretrainWork, *, metrics: dict[str, Any]) -> None:
    text = TextSection(max_len=work.config.text.max_len)
    with work.job_dir.new_dir(work.job_dir.own("model")) as folder:
        save_pretrained(model, folder)
        work.tokenizer.save(folder)
        Artefact(task=None, text=text, trained_by=work.job_id).write(folder)
        ModelCard(
            kind="pretrain",
            config=work.config,
            task=None,
            metrics=metrics,
            split="validation corpus",
            trained_by=work.job_id,
        ).write(folder)


def _build_vocabulary(run: Run[PretrainConfig], files: tuple[SourceFile, ...]) -> Tokenizer:
    """Build a vocabulary from the whole corpus."""
    section = run.config.model
    run.reporter.set_phase("building a vocabulary")
    return make_vocabulary(
        plan_shards(files, run.config.data),
        kind=section.vocab_kind,
        size=section.vocab_size,
        min_count=section.vocab_min_count,
        on_progress=_VocabularyProgress(run.reporter),
    )


class _VocabularyProgress:
    """Reports how much of the corpus has been read for a vocabulary, once a second at most."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._told_at = float("-inf")

    def __call__(self, num_done: int, num_shards: int) -> None:
        if num_done == num_shards or time.monotonic() - self._told_at >= 1.0:
            self._told_at = time.monotonic()
            self._reporter.set_phase(f"building a vocabulary, {num_done} of {num_shards} shards read")


def _blocks(
    run: Run[PretrainConfig], files: tuple[SourceFile, ...], tokenizer: Tokenizer
) -> tuple[StoredBlocks, StoredBlocks]:
    """Encode the corpus, and the validation corpus: files of its own, or documents held out."""
    data = run.config.data
    valid_files = _valid_files(run)
    ratio = 0.0 if valid_files else data.valid_ratio
    blocks = encode_corpus(files, run, data=data, tokenizer=tokenizer, valid_ratio=ratio)
    if not valid_files:
        return blocks["train"], blocks["valid"]
    whole = data.model_copy(update={"limit_documents": None})
    return blocks["train"], encode_corpus(valid_files, run, data=whole, tokenizer=tokenizer)["train"]


def _valid_files(run: Run[PretrainConfig]) -> tuple[SourceFile, ...]:
    data = run.config.data
    if data.valid is not None:
        return own_files(data.valid, flag="--valid")
    if data.corpus in PUBLISHED_CORPORA:
        return find_files(data.corpus, data.path, split="valid", cache=run.settings.cache)
    return ()


def _check_blocks(run: Run[PretrainConfig], *blocks: StoredBlocks, sep_id: int) -> None:
    """Log what was read, before a worker is started. Raises: DataError: no example can be made of it."""
    pairing = Pairing(run.config.objective, run.config.text.max_len, sep_id=sep_id)
    for name, found in zip(("train", "validate"), blocks, strict=True):
        pairing.check(found.infos)
        log.info(
            "%s on %d documents of %d sentences, %d tokens, in %d blocks; %d rows left out",
            name,
            sum(info.num_documents for info in found.infos),
            sum(info.num_sentences for info in found.infos),
            sum(info.num_tokens for info in found.infos),
            len(found.infos),
            sum(info.num_dropped for info in found.infos),
        )
