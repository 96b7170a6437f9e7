"""`bertjobs trials`: the trials of a search, from the files in its folder; and what `--from-trial` names."""

import csv
import io

import click

from bertjobs.cli.context import open_queue
from bertjobs.cli.output.formatting import header_of, number, printable, sentence
from bertjobs.cli.output.render import print_json, print_line, print_note, print_table
from bertjobs.config import ConfigLayer, JobConfig, stored_layer
from bertjobs.config.finetune import FinetuneConfig
from bertjobs.errors import ConfigError, DataError
from bertjobs.jobs.job import Job
from bertjobs.runs.tune.trial_records import (
    Search,
    Trial,
    best_trial,
    counts,
    find_trial,
    rank,
    read_search,
    read_trials,
)


@click.command()
@click.argument("job")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def trials(job: str, as_csv: bool, as_json: bool) -> None:
    """Show the trials of a search.

    What each of them tried, how far it came, what it was worth and how it ended; the best first.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other.")
    found = open_queue().get(job)
    search, begun = read_trials_of(found)
    if as_json:
        print_json(_document(found, search, begun))
    elif as_csv:
        print_line(_csv(search, begun))
    else:
        _print(found, search, begun)


def from_trial(named: str) -> tuple[ConfigLayer, str]:
    """Return the configuration that `--from-trial` names, without its resources, and its whole name `JOB:N`.

    Raises: ConfigError: there is no such trial. QueueError: there is no such job. DataError: it is no search.
    """
    given = f"--from-trial {named}"
    job, sep, text = named.partition(":")
    if sep and not text.isdecimal():
        raise ConfigError(f"{given}: {text or 'nothing'} is no trial.", hint="As in JOB or JOB:3.")
    found = open_queue().get(job)
    search, begun = read_trials_of(found)
    trial = find_trial(begun, search.metric, number=int(text) if sep else None, named=given)
    config = {section: values for section, values in trial.config.items() if section != "resources"}
    return stored_layer(config), f"{found.id}:{trial.number}"


def origin_of(config: JobConfig) -> str | None:
    """Return which trial a configuration is to begin with."""
    return config.origin.from_trial if isinstance(config, FinetuneConfig) else None


def read_trials_of(job: Job) -> tuple[Search, list[Trial]]:
    """Read the files of a search. Raises: DataError: the job is none, or has not begun."""
    if job.kind != "tune":
        raise DataError(f"{job.id} is no search but {job.kind}.", hint="`bertjobs list` shows the kinds.")
    search = read_search(job.job_dir)
    if search is None:
        raise DataError(
            f"{job.id} is {job.state} and has no trial yet.",
            hint=f"`bertjobs watch {job.id}` shows when it has.",
        )
    return search, read_trials(job.job_dir)


def _document(job: Job, search: Search, begun: list[Trial]) -> dict[str, object]:
    metric = search.metric
    best = best_trial(begun, metric)
    return {
        "id": job.id,
        "state": str(job.state),
        "metric": metric,
        "space": search.space,
        "algorithm": search.algorithm,
        "stopper": search.stopper,
        "num_trials": search.num_trials,
        **counts(begun),
        "best": None if best is None else best.number,
        "trials": [
            {**trial.to_json(), "value": None if (e := trial.best(metric)) is None else e.value_of(metric)}
            for trial in begun
        ],
    }


def _csv(search: Search, begun: list[Trial]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *search.space, "epoch", "examples", search.metric, "state", "reason"])
    for trial in begun:
        last, best = (trial.history[-1] if trial.history else None), trial.best(search.metric)
        writer.writerow(
            [
                trial.number,
                *(trial.values[path] for path in search.space),
                "" if last is None else f"{last.epoch:.4g}",
                "" if last is None else last.num_examples,
                "" if best is None else best.value_of(search.metric),
                trial.state,
                trial.reason,
            ]
        )
    return text.getvalue().rstrip("\n")


def _print(job: Job, search: Search, begun: list[Trial]) -> None:
    """Print a line per trial, the best first and those without a value last."""
    ranked = rank(begun, search.metric)
    rest = [trial for trial in begun if trial not in ranked]
    rows = [_row(trial, search.metric) for trial in [*ranked, *rest]]
    print_table([*header_of(search.space), search.metric.upper(), "STATE", "WHY"], rows)
    tally = counts(begun)
    print_note(
        f"{tally['num_ended']} of {search.num_trials} trials have ended: {tally['num_stopped_early']} "
        f"stopped early by {search.stopper}, {tally['num_failed']} failed."
    )
    if ranked and job.state.is_terminal:
        best = ranked[0].best(search.metric)
        assert best is not None
        print_note(
            f"Best is trial {ranked[0].number} with {search.metric} {number(best.value_of(search.metric))}; "
            f"`bertjobs submit finetune --from-trial {job.id}` runs it in full."
        )


def _row(trial: Trial, metric: str) -> list[str]:
    """Return a line of the table."""
    best = trial.best(metric)
    return [
        str(trial.number),
        *(printable(number(value)) for value in trial.values.values()),
        f"{trial.history[-1].epoch:.2f}" if trial.history else "-",
        "-" if best is None else f"{best.value_of(metric):.4f}",
        trial.state,
        sentence(trial.reason, trial.message),
    ]
