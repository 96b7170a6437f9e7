"""Search hyperparameters: the driver reads and encodes once, Ray Tune runs the trials, and the weights of the
best trial become the job's model.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

from bertjobs.config import FinetuneConfig, TuneConfig, load_config, stored_layer
from bertjobs.config.dimensions import Space
from bertjobs.config.search_space import corner_configs, max_lens, search_space, space_texts
from bertjobs.errors import RunError
from bertjobs.jobs.job import Grant
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.runs import ray_train
from bertjobs.runs.artefacts import write_predictions
from bertjobs.runs.data.rows import Rows
from bertjobs.runs.finetune import TrainingInputs, load_source, predict, read_rows, share_inputs, write_model
from bertjobs.runs.run_context import Outcome, Run
from bertjobs.runs.tune.plots import save_plots
from bertjobs.runs.tune.progress_actor import start_progress_actor
from bertjobs.runs.tune.ray_tune import run_trials
from bertjobs.runs.tune.samplers import sampler_for
from bertjobs.runs.tune.schedulers import SchedulerBounds
from bertjobs.runs.tune.search_state import SearchState
from bertjobs.runs.tune.trial_records import Search, Trial, counts, folder_of, read_trials
from bertjobs.runs.tune.trial_resources import divide_grant
from bertjobs.runs.tune.trial_worker import TrialWork, cut_ratio
from bertjobs.storage import JobDir
from bertjobs.text.datasets.tasks import configured_task
from bertjobs.training.batches import make_batch_sampler
from bertjobs.training.checkpoints.checkpoint import find_checkpoint, read_published_checkpoint
from bertjobs.training.tasks.task_type import TaskMetrics

LARGE_HIDDEN_SIZE = 768
"""From BERT base on, the default space is limited to the published learning rates."""


class AllTrialsFailed(RunError):
    """Not one trial of a search has a result."""

    failure = "TrainingError"


def run_tune(run: Run[TuneConfig]) -> Outcome:
    """Drive one attempt at a search.

    Raises: DataError, ModelError, ConfigError: the request is wrong. AllTrialsFailed, LeaseLost, Cancelled.
    """
    began = time.monotonic()
    config = run.config
    task = configured_task(config.task)
    metric = config.search.metric or task.metric
    progress = start_progress_actor()  # while data is read
    train, valid = read_rows(run, task)
    of_task = {"is_pair": task.is_pair, "has_windows": task.has_windows}
    shortest, longest = max_lens(config, search_space(config, is_large=False, **of_task))
    source, tokenizer = load_source(run, train, task=task, max_len=longest)
    is_large = _hidden_size(source) >= LARGE_HIDDEN_SIZE
    space = search_space(config, is_large=is_large, **of_task)
    sampler = sampler_for(config, space, metric=metric)
    resources = divide_grant(run.grant, config)
    inputs = share_inputs(run, task=task, source=source, tokenizer=tokenizer, train=train, valid=valid)
    run.reporter.set_phase("encoding")
    # Trials take the CPUs that are free now; those of Ray Data must not be among them.
    text = config.text.model_copy(update={"max_len": longest})
    encoded = [inputs.train_table(text), inputs.valid_table(text)]
    search = Search(
        metric=metric,
        space=space_texts(config, is_large=is_large, **of_task),
        algorithm=config.search.algorithm,
        stopper=config.search.stopper,
        num_trials=sampler.num_trials,
    )
    search.write(run.job_dir)
    state = SearchState(run.job_dir, search=search, trials=read_trials(run.job_dir))
    run.reporter.set_phase("starting trials")
    run_trials(
        run,
        work=TrialWork(
            inputs=inputs,
            metric=metric,
            job_dir=run.job_dir,
            job_id=run.id,
            attempt=run.attempt,
            progress=progress,
            resources=resources,
            counts_lengths=any(cut_ratio(table, max_len=shortest) > 0 for table in encoded),
        ),
        state=state,
        sampler=sampler,
        bounds=scheduler_bounds(config, space, num_rows=train.table.num_rows),
    )
    outcome = _publish_best(run, inputs=inputs, state=state, valid=valid)
    run.reporter.progress(state.progress(progress.progress()))
    metrics = outcome.metrics | {
        "num_train_examples": train.table.num_rows,
        "run_s": time.monotonic() - began,
    }
    run.job_dir.outputs().write_json("metrics.json", metrics)
    return replace(outcome, metrics=metrics)


def scheduler_bounds(config: TuneConfig, space: Space, *, num_rows: int) -> SchedulerBounds:
    """Return how long the longest trial of a space is, and from where on a trial may be stopped."""
    plans = [make_batch_sampler(num_rows, train=trial.train) for trial in corner_configs(config, space)]
    max_examples = max(plan.num_examples(plan.num_steps) for plan in plans)
    grace = config.search.grace_examples or math.ceil(max_examples / config.search.reduction_factor**2)
    return SchedulerBounds(grace_examples=grace, max_examples=max_examples)


def _publish_best(
    run: Run[TuneConfig], *, inputs: TrainingInputs, state: SearchState, valid: tuple[Rows, ...]
) -> Outcome:
    """Publish the best trial's weights, predictions and plots. Raises: AllTrialsFailed, LeaseLost."""
    search, best = state.search, state.best()
    if best is None:
        raise _all_failed(state.trials)
    run.reporter.set_phase("writing the best model")
    run.reporter.confirm_lease()
    metrics: TaskMetrics = ray_train.run_task(
        write_best_model,
        BestModelWork(
            inputs=inputs,
            trial=best,
            metric=search.metric,
            grant=run.grant,
            job_dir=run.job_dir,
            job_id=run.id,
        ),
        grant=run.grant,
    )
    paths = write_predictions(run.job_dir.outputs(), valid[0].table, task=inputs.task, num_ranks=1)
    plots = save_plots(run.job_dir.outputs(), search, state.trials)
    return Outcome(
        metrics=_result(metrics, search, state.trials, best),
        artifacts={
            "model": run.job_dir.path_of(run.job_dir.own("model")),
            **paths,
            "plots": [run.job_dir.outputs().path_of(name) for name in plots],
        },
    )


