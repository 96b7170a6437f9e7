"""`bertjobs encode` and `bertjobs fill-mask`: a trained model on a few texts, here and now."""

import functools
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bertjobs.cli.options import config_options, resolve
from bertjobs.cli.output.render import print_json, print_line, print_note
from bertjobs.cli.output.reports import print_masked_texts, print_representations
from bertjobs.cli.request import with_absolute_model
from bertjobs.config import EncodeConfig
from bertjobs.errors import DataError
from bertjobs.settings import load_settings

STDIN = "-"
PAIR_SEPARATOR = "|"
_PAIR_HELP = f"Text between the two texts of a pair.  [default: {PAIR_SEPARATOR}]"
_TOKEN_HELP = (
    "Also the vectors of this word or token, one for each of its places; a word of several wordpieces has "
    "their mean. Can be repeated."
)
_OUTPUT_HELP = "Write the vectors to a file instead: .npy (a row a vector), .parquet or .json."
_JSON_HELP = "Print one JSON document."


def model_options(*paths: str) -> Callable[..., Any]:
    """Give a command these parameters of the kind `encode`; it gets them as `config`, its model located."""
    options = [option for option in config_options("encode") if option.path in paths]
    for option in options:
        if option.path == "text.pair_separator":
            option.help = _PAIR_HELP

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def configured(**given: Any) -> Any:
            typed = {option.path: given.pop(str(option.name)) for option in options}
            always = {"data.path": STDIN, "text.pair_separator": PAIR_SEPARATOR}
            flags = always | {path: value for path, value in typed.items() if value is not None}
            return command(config=with_absolute_model("encode", resolve("encode", flags)), **given)

        # Where click's decorators keep what a command takes, the last first.
        configured.__click_params__ = [*getattr(command, "__click_params__", []), *reversed(options)]  # type: ignore[attr-defined]
        return configured

    return decorate


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT | TEXT|TEXT | -]...")
@click.option("--token", "words", multiple=True, metavar="WORD", help=_TOKEN_HELP)
@click.option("-o", "--output", type=Path, metavar="FILE", help=_OUTPUT_HELP)
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
@model_options(
    "model.source", "model.num_heads", "model.pooling",
    "text.max_len", "text.truncation", "text.pair_separator",
)  # fmt: skip
def encode(
    texts: tuple[str, ...], words: tuple[str, ...], output: Path | None, as_json: bool, config: EncodeConfig
) -> None:
    """Print the vectors of texts or pairs (`a|b`), and of words in them; - reads texts from stdin.

    A file of many lines is a job's work: `bertjobs submit encode`.
    """
    # numpy, pyarrow and torch: seconds, which a wrong flag should not cost
    from bertjobs.runs.encode.represent_texts import represent_texts
    from bertjobs.runs.encode.vector_files import check_vector_file, to_json, write_vector_file

    if output is not None:
        if as_json:
            raise click.UsageError("--output and --json exclude each other; a file may be .json.")
        check_vector_file(output)
    found = represent_texts(
        _with_stdin(texts), words=words, config=config, settings=load_settings(), warn=print_note
    )
    if output is not None:
        write_vector_file(output, found)
        print_line(str(output.absolute()))
    elif as_json:
        print_json(to_json(found))
    else:
        print_representations(found)


@click.command("fill-mask")
@click.argument("texts", nargs=-1, metavar="[TEXT | -]...")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Words per mask.")
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
@model_options("model.source", "model.num_heads", "text.max_len")
def fill_mask(texts: tuple[str, ...], top_k: int, as_json: bool, config: EncodeConfig) -> None:
    """Show what a pretrained model expects at each [MASK] (or <mask>) of texts; - reads them from stdin."""
    from bertjobs.runs.encode.fill_mask import fill_masks  # torch

    found = fill_masks(
        _with_stdin(texts), top_k=top_k, config=config, settings=load_settings(), warn=print_note
    )
    print_json({"texts": [asdict(text) for text in found]}) if as_json else print_masked_texts(found)


def _with_stdin(texts: tuple[str, ...]) -> list[str]:
    """Replace `-` by the lines of stdin. Raises: DataError: they are no text."""
    if STDIN not in texts:
        return list(texts)
    if texts.count(STDIN) > 1:
        raise DataError("- was given twice, but stdin can be read once.")
    content = sys.stdin.buffer.read()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise DataError(f"stdin, line {line}: byte {content[e.start]:#04x} is not UTF-8.") from e
    place = texts.index(STDIN)
    return [*texts[:place], *lines, *texts[place + 1 :]]
