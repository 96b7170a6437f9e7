"""`bertjobs trials`: the trials of a search, read from the files in its folder."""

import csv
import io

import click

from bertjobs.cli.context import open_queue
from bertjobs.cli.output.formatting import format_number, printable, reason_text, trial_columns
from bertjobs.cli.output.render import print_json, print_line, print_note, print_table
from bertjobs.cli.params import job_argument, json_option
from bertjobs.jobs.job import Job
from bertjobs.runs.tune.search_document import read_trials_of, search_document
from bertjobs.runs.tune.trial_records import Search, Trial, counts, rank


@click.command()
@job_argument(kinds=("tune",))
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
@json_option
def trials(job: str, as_csv: bool, as_json: bool) -> None:
    """Show the trials of a search.

    For each one: its parameters, how far it trained, its best result and how it ended; the best first.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    found = open_queue().get(job)
    search, started = read_trials_of(found)
    if as_json:
        print_json(search_document(found, search, started))
    elif as_csv:
        print_line(_csv(search, started))
    else:
        _print(found, search, started)


def _csv(search: Search, started: list[Trial]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *search.space, "epoch", "examples", search.metric, "state", "reason"])
    for trial in started:
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


def _print(job: Job, search: Search, started: list[Trial]) -> None:
    """Print a line per trial, the best first and those without a result last."""
    ranked = rank(started, search.metric)
    rest = [trial for trial in started if trial not in ranked]
    rows = [_row(trial, search.metric) for trial in [*ranked, *rest]]
    print_table([*trial_columns(search.space), search.metric.upper(), "STATE", "WHY"], rows)
    tally = counts(started)
    print_note(
        f"{tally['num_ended']} of {search.num_trials} trials have ended: {tally['num_stopped_early']} "
        f"stopped early by {search.stopper}, {tally['num_failed']} failed."
    )
    if ranked and job.state.is_terminal:
        best = ranked[0].best(search.metric)
        assert best is not None
        print_note(
            f"The best is trial {ranked[0].number}: {search.metric} "
            f"{format_number(best.value_of(search.metric))}. "
            f"`bertjobs submit finetune --from-trial {job.id}` trains it in full."
        )


def _row(trial: Trial, metric: str) -> list[str]:
    """Return one row of the table."""
    best = trial.best(metric)
    return [
        str(trial.number),
        *(printable(format_number(value)) for value in trial.values.values()),
        f"{trial.history[-1].epoch:.2f}" if trial.history else "-",
        "-" if best is None else f"{best.value_of(metric):.4f}",
        trial.state,
        reason_text(trial.reason, trial.message),
    ]
