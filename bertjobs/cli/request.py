"""The checks of a request before Redis is used: the files it names exist, and each given value has an effect.

Paths are made absolute, because the job runs in another folder, perhaps on another machine.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertjobs.config import (
    KINDS_WITH_MODEL,
    EncodeConfig,
    EvaluateConfig,
    FinetuneConfig,
    JobConfig,
    PredictConfig,
    PretrainConfig,
    TuneConfig,
    with_values,
)
from bertjobs.config.presets import read_size, size_names
from bertjobs.config.search_space import max_lens, search_space
from bertjobs.config.sections import PAIR_TRUNCATIONS
from bertjobs.errors import ConfigError, ModelError
from bertjobs.hub import is_hub_name
from bertjobs.text.corpus.files import PREDICTED_SUFFIXES, PUBLISHED_CORPORA, find_files, own_files
from bertjobs.text.datasets.splits import default_valid_split, expand_splits, find_split, split_names
from bertjobs.text.datasets.task import METRICS, Task
from bertjobs.text.datasets.tasks import BUILT_IN, configured_task, resolve_task

WithModel = FinetuneConfig | EvaluateConfig | PretrainConfig | EncodeConfig | PredictConfig

_JOB_ID = re.compile(r"j-[0-9a-z]*")
_NUM_SPECIAL_TOKENS = 3  # [CLS], and [SEP] after question and context
_ARCHIVE = re.compile(r"[\w.-]+\.zip")
_BERT_POSITIONS = 512  # of Hugging Face configurations without this key


def locate_inputs(kind: str, config: JobConfig, *, given: Mapping[str, str], cache: Path) -> JobConfig:
    """Return the config with absolute paths.

    given: the paths of the values that the user gave, each with how the user named it.

    Raises: ConfigError, DataError, ModelError: something that it names is not there, or a given value has no
        effect on this data; names the flag.
    """
    config = with_absolute_model(kind, config)
    assert isinstance(config, WithModel)
    found: dict[str, str] = {}
    if isinstance(config, PretrainConfig):
        found |= _corpora(config, cache)
    elif isinstance(config, EncodeConfig):
        own_files(config.data.path, flag="--data")
        found["data.path"] = str(Path(config.data.path).expanduser().absolute())
    elif isinstance(config, PredictConfig):
        own_files(config.data.path, flag="--data", suffixes=PREDICTED_SUFFIXES, content="rows")
        found["data.path"] = str(Path(config.data.path).expanduser().absolute())
        if config.task.name is not None and config.task.name not in BUILT_IN:
            found["task.name"] = _existing(config.task.name, flag="--task")
    else:
        found |= _task_files(config, cache)
        _check_effect(config, given, cache)
    if isinstance(config, FinetuneConfig | PretrainConfig) and config.model.vocab is not None:
        found["model.vocab"] = _existing(config.model.vocab, flag="--vocab")
    return with_values(config, found)


def with_absolute_model(kind: str, config: JobConfig) -> JobConfig:
    """Return the config with the absolute path of its model, where that is a path.

    Raises: ConfigError, ModelError: it is nothing that could be a model, or has too few positions.
    """
    assert isinstance(config, WithModel)
    source = _model(kind, config.model.source)
    if isinstance(config, TuneConfig):
        max_len: int | None = _longest_of_trials(config)
    else:
        max_len = config.text.max_len
    if max_len is not None:
        _check_positions(source, max_len=max_len)
    return with_model(config, source)


def _longest_of_trials(config: TuneConfig) -> int:
    """Check the search space; return the longest sequence of its trials. Raises: ConfigError."""
    task = configured_task(config.task)
    space = search_space(config, is_large=False, is_pair=task.is_pair, has_windows=task.has_windows)
    _, longest = max_lens(config, space)
    return longest


def model_of(config: JobConfig) -> str:
    """Return the value of `--model`."""
    assert isinstance(config, WithModel)
    return config.model.source


def with_model(config: JobConfig, source: str) -> JobConfig:
    """Return the config with another model."""
    return with_values(config, {"model.source": source})


def names_job(source: str) -> bool:
    """Return whether a located model is a job, by its id or the beginning of one."""
    return _JOB_ID.fullmatch(source) is not None


def _task_files(config: FinetuneConfig | EvaluateConfig, cache: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    task = resolve_task(config.task.name)
    if config.task.name not in BUILT_IN:
        found["task.name"] = _existing(config.task.name, flag="--task")
    if config.data.path is not None:
        found["data.path"] = _existing(config.data.path, flag="--data")
    return found | _splits(config, task, cache)


def _corpora(config: PretrainConfig, cache: Path) -> dict[str, str]:
    """Look for the files of the corpora; return the absolute paths of those that are not published."""
    found: dict[str, str] = {}
    if config.data.path is not None:
        found["data.path"] = _existing(config.data.path, flag="--data")
    find_files(config.data.corpus, config.data.path, split="train", cache=cache)
    if config.data.corpus not in PUBLISHED_CORPORA:
        found["data.corpus"] = str(Path(config.data.corpus).expanduser().absolute())
    if config.data.valid is not None:
        own_files(config.data.valid, flag="--valid")
        found["data.valid"] = str(Path(config.data.valid).expanduser().absolute())
    return found


def _check_effect(config: FinetuneConfig | EvaluateConfig, given: Mapping[str, str], cache: Path) -> None:
    """Raises: ConfigError: the user gave a value that has no effect on this task or its data."""
    task = configured_task(config.task)
    _check_windows(config, task, given)
    if not task.is_pair and "text.truncation" in given and config.text.truncation in PAIR_TRUNCATIONS:
        raise ConfigError(
            f"{given['text.truncation']} has no effect: the task {task.name} has single texts, which "
            f"{config.text.truncation} cuts as longest_first does",
            hint="Leave it out, or give head_tail.",
        )
    if isinstance(config, TuneConfig):
        _check_metric(config, task)
    held_out = [given[path] for path in ("data.valid_ratio", "data.split_seed") if path in given]
    if held_out and isinstance(config, FinetuneConfig) and config.data.valid_split is None:
        split = default_valid_split(task, config.data.path, cache=cache)
        if split is not None:
            first = expand_splits(task, split)[0]
            file = find_split(task, config.data.path, split=first, cache=cache)
            raise ConfigError(
                "\n".join(f"{name} has no effect: {file} is there to validate on" for name in held_out),
                hint="Leave it out, or give data without a development file, whose rows are then held out.",
            )


def _check_windows(config: FinetuneConfig | EvaluateConfig, task: Task, given: Mapping[str, str]) -> None:
    """Raises: ConfigError: something about windows, or truncation in place of windows, has no effect."""
    if not task.has_windows:
        if "text.doc_stride" in given:
            raise ConfigError(
                f"{given['text.doc_stride']} has no effect: {task.name} has no contexts to cut into windows",
                hint="Leave it out, or give a task of the type span, such as squad.",
            )
        return
    if "text.truncation" in given:
        raise ConfigError(
            f"{given['text.truncation']} has no effect: the contexts of {task.name} are cut into windows",
            hint="Leave it out; `--doc-stride` says how much windows overlap.",
        )
    max_len, stride = config.text.max_len, config.text.doc_stride
    if max_len is not None and stride is not None and stride >= max_len - _NUM_SPECIAL_TOKENS:
        raise ConfigError(
            f"--doc-stride {stride}: windows of --max-len {max_len} have no room for more than this overlap",
            hint="Give a smaller `--doc-stride` or a larger `--max-len`.",
        )


def _check_metric(config: TuneConfig, task: Task) -> None:
    """Raises: ConfigError: the task has no such metric."""
    known = (*METRICS[task.type], "loss")
    if config.search.metric is not None and config.search.metric not in known:
        raise ConfigError(
            f"--metric {config.search.metric}: the task {task.name} ({task.type}) has {', '.join(known)}"
        )


def _splits(config: FinetuneConfig | EvaluateConfig, task: Task, cache: Path) -> dict[str, str]:
    """Look for every requested split; return the absolute paths of those that are files."""
    if isinstance(config, FinetuneConfig):
        wanted: list[tuple[str, str | None]] = [("", "train"), ("data.valid_split", config.data.valid_split)]
    else:
        wanted = [("data.split", config.data.split)]
    found = {}
    for path, splits in wanted:
        names = [] if splits is None else expand_splits(task, splits)
        sources = [find_split(task, config.data.path, split=name, cache=cache) for name in names]
        if len(names) == 1 and names[0] not in split_names(task):
            found[path] = str(sources[0].path.absolute())
    return found


def _model(kind: str, source: str) -> str:
    """Return what `--model` names (a size, a job, a d2l archive or a name on the hub), a path made absolute.

    Raises: ConfigError, ModelError: it is none of these, or a size where a trained model is needed.
    """
    is_size = source in size_names()
    if is_size and kind in KINDS_WITH_MODEL:
        return source
    path = Path(source).expanduser()
    if path.exists() or source.startswith(("/", "./", "../", "~")):
        return _existing(source, flag="--model")
    if is_size:
        raise ModelError(
            f"--model {source}: {kind} needs a trained model, and {source} is only the size of a new one",
            hint="Give the id of a job that succeeded, or the folder of a trained model.",
        )
    if names_job(source) or _ARCHIVE.fullmatch(source) or is_hub_name(source):
        return source
    raise ModelError(
        f"--model {source} is not a file, a folder, a job id, a size or a name on the hub",
        hint=f"Give a folder, a job id, a hub name such as google-bert/bert-base-uncased, or one of "
        f"{', '.join(size_names())}.",
    )


def _check_positions(source: str, *, max_len: int) -> None:
    """Compare with the configuration of a size or a folder; other sources are checked when they are loaded.

    Raises: ConfigError: the model has fewer positions.
    """
    words = read_size(source) if source in size_names() else _read_config(Path(source) / "config.json")
    if words is None:
        return
    num_positions = {"max_position_embeddings": _BERT_POSITIONS, **words}["max_position_embeddings"]
    if isinstance(num_positions, int) and max_len > num_positions:
        raise ConfigError(
            f"--max-len {max_len}: the model {source} has {num_positions} positions",
            hint=f"Give `--max-len {num_positions}` or less, or another `--model`.",
        )


def _read_config(path: Path) -> dict[str, Any] | None:
    """Read the `config.json` of local weights; None where it cannot be read: loading them gives the error."""
    try:
        words = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return words if isinstance(words, dict) else None


def _existing(given: str, *, flag: str) -> str:
    path = Path(given).expanduser().absolute()
    if not path.exists():
        raise ConfigError(f"{flag} {given}: there is no such file or folder", hint=f"The path is {path}.")
    return str(path)
