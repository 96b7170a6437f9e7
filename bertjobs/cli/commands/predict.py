"""`bertjobs predict`: labels, scores, endings or answers of a few texts, or of a file, without the queue."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bertjobs.cli.commands.inference import STDIN, with_stdin
from bertjobs.cli.options import resolve, with_config_options
from bertjobs.cli.output.predictions import print_predictions
from bertjobs.cli.output.render import print_json, print_line, print_note
from bertjobs.cli.params import json_option
from bertjobs.cli.request import with_absolute_model
from bertjobs.config import PredictConfig
from bertjobs.settings import load_settings

_DATA_HELP = "Predict the rows of this file, folder or glob instead: CSV, TSV, JSON lines or Parquet."
_OUTPUT_HELP = "Write the rows with their predictions to a file instead: .csv, .jsonl or .parquet."


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT | TEXT|TEXT | -]...")
@click.option("--text-pair", metavar="TEXT", help="The second text of the pair.")
@click.option("--context", metavar="TEXT", help="The text in which the answer to a question is.")
@click.option("--ending", "endings", multiple=True, metavar="TEXT", help="An ending; give all of them.")
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Show the most probable labels, endings or answers.",
)
@click.option("--all", "shows_all", is_flag=True, help="Show all labels, endings, or the n-best list.")
@click.option("-o", "--output", type=Path, metavar="FILE", help=_OUTPUT_HELP)
@json_option
@with_config_options(
    "predict",
    *("model.source", "task.name", "task.null_threshold", "data.path", "data.on_bad_row", "data.limit"),
    *("text.max_len", "text.truncation", "text.doc_stride"),
    help_of={"data.path": _DATA_HELP},
)
def predict(
    texts: tuple[str, ...],
    text_pair: str | None,
    context: str | None,
    endings: tuple[str, ...],
    top_k: int,
    shows_all: bool,
    output: Path | None,
    as_json: bool,
    typed: Mapping[str, Any],
) -> None:
    """Predict texts, or the rows of a file, with a fine-tuned model; - reads texts from stdin.

    A pair is `first|second`; a question needs --context, and a beginning needs an --ending for each of its
    endings. For a file of many rows use `bertjobs submit predict`.
    """
    is_file = "data.path" in typed
    if is_file and (texts or text_pair is not None or context is not None or endings):
        raise click.UsageError("TEXT and --data exclude each other: give texts, or a file of rows")
    config = resolve("predict", {"data.path": STDIN, **typed})
    assert isinstance(config, PredictConfig)
    for path, flag in (("data.on_bad_row", "--on-bad-row"), ("data.limit", "--limit")):
        if path in typed and not is_file:
            raise click.UsageError(f"{flag} has no effect without --data")
    config = with_absolute_model("predict", config)
    # numpy, pyarrow and torch take seconds, which a wrong flag should not cost
    from bertjobs.runs.predict.predict_rows import GivenTexts, predict_files, predict_texts
    from bertjobs.runs.predict.prediction_files import check_prediction_file, to_json, write_prediction_file

    if output is not None:
        if as_json:
            raise click.UsageError("--output and --json exclude each other; --output can write .jsonl")
        check_prediction_file(output)
    assert isinstance(config, PredictConfig)
    settings = load_settings()
    if is_file:
        found = predict_files(config, settings=settings, warn=print_note)
    else:
        given = GivenTexts(texts=with_stdin(texts), text_pair=text_pair, context=context, endings=endings)
        found = predict_texts(given, config=config, settings=settings, warn=print_note)
    shown = None if shows_all else top_k
    if output is not None:
        write_prediction_file(output, found)
        print_line(str(output.absolute()))
    elif as_json:
        print_json(to_json(found, model=config.model.source, top_k=shown))
    else:
        print_predictions(found, top_k=shown)
