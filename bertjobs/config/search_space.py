"""The space of a search: the default one, which parameters may be varied, and the configuration of one trial.

Everything that a trial could be given is validated here, before anything is queued.
"""

import itertools
from collections.abc import Iterator, Mapping

from bertjobs.config.dimensions import Choice, Dimension, IntegerRange, Space, Values, origin, parse_space
from bertjobs.config.finetune import FinetuneConfig
from bertjobs.config.kinds import find_unused
from bertjobs.config.load import ConfigLayer, load_config, stored_layer
from bertjobs.config.parameters import describe_parameter, parameter_paths
from bertjobs.config.sections import PAIR_TRUNCATIONS
from bertjobs.config.tune import TuneConfig
from bertjobs.errors import ConfigError

_ONE_DATA_SET = "the data is read and encoded once, for all trials"
_ONE_MODEL = "all trials start from the same weights and vocabulary, for which the data is encoded once"
_SAME_RESULT = "it does not change what a trial learns"
NOT_SEARCHABLE: Mapping[str, str] = {
    "task": "the trials of a search learn one task",
    "data": _ONE_DATA_SET,
    "resources": "a search divides one grant of resources among its trials",
    "search": "it configures the search itself",
    "origin": "it names where a configuration came from",
    "model.source": _ONE_MODEL,
    "model.num_heads": _ONE_MODEL,
    "model.vocab": _ONE_MODEL,
    "model.vocab_size": _ONE_MODEL,
    "train.accumulation": _SAME_RESULT,
    "train.microbatch_tokens": _SAME_RESULT,
    "train.eval_batch_size": _SAME_RESULT,
    "train.checkpoint_steps": _SAME_RESULT,
    "train.activation_checkpointing": _SAME_RESULT,
    "train.compile": _SAME_RESULT,
    "train.deterministic": _SAME_RESULT,
    "train.grad_exchange": _SAME_RESULT,
    "train.report_to": _SAME_RESULT,
    "train.keep_weights": "a search keeps the best weights of each trial",
    "train.profile": _SAME_RESULT,
    "train.eval_steps": "trials are compared while they run, so all must be evaluated equally often",
}
"""Sections and paths that cannot be varied inside one search, and why."""


def default_space(
    config: TuneConfig, *, is_large: bool, is_pair: bool, has_windows: bool = False
) -> dict[str, str]:
    """Return the space to search where the user gives none.

    Source: BERT, appendix A.3, has 2e-5 to 5e-5 for base and large; small models train well at ten times
    that."""
    points = ",5" if config.search.algorithm == "grid" else ""
    strategies = ("longest_first", *(PAIR_TRUNCATIONS if is_pair else ()), "head_tail")
    space = {
        "optim.lr": f"loguniform:1e-5,{'1e-4' if is_large else '1e-3'}{points}",
        "train.batch_size": "choice:16,32,64,128",
    }
    # Contexts that are cut into windows are not truncated.
    return space if has_windows else space | {"text.truncation": f"choice:{','.join(strategies)}"}


def space_texts(
    config: TuneConfig, *, is_large: bool, is_pair: bool, has_windows: bool = False
) -> dict[str, str]:
    """Return the space as text, by path: the given one, or the default."""
    if config.search.space is not None:
        return config.search.space
    return default_space(config, is_large=is_large, is_pair=is_pair, has_windows=has_windows)


def search_space(
    config: TuneConfig, *, is_large: bool, is_pair: bool, has_windows: bool = False
) -> dict[str, Dimension]:
    """Return the dimensions of a search, after validating every value that they could give to a trial.

    Raises: ConfigError: a dimension cannot be read, is not a parameter, has no effect, cannot be searched or
        goes beyond the bounds of the schema; a grid has no number of points, or more than there are trials.
    """
    texts = space_texts(config, is_large=is_large, is_pair=is_pair, has_windows=has_windows)
    space = parse_space(texts)
    for path in space:
        _check_path(path, origin(path, texts[path]))
    for path, dimension in space.items():
        _check_type(path, dimension, named=origin(path, texts[path]))
    _check_effect(config, space, texts, is_pair=is_pair)
    _check_windows(config, texts, has_windows=has_windows)
    _check_grid(config, space, texts)
    return space


def trial_config(
    config: TuneConfig, values: Values, texts: Mapping[str, str] | None = None
) -> FinetuneConfig:
    """Return the configuration of one trial. Raises: ConfigError: its values are in conflict."""
    named = {path: origin(path, text) for path, text in (texts or {}).items()}
    given = config.model_dump(exclude={"search"})
    given["resources"] = _resources_of_trial(config)
    layers = stored_layer(given), ConfigLayer(values, {path: path for path in values} | named, is_given=False)
    trial = load_config("finetune", *layers)
    assert isinstance(trial, FinetuneConfig)
    return trial


