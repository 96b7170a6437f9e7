"""Search: the driver reads and encodes once, has Tune run the trials, and makes the best the job's model."""

import logging
import math
import time
from dataclasses import replace
from typing import Any

import pyarrow as pa
import torch

from bertjobs.config import FinetuneConfig, TuneConfig, load_config, stored_layer
from bertjobs.config.dimensions import Space
from bertjobs.config.search_space import corner_configs, max_lens, search_space, space_texts
from bertjobs.errors import RunError
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.runs import finetune, ray_train
from bertjobs.runs.artefacts import write_predictions
from bertjobs.runs.data.rows import Rows
from bertjobs.runs.finetune import Lesson, load_source, read_rows
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.runs.tune.plots import save_plots
from bertjobs.runs.tune.progress_actor import open_board
from bertjobs.runs.tune.ray_tune import search
from bertjobs.runs.tune.samplers import proposals_for
from bertjobs.runs.tune.schedulers import Course
from bertjobs.runs.tune.search_state import Ledger
from bertjobs.runs.tune.trial_records import Search, Trial, counts, folder_of, read_trials
from bertjobs.runs.tune.trial_resources import share_out
from bertjobs.runs.tune.trial_worker import TrialWork, cut_ratio
from bertjobs.storage import JobDir
from bertjobs.text.datasets.tasks import resolve_task
from bertjobs.text.encoding import EncodedTable
from bertjobs.training.batches import make_plan
from bertjobs.training.checkpoint import recall
from bertjobs.training.metrics import Metrics
from bertjobs.training.run_state import checkpoint_name

log = logging.getLogger(__name__)

LARGE_HIDDEN_SIZE = 768
"""From BERT base on, the default space keeps to the published learning rates."""


class AllTrialsFailed(RunError):
    """Not one trial of a search came to a result."""

    failure = "TrainingError"


def run_tune(run: Run[TuneConfig]) -> Outcome:
    """Drive one attempt at a search.

    Raises: DataError, ModelError, ConfigError: the request is wrong. AllTrialsFailed, LeaseLost, Cancelled.
    """
    began = time.monotonic()
    config = run.config
    task = resolve_task(config.task.name)
    metric = config.search.metric or task.metric
    board = open_board()  # while data is read
    train, valid = rows = read_rows(run, task)
    shortest, longest = max_lens(config, search_space(config, is_large=False, is_pair=task.is_pair))
    source, tokenizer = load_source(run, train, max_len=longest)
    is_large = _hidden_size(source) >= LARGE_HIDDEN_SIZE
    space = search_space(config, is_large=is_large, is_pair=task.is_pair)
    proposals = proposals_for(config, space, metric=metric)
    slots = share_out(run.grant, config)
    lesson = finetune.prepare(run, task=task, source=source, tokenizer=tokenizer, rows=rows)
    run.reporter.set_phase("encoding")
    # Trials take the CPUs that are free now; those of Ray Data must not be among them.
    encoded: list[pa.Table] = [ray_train.fetch(ref) for ref in (lesson.train, lesson.valid)]
    about = Search(
        metric=metric,
        space=space_texts(config, is_large=is_large, is_pair=task.is_pair),
        algorithm=config.search.algorithm,
        stopper=config.search.stopper,
        num_trials=proposals.num_trials,
    )
    about.write(run.job_dir)
    ledger = Ledger(run.job_dir, search=about, trials=read_trials(run.job_dir))
    run.reporter.set_phase("starting trials")
    search(
        run,
        work=TrialWork(
            lesson=lesson,
            metric=metric,
            job_dir=run.job_dir,
            job_id=run.id,
            attempt=run.attempt,
            board=board,
            slots=slots,
            counts_lengths=any(cut_ratio(EncodedTable.from_arrow(t), max_len=shortest) > 0 for t in encoded),
        ),
        ledger=ledger,
        proposals=proposals,
        course=course_of(config, space, num_rows=train.table.num_rows),
    )
    outcome = _conclude(run, lesson=lesson, about=about, ledger=ledger, valid=valid)
    run.reporter.progress(ledger.live(board.progress()))
    metrics = outcome.metrics | {
        "num_train_examples": train.table.num_rows,
        "run_s": time.monotonic() - began,
    }
    run.job_dir.write_json("metrics.json", metrics)
    return replace(outcome, metrics=metrics)


