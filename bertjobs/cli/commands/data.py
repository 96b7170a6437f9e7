"""`bertjobs data`: get, generate and look at data sets.

What `data` does with a corpus: make a vocabulary of it, look at it. The flags are those of pretraining.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import click

from bertjobs.cli.options import config_options, resolve
from bertjobs.cli.output.formatting import TransferLine
from bertjobs.cli.output.render import print_json, print_line, print_note
from bertjobs.cli.output.reports import print_corpora, print_inspection
from bertjobs.config import PretrainConfig
from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import ConfigError, StorageError
from bertjobs.settings import load_settings
from bertjobs.text.corpus.files import PUBLISHED_CORPORA, find_files
from bertjobs.text.datasets.splits import find_split, has_split, split_names
from bertjobs.text.datasets.task import Task
from bertjobs.text.datasets.tasks import resolve_task
from bertjobs.text.source_file import SourceFile

READING = ("data.corpus", "data.column", "data.document", "data.sentences", "data.limit_documents")


def corpus_options(*paths: str) -> Callable[..., Any]:
    """Give a command these parameters of the kind `pretrain`; it gets those that were typed as `typed`."""
    options = [option for option in config_options("pretrain") if option.path in paths]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def configured(**given: Any) -> Any:
            values = {option.path: given.pop(str(option.name)) for option in options}
            return command(typed={k: v for k, v in values.items() if v is not None}, **given)

        # Where click's decorators keep what a command takes, the last first.
        configured.__click_params__ = [*getattr(command, "__click_params__", []), *reversed(options)]  # type: ignore[attr-defined]
        return configured

    return decorate


@click.command("vocab")
@corpus_options(
    *READING, "data.path", "data.on_bad_row", "model.vocab_kind", "model.vocab_size", "model.vocab_min_count"
)
@click.option("-o", "--output", type=Path, required=True, metavar="DIR", help="Folder for its files.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def vocab(typed: Mapping[str, Any], output: Path, as_json: bool) -> None:
    """Make a vocabulary from a corpus: wordpieces, or d2l's whole words."""
    from bertjobs.text.corpus.shards import plan_shards  # numpy and pyarrow
    from bertjobs.text.vocabulary import make_vocabulary  # tokenizers

    config = _config(typed)
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
        raise StorageError(f"{e.filename or output}: {e.strerror}.", hint="Give another folder.") from e
    if as_json:
        print_json({"path": str(output), "kind": model.vocab_kind, "size": tokenizer.vocab_size})
    else:
        print_line(str(output))
        print_note(f"{tokenizer.vocab_size:,} entries. Try: bertjobs submit pretrain --vocab {output} ...")


def corpus_reports(typed: Mapping[str, Any], *, vocab: Path | None) -> dict[str, dict[str, Any]]:
    """Describe a corpus: `train` and what else is published of it.

    Raises: ConfigError: a flag that only a corpus has, without one. DataError: it cannot be read.
    """
    from bertjobs.text.corpus.shards import plan_shards
    from bertjobs.text.describe import describe_corpus  # numpy and pyarrow
    from bertjobs.text.tokenizer_files import load_tokenizer  # tokenizers

    data = _config(typed).data
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    return {
        split: describe_corpus(plan_shards(files, data), tokenizer) for split, files in _splits(data).items()
    }


def _config(typed: Mapping[str, Any]) -> PretrainConfig:
    config = resolve("pretrain", typed)
    assert isinstance(config, PretrainConfig)
    return config


def _splits(data: CorpusSection) -> dict[str, tuple[SourceFile, ...]]:
    cache = load_settings().cache
    found = {"train": find_files(data.corpus, data.path, split="train", cache=cache)}
    if data.corpus in PUBLISHED_CORPORA:
        found["valid"] = find_files(data.corpus, data.path, split="valid", cache=cache)
    return found


def refuse_mixture(ctx: click.Context, typed: Mapping[str, Any]) -> None:
    """Raise where flags of a task and of a corpus were given together: one of them would have no effect."""
    is_given = {
        str(p.name): ctx.get_parameter_source(str(p.name)) is not click.core.ParameterSource.DEFAULT
        for p in ctx.command.params
    }
    flags = {str(p.name): p.opts[-1] for p in ctx.command.params}
    if "data.corpus" in typed:
        idle = [flags[name] for name in ("task_name", "splits", "max_len") if is_given[name]]
        reason = "only a task's data has it, and --corpus was given"
    else:
        idle = [f"--{path.partition('.')[2].replace('_', '-')}" for path in typed]
        reason = "only a corpus has it; give --corpus"
    if idle:
        raise ConfigError(f"{idle[0]} has no effect: {reason}.")


@click.group()
def data() -> None:
    """Download, generate or inspect data sets."""


data.add_command(vocab)


@data.command("get")
@click.argument("name", type=click.Choice(["snli", "cola", *PUBLISHED_CORPORA]))
@click.option("--base-url", metavar="URL", help="A mirror that has the same file.")
def get(name: str, base_url: str | None) -> None:
    """Download a data set from its official address, check it and keep it in the cache."""
    from bertjobs.text.datasets import download  # the web library, which nothing else here needs

    path = download.get(name, cache=load_settings().cache, base_url=base_url, progress=TransferLine(name))
    print_line(str(path))


@data.command("sample")
@click.argument("folder", type=Path)
@click.option("--seed", default=0, show_default=True, help="Another seed makes other sentences.")
def sample(folder: Path, seed: int) -> None:
    """Write a small SNLI, CoLA and WikiText of generated sentences, in the official formats."""
    from bertjobs.text.datasets.sample import write_sample  # its grammar, which nothing else here needs

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
    from bertjobs.text.datasets import read_split  # numpy and pyarrow
    from bertjobs.text.describe import describe_split
    from bertjobs.text.tokenizer_files import load_tokenizer  # tokenizers

    task, cache = resolve_task(task_name), load_settings().cache
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    reports = {}
    for split in splits or _splits_there_are(task, path, cache):
        rows = read_split.read_split(
            task, path, split=split, on_bad_row=on_bad_row, cache=cache, require_labels=False
        )
        reports[split] = describe_split(rows, tokenizer, max_len=max_len)
    print_json(reports) if as_json else print_inspection(reports)


def _splits_there_are(task: Task, path: str | None, cache: Path) -> list[str]:
    """Return the names of the splits that are there, one for each file: CoLA's `dev` has two."""
    found: dict[SourceFile, str] = {}
    for split in split_names(task):
        if has_split(task, path, split=split, cache=cache):
            found.setdefault(find_split(task, path, split=split, cache=cache), split)
    return list(found.values())
