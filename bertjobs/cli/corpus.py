"""What `data` does with a corpus: make a vocabulary of it, look at it. The flags are those of pretraining."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bertjobs.cli.options import config_options, resolve
from bertjobs.cli.render import print_json, print_line, print_note
from bertjobs.config import PretrainConfig
from bertjobs.config.schema_pretrain import CorpusSection
from bertjobs.errors import ConfigError, StorageError
from bertjobs.settings import load_settings
from bertjobs.text.corpus_files import PUBLISHED_CORPORA, find_files
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
    from bertjobs.text.spans import plan_spans  # numpy and pyarrow
    from bertjobs.text.vocabulary import make_vocabulary  # tokenizers

    config = _config(typed)
    files = find_files(config.data.corpus, config.data.path, split="train", cache=load_settings().cache)
    model = config.model
    tokenizer = make_vocabulary(
        plan_spans(files, config.data),
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
    from bertjobs.text.inspect_corpus import inspect_corpus  # numpy and pyarrow
    from bertjobs.text.spans import plan_spans
    from bertjobs.text.tokenizers import load_tokenizer  # tokenizers

    data = _config(typed).data
    tokenizer = None if vocab is None else load_tokenizer(vocab)
    return {
        split: inspect_corpus(plan_spans(files, data), tokenizer) for split, files in _splits(data).items()
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