def _conclude(run: Run[TuneConfig], *, lesson: Lesson, about: Search, ledger: Ledger, valid: Rows) -> Outcome:
    """Make the best trial's weights the job's model; predict and draw. Raises: AllTrialsFailed, LeaseLost."""
    best = ledger.best()
    if best is None:
        raise _all_failed(ledger.trials)
    run.reporter.set_phase("writing the best model")
    run.reporter.command()  # raises where the lease is lost: another attempt's model must not be replaced
    metrics: Metrics = ray_train.call(
        run,
        conclude_worker,
        work={
            "lesson": lesson,
            "trial": best,
            "metric": about.metric,
            "job_dir": run.job_dir,
            "job_id": run.id,
        },
    )
    predictions = write_predictions(run.job_dir, valid.table, task=lesson.task, workers=1)
    plots = save_plots(run.job_dir, about, ledger.trials)
    return Outcome(
        metrics=_result(metrics, about, ledger.trials, best),
        artifacts={
            "model": run.job_dir.path_of("model"),
            "predictions": predictions,
            "plots": [run.job_dir.path_of(name) for name in plots],
        },
    )


def conclude_worker(work: dict[str, Any]) -> Metrics:
    """Make the best weights of the best trial the job's model, and predict with them."""
    lesson: Lesson = work["lesson"]
    trial: Trial = work["trial"]
    job_dir: JobDir = work["job_dir"]
    config = load_config("finetune", stored_layer(trial.config))
    assert isinstance(config, FinetuneConfig)
    ray_train.set_threads(work["grant"], workers_on_node=1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = finetune.build(lesson, config=config, device=device)
    best = trial.best(work["metric"])
    assert best is not None, "the best trial has a value"
    model.load_state_dict(recall(folder_of(job_dir, trial.number), checkpoint_name(best.step)).model)
    predictions, metrics = finetune.predict(model, lesson=lesson, config=config)
    predictions.write(job_dir, rank=0)
    finetune.write_model(model, lesson=lesson, config=config, job_dir=job_dir, trained_by=work["job_id"])
    return metrics


def course_of(config: TuneConfig, space: Space, *, num_rows: int) -> Course:
    """Return how long the longest trial of a space is, and from when on one may be stopped."""
    plans = [make_plan(num_rows, train=trial.train) for trial in corner_configs(config, space)]
    num_examples = max(plan.num_examples(plan.num_steps) for plan in plans)
    grace = config.search.grace_examples or math.ceil(num_examples / config.search.reduction_factor**2)
    return Course(num_examples=num_examples, grace_examples=grace)


def _result(metrics: Metrics, about: Search, trials: list[Trial], best: Trial) -> dict[str, Any]:
    evaluation = best.best(about.metric)
    assert evaluation is not None
    return metrics.to_json() | {
        "metric": about.metric,
        "best_trial": best.number,
        "best_value": evaluation.value_of(about.metric),
        "best_step": evaluation.step,
        "best_values": best.values,
        "best_config": best.config,
        "num_trials": len(trials),
        **counts(trials),
    }


def _all_failed(trials: list[Trial]) -> AllTrialsFailed:
    first = trials[0]
    return AllTrialsFailed(
        f"All {len(trials)} trials failed; the first with {first.reason}: {first.message}",
        hint="`bertjobs trials JOB` shows what each of them met.",
    )


def _hidden_size(source: LoadedModel | BertConfig) -> int:
    return (source if isinstance(source, BertConfig) else source.config).hidden_size
