"""Turn what `--model` names into a local folder of weights, or into a size to start from random weights;
and load the weights of a folder with their vocabulary.

A trained model that represents texts: found, loaded with its vocabulary, and how texts are cut for it.
"""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bertjobs.config import EncodeConfig
from bertjobs.config.encode import EncodeTextSection
from bertjobs.config.presets import size_names
from bertjobs.config.sections import TextSection
from bertjobs.errors import ModelError
from bertjobs.modeling import d2l, weights
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.weights import load_weights
from bertjobs.runs.artefacts import read_artefact
from bertjobs.runs.run_context import Run
from bertjobs.settings import Settings
from bertjobs.storage import JobDir
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.tokenizer_files import load_tokenizer

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


class Place(Protocol):
    """Where models are looked for: a `Run`, or a command in the foreground."""

    @property
    def settings(self) -> Settings: ...

    @property
    def resources(self) -> ExitStack:
        """What is to be given back at the end: downloaded folders."""


def locate_model(source: str, run: Place) -> Path | None:
    """Return the local folder or archive that holds the weights; None where `source` is a size.

    Tried in this order: a size, a path, a registered d2l archive, a job, a hub name.

    Raises: ModelError: it is none of them. DownloadError: it would have to be downloaded and cannot be.
    """
    path = Path(source).expanduser()
    if source in size_names():  # a folder of that name is given as ./NAME
        return None
    if path.exists():
        return path
    if source in d2l.REGISTRY:
        return d2l.fetch(source, cache=run.settings.cache)
    job = JobDir(run.settings.storage, source)
    if "/" not in source and job.exists("model"):
        return run.resources.enter_context(job.open_dir("model"))
    if _HUB_NAME.match(source) and not source.startswith((".", "j-")):
        return weights.fetch(source, cache=run.settings.cache)
    raise _unknown(source, job)


def model_and_tokenizer(
    run: Run[Any], *, max_len: int, new_vocabulary: Callable[[], Tokenizer]
) -> tuple[LoadedModel | BertConfig, Tokenizer]:
    """Load the weights with their vocabulary, or size a model for a vocabulary that is given or made.

    Raises: ModelError, ConfigError: broken weights or vocabulary, or they fit neither each other nor max_len.
    """
    section = run.config.model
    path = locate_model(section.source, run)
    if path is not None:
        loaded, tokenizer = load_with_vocabulary(path, run, num_heads=section.num_heads)
        loaded.config.check_fits(vocab_size=tokenizer.vocab_size, max_len=max_len)
        return loaded, tokenizer
    tokenizer = new_vocabulary() if section.vocab is None else load_tokenizer(Path(section.vocab))
    config = BertConfig.of_size(
        section.source, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id
    )
    config.check_fits(vocab_size=tokenizer.vocab_size, max_len=max_len)
    return config, tokenizer


def load_with_vocabulary(
    path: Path, run: Place, *, num_heads: int | None = None
) -> tuple[LoadedModel, Tokenizer]:
    """Load a model and the vocabulary beside it. Raises: ModelError: broken, or without a vocabulary."""
    loaded = load_weights(path, cache=run.settings.cache, num_heads=num_heads)
    if loaded.tokenizer_path is None:
        raise ModelError(
            f"--model {path}: there is no vocabulary beside the weights.",
            hint="Put the model's vocab.txt or tokenizer.json into that folder.",
        )
    return loaded, load_tokenizer(loaded.tokenizer_path)


def _unknown(source: str, job: JobDir) -> ModelError:
    if source.startswith("j-"):
        return ModelError(
            f"--model {source}: that job has no model at {job.path_of('model')}.",
            hint="Give a pretrain or finetune job that SUCCEEDED, see `bertjobs list`.",
        )
    return ModelError(
        f"--model {source}: there is no such file or folder.",
        hint="Give a folder, a job id, a hub name such as google-bert/bert-base-uncased, or one of "
        f"{', '.join(size_names())}.",
    )


_MOST_POSITIONS = 8192  # that `text.max_len` can name


@dataclass(frozen=True, kw_only=True)
class TrainedEncoder:
    loaded: LoadedModel
    tokenizer: Tokenizer
    text: TextSection


@dataclass(frozen=True, kw_only=True)
class Here:
    """The place of a command in the foreground."""

    settings: Settings
    resources: ExitStack


def load_encoder(config: EncodeConfig, place: Place) -> TrainedEncoder:
    """Load what `--model` names.

    Raises: ModelError, ConfigError: it is no trained model, is broken, or has fewer positions than asked for.
        DownloadError.
    """
    path = locate_model(config.model.source, place)
    if path is None:
        raise ModelError(
            f"--model {config.model.source}: a model of random weights represents nothing.",
            hint="Give the id of a job that succeeded, or the folder of a trained model.",
        )
    loaded, tokenizer = load_with_vocabulary(path, place, num_heads=config.model.num_heads)
    text = _text_section(config.text, path, loaded)
    loaded.config.check_fits(vocab_size=tokenizer.vocab_size, max_len=text.max_len)
    return TrainedEncoder(loaded=loaded, tokenizer=tokenizer, text=text)


def load_encoder_here(config: EncodeConfig, *, settings: Settings) -> TrainedEncoder:
    """Load it into this process, which is no run. Raises: as `load_encoder`."""
    with ExitStack() as resources:
        return load_encoder(config, Here(settings=settings, resources=resources))


def _text_section(asked: EncodeTextSection, path: Path, loaded: LoadedModel) -> TextSection:
    """Return how texts are cut: as asked, else at the length that the model was trained with, if known."""
    max_len = asked.max_len
    if max_len is None:
        artefact = read_artefact(path) if path.is_dir() else None
        max_len = artefact.text.max_len if artefact else loaded.config.max_position_embeddings
    return TextSection(max_len=min(max_len, _MOST_POSITIONS), truncation=asked.truncation)
