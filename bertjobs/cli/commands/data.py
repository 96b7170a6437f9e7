"""`bertjobs data`: download, generate and inspect data sets and corpora, and make a vocabulary of a corpus.

The flags about a corpus are those of `submit pretrain`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click

from bertjobs.cli.completion import complete_value
from bertjobs.cli.options import resolve, with_config_options
from bertjobs.cli.output.render import print_json, print_line, print_note
from bertjobs.cli.output.reports import print_corpora, print_splits
from bertjobs.cli.params import json_option
from bertjobs.config import PretrainConfig
from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import ConfigError, StorageError
from bertjobs.settings import load_settings
from bertjobs.text.corpus.files import PUBLISHED_CORPORA, find_files
from bertjobs.text.datasets.splits import existing_splits
from bertjobs.text.datasets.tasks import BUILT_IN, archive_of, files_of, resolve_task
from bertjobs.text.source_file import SourceFile

READING = ("data.corpus", "data.column", "data.document", "data.sentences", "data.limit_documents")
"""How a corpus is read."""


@click.group()
def data() -> None:
    """Download, generate or inspect data sets."""


@data.command("get")
@click.argument("name", type=click.Choice([*BUILT_IN, *PUBLISHED_CORPORA]))
@click.option("--base-url", metavar="URL", help="Folder of a mirror that has the same file.")
def get(name: str, base_url: str | None) -> None:
    """Download a data set from its official address, verify it and keep it in the cache."""
    from bertjobs.text.datasets import download  # the web library, which nothing else here needs

    if name in BUILT_IN and archive_of(name) is None:
        raise ConfigError(
            f"{name} has no published archive with a known checksum", hint=files_of(BUILT_IN[name]).by_hand
        )
    cache = load_settings().cache
    path = download.get(name, cache=cache, base_url=base_url, progress=DownloadProgress(name))
    print_line(str(path))


@data.command("sample")
@click.argument("folder", type=Path)
@click.option("--seed", default=0, show_default=True, help="Another seed makes other sentences.")
def sample(folder: Path, seed: int) -> None:
    """Write a small SNLI, CoLA, GLUE, SWAG, SQuAD and WikiText of generated sentences, as published."""
    from bertjobs.text.datasets.sample import write_sample  # its grammar, which nothing else here needs

    try:
        written = write_sample(folder, seed=seed)
    except OSError as e:
        raise _cannot_write(e, folder) from e
    for path in written:
        print_line(str(path))
    print_note(f"Next: `bertjobs submit finetune --preset demo --data {folder / 'snli_1.0'} --wait`")


@data.command("inspect")
@click.option(
    "--task",
    "task_name",
    default="snli",
    show_default=True,
    shell_complete=complete_value("task.name", ()),
    help="As in `submit finetune`.",
)
@click.option("--data", "path", metavar="PATH", help="Folder, zip or file; default: the downloaded data.")
@click.option("--split", "splits", multiple=True, help="Split or file; default: every split found.")
@click.option("--vocab", metavar="PATH", type=Path, help="Folder or file of a tokenizer; default: words.")
@click.option(
    "--max-len",
    type=click.IntRange(8, 8192),
    default=128,
    show_default=True,
    help="Longest sequence, for the counts of truncated examples.",
)
@click.option(
    "--on-bad-row",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="Whether a broken row stops the command.",
)
@json_option
@with_config_options("pretrain", *READING)
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
    """Count labels, lengths and what each truncation strategy would cut, or describe a corpus."""
    _refuse_mixed_flags(ctx, typed)
    if typed:
        reading = typed | {"data.on_bad_row": on_bad_row} | ({"data.path": path} if path else {})
        corpora = _describe_corpora(reading, vocab=vocab)
        print_json(corpora) if as_json else print_corpora(corpora)
        return
    from bertjobs.text.datasets import read_split  # numpy and pyarrow
    from bertjobs.text.describe import describe_split
    from bertjobs.text.tokenizer_files import load_tokenizer  # tokenizers

    task, cache = resolve_task(task_name), load_settings().cache
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    reports = {}
    for split in splits or existing_splits(task, path, cache=cache):
        rows = read_split.read_split(
            task, path, split=split, on_bad_row=on_bad_row, cache=cache, require_labels=False
        )
        reports[split] = describe_split(rows, tokenizer, max_len=max_len)
    print_json(reports) if as_json else print_splits(reports)


@data.command("vocab")
@with_config_options(
    "pretrain",
    *READING,
    "data.path",
    "data.on_bad_row",
    "model.vocab_kind",
    "model.vocab_size",
    "model.vocab_min_count",
)
@click.option(
    "-o", "--output", type=Path, required=True, metavar="DIR", help="Folder for the files of the vocabulary."
)
@json_option
def vocab(typed: Mapping[str, Any], output: Path, as_json: bool) -> None:
    """Make a vocabulary from a corpus: wordpieces, or d2l's whole words."""
    from bertjobs.text.corpus.shards import plan_shards  # numpy and pyarrow
    from bertjobs.text.vocabulary import make_vocabulary  # tokenizers

    config = _pretrain_config(typed)
    files = find_files(config.data.corpus, config.data.path, split="train", cache=load_settings().cache)
    model = config.model
    tokenizer = make_vocabulary(
        plan_shards(files, config.data),
        kind=model.vocab_kind,
        size=model.vocab_size,
        min_count=model.vocab_min_count,
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        tokenizer.save(output)
    except OSError as e:
        raise _cannot_write(e, output) from e
    if as_json:
        print_json({"path": str(output), "kind": model.vocab_kind, "size": tokenizer.vocab_size})
    else:
        print_line(str(output))
        print_note(f"{tokenizer.vocab_size:,} entries. Next: `bertjobs submit pretrain --vocab {output} ...`")


class DownloadProgress:
    """A callback that shows how far a download is: a line that is redrawn on a terminal, elsewhere a new line
    per tenth of the file (per 10 MiB where its size is unknown)."""

    _MIB = 1 << 20

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_terminal = sys.stderr.isatty()
        self._last_tenth = -1

    def __call__(self, num_bytes: int, total_bytes: int | None) -> None:
        is_done = num_bytes == total_bytes
        if self._is_terminal:
            click.echo(f"\r{self._text(num_bytes, total_bytes)}", nl=is_done, err=True)
            return
        tenth = 10 * num_bytes // total_bytes if total_bytes else num_bytes // (10 * self._MIB)
        if tenth != self._last_tenth:
            self._last_tenth = tenth
            click.echo(self._text(num_bytes, total_bytes), err=True)

    def _text(self, num_bytes: int, total_bytes: int | None) -> str:
        if not total_bytes:
            return f"{self._name}: {num_bytes / self._MIB:.1f} MiB"
        return f"{self._name}: {num_bytes / total_bytes:4.0%} of {total_bytes / self._MIB:.1f} MiB"


def _refuse_mixed_flags(ctx: click.Context, typed: Mapping[str, Any]) -> None:
    """Raises: ConfigError: flags of a task and of a corpus were given together; one has no effect."""
    is_given = {
        str(p.name): ctx.get_parameter_source(str(p.name)) is not click.core.ParameterSource.DEFAULT
        for p in ctx.command.params
    }
    flags = {str(p.name): p.opts[-1] for p in ctx.command.params}
    if "data.corpus" in typed:
        unused = [flags[name] for name in ("task_name", "splits", "max_len") if is_given[name]]
        reason = "it is about the data of a task, and --corpus was given"
    else:
        unused = [f"--{path.partition('.')[2].replace('_', '-')}" for path in typed]
        reason = "it is about a corpus; give --corpus"
    if unused:
        raise ConfigError(f"{unused[0]} has no effect: {reason}")


def _describe_corpora(typed: Mapping[str, Any], *, vocab: Path | None) -> dict[str, dict[str, Any]]:
    """Describe a corpus, by split: `train`, and `valid` of a published corpus.

    Raises: ConfigError: a flag that only a corpus has, without one. DataError: it cannot be read.
    """
    from bertjobs.text.corpus.shards import plan_shards
    from bertjobs.text.describe import describe_corpus  # numpy and pyarrow
    from bertjobs.text.tokenizer_files import load_tokenizer  # tokenizers

    data = _pretrain_config(typed).data
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    return {
        split: describe_corpus(plan_shards(files, data), tokenizer)
        for split, files in _corpus_files(data).items()
    }


def _pretrain_config(typed: Mapping[str, Any]) -> PretrainConfig:
    config = resolve("pretrain", typed)
    assert isinstance(config, PretrainConfig)
    return config


def _corpus_files(data: CorpusSection) -> dict[str, tuple[SourceFile, ...]]:
    cache = load_settings().cache
    found = {"train": find_files(data.corpus, data.path, split="train", cache=cache)}
    if data.corpus in PUBLISHED_CORPORA:
        found["valid"] = find_files(data.corpus, data.path, split="valid", cache=cache)
    return found


def _cannot_write(e: OSError, folder: Path) -> StorageError:
    return StorageError(f"{e.filename or folder}: {e.strerror}", hint="Give another folder.")
