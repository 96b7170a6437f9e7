"""The flags of the job kinds: one table from flags to dotted paths, and the command class that turns what was
typed into a configuration. Type, choices, bounds, help and shown default of a flag come from the schema."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from bertjobs.cli.completion import complete_assignment, complete_preset, complete_value
from bertjobs.cli.search_job import from_trial_of, trial_layer
from bertjobs.config import (
    ConfigLayer,
    JobConfig,
    describe_parameter,
    file_layer,
    given_values,
    load_config,
    parameter_paths,
    preset_layer,
    set_layer,
)
from bertjobs.config.dimensions import merge_space
from bertjobs.config.parameters import Parameter
from bertjobs.config.presets import preset_names

FLAGS: dict[str, dict[str, str]] = {
    "Task and data": {
        "--task": "task.name",
        "--corpus": "data.corpus",
        "--data": "data.path",
        "--split": "data.split",
        "--on-bad-row": "data.on_bad_row",
        "--n-best": "task.n_best",
        "--max-answer-tokens": "task.max_answer_tokens",
        "--null-threshold": "task.null_threshold",
        "--valid-split": "data.valid_split",
        "--valid-ratio": "data.valid_ratio",
        "--split-seed": "data.split_seed",
        "--limit-train": "data.limit_train",
        "--limit-valid": "data.limit_valid",
        "--limit": "data.limit",
        "--valid": "data.valid",
        "--column": "data.column",
        "--document": "data.document",
        "--sentences": "data.sentences",
        "--limit-documents": "data.limit_documents",
        "--block-bytes": "data.block_bytes",
        "--shuffle-blocks": "data.shuffle_blocks",
    },
    "Text": {
        "--max-len": "text.max_len",
        "--truncation": "text.truncation",
        "--doc-stride": "text.doc_stride",
        "--pair-separator": "text.pair_separator",
    },
    "Objective": {
        "--pairs": "objective.pairs",
        "--segments": "objective.segments",
        "--mask-ratio": "objective.mask_ratio",
        "--mask-token-ratio": "objective.mask_token_ratio",
        "--random-token-ratio": "objective.random_token_ratio",
        "--keep-token-ratio": "objective.keep_token_ratio",
        "--whole-word": "objective.whole_word",
    },
    "Model": {
        "--model": "model.source",
        "--num-heads": "model.num_heads",
        "--vocab": "model.vocab",
        "--vocab-kind": "model.vocab_kind",
        "--vocab-size": "model.vocab_size",
        "--vocab-min-count": "model.vocab_min_count",
        "--pooling": "model.pooling",
        "--hidden-dropout": "model.hidden_dropout",
        "--attention-dropout": "model.attention_dropout",
        "--classifier-dropout": "model.classifier_dropout",
    },
    "Optimizer": {
        "--lr": "optim.lr",
        "--weight-decay": "optim.weight_decay",
        "--beta1": "optim.beta1",
        "--beta2": "optim.beta2",
        "--eps": "optim.eps",
        "--schedule": "optim.schedule",
        "--warmup-ratio": "optim.warmup_ratio",
        "--decay-ratio": "optim.decay_ratio",
        "--max-grad-norm": "optim.max_grad_norm",
        "--layer-decay": "optim.layer_decay",
        "--freeze-layers": "optim.freeze_layers",
    },
    "Steps": {
        "--epochs": "train.epochs",
        "--max-steps": "train.max_steps",
        "--max-tokens": "train.max_tokens",
        "--max-time-s": "train.max_time_s",
        "--batch-size": "train.batch_size",
        "--accumulation": "train.accumulation",
        "--microbatch-tokens": "train.microbatch_tokens",
        "--activation-checkpointing": "train.activation_checkpointing",
        "--eval-steps": "train.eval_steps",
        "--eval-batch-size": "train.eval_batch_size",
        "--eval-examples": "train.eval_examples",
        "--seed": "train.seed",
        "--precision": "train.precision",
        "--compile": "train.compile",
        "--grad-exchange": "train.grad_exchange",
        "--deterministic": "train.deterministic",
        "--profile": "train.profile",
        "--checkpoint-steps": "train.checkpoint_steps",
        "--patience": "train.patience",
        "--keep-weights": "train.keep_weights",
        "--report-to": "train.report_to",
    },
    "Search": {
        "--from-trial": "origin.from_trial",
        "--trials": "search.trials",
        "--space": "search.space",
        "--algorithm": "search.algorithm",
        "--stopper": "search.stopper",
        "--metric": "search.metric",
        "--grace-examples": "search.grace_examples",
        "--reduction-factor": "search.reduction_factor",
        "--search-seed": "search.search_seed",
        "--gpus-per-trial": "search.gpus_per_trial",
        "--cpus-per-trial": "search.cpus_per_trial",
        "--workers-per-trial": "search.workers_per_trial",
        "--max-concurrent": "search.max_concurrent",
    },
    "Resources": {
        "--gpus": "resources.gpus",
        "--workers": "resources.workers",
        "--cpus-per-worker": "resources.cpus_per_worker",
    },
}


class UncheckedValue(click.ParamType[str]):
    """A value as it was typed. The schema checks it, so that a flag and `--set` give the same error."""

    def __init__(self, parameter: Parameter) -> None:
        self.path = parameter.path
        self.choices = parameter.choices or ()
        self.name = "choice" if self.choices else {int: "int", float: "float"}.get(parameter.type, "text")

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return complete_value(self.path, self.choices)(ctx, param, incomplete)


class ConfigOption(click.Option):
    """A flag that sets one dotted path of a kind's configuration."""

    def __init__(self, flag: str, *, section: str, parameter: Parameter) -> None:
        is_bool = parameter.type is bool
        super().__init__(
            [f"{flag}/{flag.replace('--', '--no-')}" if is_bool else flag],
            type=None if is_bool else UncheckedValue(parameter),
            default=None,
            multiple=parameter.type is dict,
            help=_help(parameter),
        )
        self.section = section
        self.path = parameter.path


