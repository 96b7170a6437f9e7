"""`bertjobs encode` and `bertjobs fill-mask`: apply a trained model to a few texts, without the queue."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bertjobs.cli.options import resolve, with_config_options
from bertjobs.cli.output.render import print_json, print_line, print_note
from bertjobs.cli.output.reports import print_embeddings, print_masked_texts
from bertjobs.cli.params import json_option
from bertjobs.cli.request import with_absolute_model
from bertjobs.config import EncodeConfig
from bertjobs.errors import DataError
from bertjobs.settings import load_settings

STDIN = "-"
PAIR_SEPARATOR = "|"
_PAIR_HELP = f"Text between the two texts of a pair.  [default: {PAIR_SEPARATOR}]"
_TOKEN_HELP = (
    "Also print the vector of each occurrence of this word or token; a word of several wordpieces has the "
    "mean of theirs. Can be repeated."
)
_OUTPUT_HELP = "Write the vectors to a file instead: .npy (one row per vector), .parquet or .json."


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT | TEXT|TEXT | -]...")
@click.option("--token", "words", multiple=True, metavar="WORD", help=_TOKEN_HELP)
@click.option("-o", "--output", type=Path, metavar="FILE", help=_OUTPUT_HELP)
@json_option
@with_config_options(
    "encode",
    "model.source", "model.num_heads", "model.pooling",
    "text.max_len", "text.truncation", "text.pair_separator",
    help_of={"text.pair_separator": _PAIR_HELP},
)  # fmt: skip
def encode(
    texts: tuple[str, ...],
    words: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    typed: Mapping[str, Any],
) -> None:
    """Print the vectors of texts or pairs (`a|b`), and of words in them; - reads texts from stdin.

    For a file of many lines use `bertjobs submit encode`.
    """
    config = _encode_config(typed)
    # numpy, pyarrow and torch take seconds, which a wrong flag should not cost
    from bertjobs.runs.encode.embed_texts import embed_texts
    from bertjobs.runs.encode.vector_files import check_vector_file, to_json, write_vector_file

    if output is not None:
        if as_json:
            raise click.UsageError("--output and --json exclude each other; --output can write .json")
        check_vector_file(output)
    found = embed_texts(
        with_stdin(texts), words=words, config=config, settings=load_settings(), warn=print_note
    )
    if output is not None:
        write_vector_file(output, found)
        print_line(str(output.absolute()))
    elif as_json:
        print_json(to_json(found))
    else:
        print_embeddings(found)


@click.command("fill-mask")
@click.argument("texts", nargs=-1, metavar="[TEXT | -]...")
@click.option(
    "--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Predictions per mask."
)
@json_option
@with_config_options("encode", "model.source", "model.num_heads", "text.max_len")
def fill_mask(texts: tuple[str, ...], top_k: int, as_json: bool, typed: Mapping[str, Any]) -> None:
    """Show what a pretrained model predicts for each [MASK] (or <mask>) of texts; - reads them from stdin."""
    config = _encode_config(typed)
    from bertjobs.runs.encode.fill_mask import fill_masks  # torch

    found = fill_masks(
        with_stdin(texts), top_k=top_k, config=config, settings=load_settings(), warn=print_note
    )
    print_json({"texts": [asdict(text) for text in found]}) if as_json else print_masked_texts(found)


def _encode_config(typed: Mapping[str, Any]) -> EncodeConfig:
    """Return the configuration, with the path of its model. Raises: ConfigError, ModelError."""
    fixed = {"data.path": STDIN, "text.pair_separator": PAIR_SEPARATOR}
    config = with_absolute_model("encode", resolve("encode", {**fixed, **typed}))
    assert isinstance(config, EncodeConfig)
    return config


def with_stdin(texts: tuple[str, ...]) -> list[str]:
    """Replace `-` by the lines of stdin. Raises: DataError: they are not UTF-8, or `-` was given twice."""
    if STDIN not in texts:
        return list(texts)
    if texts.count(STDIN) > 1:
        raise DataError("`-` was given twice, but stdin can be read only once")
    content = sys.stdin.buffer.read()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise DataError(f"stdin, line {line}: byte {content[e.start]:#04x} is not UTF-8") from e
    place = texts.index(STDIN)
    return [*texts[:place], *lines, *texts[place + 1 :]]