def corner_configs(
    config: TuneConfig, space: Space, texts: Mapping[str, str] | None = None
) -> Iterator[FinetuneConfig]:
    """Yield the configurations at the ends of every three dimensions; no rule involves more than three.

    Raises: ConfigError: one of them is not allowed; the error names the dimension, or the values.
    """
    for values in _corners(space):
        try:
            yield trial_config(config, values, texts)
        except ConfigError as e:
            if e.message.startswith("--space"):
                raise
            given = " and ".join(f"{path}={value}" for path, value in values.items())
            raise ConfigError(f"--space: a trial could have {given}. {e.message}", hint=e.hint) from e


def max_lens(config: TuneConfig, space: Space) -> tuple[int, int]:
    """Return the smallest and the largest `text.max_len` that a trial may have."""
    found = [trial.text.max_len for trial in corner_configs(config, space)]
    return min(found), max(found)


def workers_per_trial(config: TuneConfig) -> int:
    """Return the number of worker processes of one trial."""
    search = config.search
    return search.workers_per_trial or max(1, int(search.gpus_per_trial or 1) if config.resources.gpus else 1)


def gpus_per_trial(config: TuneConfig) -> float:
    """Return the number of GPUs of one trial; a fraction where trials share a GPU."""
    return (config.search.gpus_per_trial or 1.0) if config.resources.gpus else 0.0


def _corners(space: Space) -> list[Values]:
    first = {path: dimension.ends[0] for path, dimension in space.items()}
    found: dict[tuple[tuple[str, object], ...], Values] = {}
    for paths_of_rule in itertools.combinations(space, min(len(space), 3)):
        for ends in itertools.product(*(space[path].ends for path in paths_of_rule)):
            values = first | dict(zip(paths_of_rule, ends, strict=True))
            found[tuple(values.items())] = values
    return list(found.values())


def _check_path(path: str, named: str) -> None:
    section = path.partition(".")[0]
    for refused in (path, section):
        if refused in NOT_SEARCHABLE:
            raise ConfigError(f"{named}: {path} cannot be searched: {NOT_SEARCHABLE[refused]}")
    if path not in parameter_paths("finetune"):
        load_config("finetune", ConfigLayer({path: None}, {path: named}))  # its error suggests a close name


def _check_type(path: str, dimension: Dimension, *, named: str) -> None:
    if isinstance(dimension, Choice | IntegerRange):
        return
    if describe_parameter("finetune", path).type is int:
        raise ConfigError(f"{named}: {path} takes whole numbers", hint="Use randint or choice.")


def _check_effect(config: TuneConfig, space: Space, texts: Mapping[str, str], *, is_pair: bool) -> None:
    """Refuse a dimension that has no effect, whatever the values of the others."""
    unused: list[dict[str, str]] = [
        dict(find_unused("finetune", trial, given=space)) for trial in corner_configs(config, space, texts)
    ]
    for path in space:
        if all(path in reasons for reasons in unused):
            raise ConfigError(f"{origin(path, texts[path])} has no effect: {unused[0][path]}")
    truncation = space["text.truncation"].ends if "text.truncation" in space else ()
    if truncation and not is_pair and "head_tail" not in truncation:
        raise ConfigError(
            f"{origin('text.truncation', texts['text.truncation'])} has no effect: --task "
            f"{config.task.name} has single texts, which all these strategies cut in the same way",
            hint="Add head_tail, the only strategy that cuts a single text differently.",
        )


def _check_windows(config: TuneConfig, texts: Mapping[str, str], *, has_windows: bool) -> None:
    unused = "text.truncation" if has_windows else "text.doc_stride"
    if unused in texts:
        how = "cuts its contexts into windows" if has_windows else "has no contexts to cut into windows"
        raise ConfigError(
            f"{origin(unused, texts[unused])} has no effect: --task {config.task.name} {how}",
            hint=f"Leave {unused} out of the search space.",
        )


def _check_grid(config: TuneConfig, space: Space, texts: Mapping[str, str]) -> None:
    is_grid, num_points = config.search.algorithm == "grid", 1
    for path, dimension in space.items():
        if isinstance(dimension, Choice):
            num_points *= len(dimension.values)
            continue
        named = origin(path, texts[path])
        if not is_grid and dimension.num_points is not None:
            raise ConfigError(
                f"{named}: only a grid uses the number of points of a range",
                hint="Leave the third number out, or give --algorithm grid.",
            )
        if is_grid and dimension.num_points is None and not isinstance(dimension, IntegerRange):
            raise ConfigError(
                f"{named}: a grid needs the number of points of this range",
                hint=f"Give a third number, as in {texts[path]},5.",
            )
        num_points *= len(dimension.grid) if is_grid else 1
    if is_grid and num_points > config.search.trials:
        raise ConfigError(
            f"--trials {config.search.trials}: the grid has {num_points} points",
            hint=f"Give --trials {num_points}, or fewer values in --space.",
        )


def _resources_of_trial(config: TuneConfig) -> dict[str, float | int | None]:
    """Return the resources that `submit finetune` would request to run one trial."""
    gpus = -(-gpus_per_trial(config) // 1)
    return {"gpus": int(gpus), "workers": config.search.workers_per_trial, "cpus_per_worker": None}