_FLAG_WIDTH = 27
_MERGING, _MERGED = "Sources of values (flags override all of these)", ("preset", "config", "assign")


PRESET = "bertjobs.preset"
"""Where a `JobCommand` leaves the name of its preset in `ctx.meta`. What the job does is in its
configuration; the name only says where that began."""


class JobCommand(click.Command):
    """A command that takes every flag of a job kind; it gets the merged and validated `config`, and `given`:
    the paths of the values that the user gave, each with how the user named it."""

    def __init__(self, name: str | None, *, kind: str, params: list[click.Parameter], **attrs: Any) -> None:
        super().__init__(name, params=[*_merging(kind), *config_options(kind), *params], **attrs)
        self.kind = kind

    def invoke(self, ctx: click.Context) -> Any:
        flags: dict[str, Any] = {}
        for option in self.params:
            if isinstance(option, ConfigOption) and option.name is not None:
                value = ctx.params.pop(option.name)
                if value is not None and value != ():
                    flags[option.path] = merge_space(value) if option.multiple else value
        merged = {name: ctx.params.pop(name) for name in _MERGED if name in ctx.params}
        layers = config_layers(self.kind, flags, **merged)
        config = load_config(self.kind, *layers)
        if (named := from_trial_of(config)) is not None:
            trial, name = trial_layer(named)  # asks the queue, so only for a configuration that is valid
            whole_name = ConfigLayer({"origin.from_trial": name}, {}, is_given=False)
            config = load_config(self.kind, trial, *layers, whole_name)
        ctx.params |= {"config": config, "given": given_values(*layers)}
        ctx.meta[PRESET] = merged.get("preset")
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the options by section of the table, those about the job itself last."""
        rows: dict[str, list[tuple[str, str]]] = {_MERGING: [], **{section: [] for section in FLAGS}}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                section = _MERGING if param.name in _MERGED else getattr(param, "section", "The job")
                rows.setdefault(section, []).append(record)
        width = min(_FLAG_WIDTH, max(len(flag) for records in rows.values() for flag, _ in records))
        for section, records in rows.items():
            if records:
                with formatter.section(section):
                    formatter.write_dl([(flag.ljust(width), text) for flag, text in records], col_max=width)


def config_options(kind: str) -> list[ConfigOption]:
    """Make the options of a kind, in the order of the table."""
    known = set(parameter_paths(kind))
    return [
        ConfigOption(flag, section=section, parameter=describe_parameter(kind, path))
        for section, flags in FLAGS.items()
        for flag, path in flags.items()
        if path in known
    ]


def with_config_options(
    kind: str, *paths: str, help_of: Mapping[str, str] | None = None
) -> Callable[..., Any]:
    """Give a command the flags of these parameters; it gets those that were typed, by path, as `typed`.

    help_of: help texts that replace those of the schema, by path.
    """
    options = [option for option in config_options(kind) if option.path in paths]
    for option in options:
        option.help = (help_of or {}).get(option.path, option.help)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def configured(**given: Any) -> Any:
            values = {option.path: given.pop(str(option.name)) for option in options}
            typed = {path: value for path, value in values.items() if value is not None}
            return command(typed=typed, **given)

        # Where click's decorators keep the parameters of a command, the last first.
        configured.__click_params__ = [*getattr(command, "__click_params__", []), *reversed(options)]  # type: ignore[attr-defined]
        return configured

    return decorate


def resolve(
    kind: str,
    flags: Mapping[str, Any],
    *,
    preset: str | None = None,
    config: Path | None = None,
    assign: tuple[str, ...] = (),
) -> JobConfig:
    """Merge defaults, preset, file, `--set` and flags, the later over the earlier, and validate.

    Raises: ConfigError: with the name of the flag, what was given and what is allowed.
    """
    return load_config(kind, *config_layers(kind, flags, preset=preset, config=config, assign=assign))


def config_layers(
    kind: str,
    flags: Mapping[str, Any],
    *,
    preset: str | None = None,
    config: Path | None = None,
    assign: tuple[str, ...] = (),
) -> list[ConfigLayer]:
    """Return the layers of preset, file, `--set` and flags, in that order.

    Raises: ConfigError: there is no such preset, the file cannot be read, or an assignment has no `=`.
    """
    names = {path: flag for flags_ in FLAGS.values() for flag, path in flags_.items()}
    layers = [ConfigLayer({}, names)]  # so that an error about a default names its flag
    if preset is not None:
        layers.append(preset_layer(kind, preset))
    if config is not None:
        layers.append(file_layer(config))
    layers.append(set_layer(assign))
    layers.append(ConfigLayer(flags, {path: names[path] for path in flags}))
    return layers


def _merging(kind: str) -> list[click.Option]:
    preset = click.Option(
        ["--preset"],
        metavar="NAME",
        shell_complete=complete_preset(kind),
        help="Start from a preset; see `bertjobs presets list`.",
    )
    return [
        *([preset] if preset_names(kind) else []),
        click.Option(
            ["--config"],
            type=Path,
            metavar="FILE",
            help="YAML file with sections, such as `optim: {lr: 3e-5}`.",
        ),
        click.Option(
            ["--set", "assign"],
            multiple=True,
            metavar="PATH=VALUE",
            shell_complete=complete_assignment(kind),
            help="Set one parameter, as in optim.lr=3e-5.",
        ),
    ]


def _help(parameter: Parameter) -> str:
    notes = [parameter.bounds or " | ".join(parameter.choices or ())]
    if parameter.is_required:
        notes.append("required")
    elif parameter.default is not None:
        default = parameter.default
        notes.append(f"default: {str(default).lower() if isinstance(default, bool) else default}")
    shown = "; ".join(note for note in notes if note)
    return f"{parameter.help}  [{shown}]" if shown else parameter.help
