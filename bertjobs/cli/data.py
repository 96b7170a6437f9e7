"""`bertjobs data`: get, generate and look at data sets."""

from pathlib import Path
from typing import Any, Literal

import click

from bertjobs.cli.corpus import READING, corpus_options, corpus_reports, refuse_mixture, vocab
from bertjobs.cli.inputs import split_names
from bertjobs.cli.inspection import print_corpora, print_inspection
from bertjobs.cli.render import print_json, print_line, print_note
from bertjobs.cli.transfer import TransferLine
from bertjobs.errors import StorageError
from bertjobs.settings import load_settings
from bertjobs.text.corpus_files import PUBLISHED_CORPORA
from bertjobs.text.locate import find_split, has_named_split
from bertjobs.text.source_file import SourceFile
from bertjobs.text.tasks import Task, resolve_task


@click.group()
def data() -> None:
    """Download, generate or inspect data sets."""


data.add_command(vocab)


@data.command("get")
@click.argument("name", type=click.Choice(["snli", "cola", *PUBLISHED_CORPORA]))
@click.option("--base-url", metavar="URL", help="A mirror that has the same file.")
def get(name: str, base_url: str | None) -> None:
    """Download a data set from its official address, check it and keep it in the cache."""
    from bertjobs.text import download  # the web library, which nothing else here needs

    path = download.get(name, cache=load_settings().cache, base_url=base_url, progress=TransferLine(name))
    print_line(str(path))


@data.command("sample")
@click.argument("folder", type=Path)
@click.option("--seed", default=0, show_default=True, help="Another seed makes other sentences.")
def sample(folder: Path, seed: int) -> None:
    """Write a small SNLI, CoLA and WikiText of generated sentences, in the official formats."""
    from bertjobs.text.sample import write_sample  # its grammar, which nothing else here needs

    try:
        written = write_sample(folder, seed=seed)
    except OSError as e:
        raise StorageError(f"{e.filename or folder}: {e.strerror}.", hint="Give another folder.") from e
    for path in written:
        print_line(str(path))
    print_note(f"Try: bertjobs submit finetune --preset demo --data {folder / 'snli_1.0'} --wait")


@data.command("inspect")
@click.option("--task", "task_name", default="snli", show_default=True, help="As in `submit finetune`.")
@click.option("--data", "path", metavar="PATH", help="Folder, zip or file; default: what `data get` got.")
@click.option("--split", "splits", multiple=True, help="Split or file; default: all splits there are.")
@click.option("--vocab", metavar="PATH", type=Path, help="Folder or file of a tokenizer; default: words.")
@click.option("--max-len", type=click.IntRange(8, 8192), default=128, show_default=True)
@click.option("--on-bad-row", type=click.Choice(["error", "skip"]), default="error", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@corpus_options(*READING)
@click.pass_context
def inspect(
    ctx: click.Context,
    task_name: str,
    path: str | None,
    splits: tuple[str, ...],
    vocab: Path | None,
    max_len: int,
    on_bad_row: Literal["error", "skip"],
    as_json: bool,
    typed: dict[str, Any],
) -> None:
    """Count labels and lengths and what each truncation strategy would cut, or what is in a corpus."""
    refuse_mixture(ctx, typed)
    if typed:
        reading = typed | {"data.on_bad_row": on_bad_row} | ({"data.path": path} if path else {})
        corpora = corpus_reports(reading, vocab=vocab)
        print_json(corpora) if as_json else print_corpora(corpora)
        return
    from bertjobs.text import sources  # numpy and pyarrow
    from bertjobs.text.inspect import inspect as inspect_split
    from bertjobs.text.tokenizers import load_tokenizer  # tokenizers

    task, cache = resolve_task(task_name), load_settings().cache
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    reports = {}
    for split in splits or _splits_there_are(task, path, cache):
        rows = sources.read_split(
            task, path, split=split, on_bad_row=on_bad_row, cache=cache, require_labels=False
        )
        reports[split] = inspect_split(rows, tokenizer, max_len=max_len)
    print_json(reports) if as_json else print_inspection(reports)


def _splits_there_are(task: Task, path: str | None, cache: Path) -> list[str]:
    """Return the names of the splits that are there, one for each file: CoLA's `dev` has two."""
    found: dict[SourceFile, str] = {}
    for split in split_names(task):
        if has_named_split(task, path, split=split, cache=cache):
            found.setdefault(find_split(task, path, split=split, cache=cache), split)
    return list(found.values())