@dataclass(frozen=True, kw_only=True)
class BestModelWork:
    """What the process that writes the best model is given."""

    inputs: TrainingInputs
    trial: Trial
    metric: str
    grant: Grant
    job_dir: JobDir
    job_id: str


def write_best_model(work: BestModelWork) -> TaskMetrics:
    """Publish the best weights of the best trial as the job's model, and predict with them."""
    inputs, trial = work.inputs, work.trial
    # From a file, which an earlier attempt may have written.
    config = load_config("finetune", stored_layer(trial.config))
    assert isinstance(config, FinetuneConfig)
    model = inputs.build_model(config, device=ray_train.set_up_worker(work.grant))
    best = trial.best(work.metric)
    assert best is not None, "the best trial has a value"
    folder = folder_of(work.job_dir, trial.number)
    model.load_state_dict(read_published_checkpoint(folder, find_checkpoint(folder, best.step)).model)
    predictions, metrics = predict(model, inputs=inputs, config=config)
    predictions.write(work.job_dir.outputs(), rank=0)
    write_model(
        model, inputs=inputs, config=config, metrics=metrics, job_dir=work.job_dir, trained_by=work.job_id
    )
    return metrics


def _result(metrics: TaskMetrics, search: Search, trials: list[Trial], best: Trial) -> dict[str, Any]:
    evaluation = best.best(search.metric)
    assert evaluation is not None
    return metrics.to_json() | {
        "metric": search.metric,
        "best_trial": best.number,
        "best_value": evaluation.value_of(search.metric),
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
        hint="`bertjobs trials JOB` shows the error of each.",
    )


def _hidden_size(source: LoadedModel | BertConfig) -> int:
    return (source if isinstance(source, BertConfig) else source.config).hidden_size
