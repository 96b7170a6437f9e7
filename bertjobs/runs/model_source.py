"""Find and load the model that `--model` names.

A folder, a job, a name on the hub or an archive has weights, with their vocabulary; a size has none, and
starts from random weights. The last part is for encoding: the trained encoder, and how texts are truncated
for it.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bertjobs.config import EncodeConfig
from bertjobs.config.encode import EncodeTextSection
from bertjobs.config.presets import size_names
from bertjobs.config.sections import TextSection
from bertjobs.errors import ModelError
from bertjobs.hub import fetch_model, is_hub_name
from bertjobs.jobs.attempt_result import read_job_result
from bertjobs.modeling import d2l
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.weights import load_weights
from bertjobs.runs.artefacts import read_artefact
from bertjobs.runs.run_context import Run
from bertjobs.settings import Settings
from bertjobs.storage import JobDir
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.tokenizer_files import load_tokenizer


def locate_model(
    source: str,
    *,
    settings: Settings,
    resources: ExitStack,
    on_phase: Callable[[str], None] = lambda _text: None,
) -> Path | None:
    """Return the local folder or archive that contains the weights; None where `source` is a size.

    Tried in this order: a size, a path, a registered d2l archive, a job, a name on the hub.
    resources: removes what was downloaded for this run when it is closed.
    on_phase: is told every second how far a download is.

    Raises: ModelError: it is none of them. DownloadError: it would have to be downloaded and cannot be.
    """
    path = Path(source).expanduser()
    if source in size_names():  # a folder of that name is given as ./NAME
        return None
    if path.exists():
        return path
    if source in d2l.REGISTRY:
        return d2l.fetch(source, cache=settings.cache, progress=_Download(source, on_phase))
    job = JobDir(settings.storage, source)
    if "/" not in source and (name := model_of_job(job, source)) is not None:
        return resources.enter_context(job.open_dir(name))
    if is_hub_name(source):
        return fetch_model(source, cache=settings.cache, progress=_Download(source, on_phase))
    raise _unknown(source, job)


def model_of_job(job: JobDir, job_id: str) -> str | None:
    """Return the folder of a job's model; None where it has none.

    It is the one that the attempt which succeeded names. Earlier versions, and runs outside the queue, have
    `model`.

    Raises: StorageError.
    """
    result = read_job_result(job, job_id=job_id)
    named = None if result is None else result.artifacts.get("model")
    # Its last part only: where the artefacts are reached under another address, the folder is the same.
    name = PurePosixPath(named).name if isinstance(named, str) and named else "model"
    return name if job.exists(name) else None


class _Download:
    """Turns the progress of a download into phases, one a second at most."""

    def __init__(self, what: str, on_phase: Callable[[str], None]) -> None:
        self._what = what
        self._on_phase = on_phase
        self._told_at = float("-inf")

    def __call__(self, num_bytes: int, num_bytes_in_all: int | None) -> None:
        if time.monotonic() - self._told_at < 1.0:
            return
        self._told_at = time.monotonic()
        whole = "" if num_bytes_in_all is None else f" of {num_bytes_in_all / 1e6:.0f}"
        self._on_phase(f"downloading {self._what}, {num_bytes / 1e6:.0f}{whole} MB")


def _unknown(source: str, job: JobDir) -> ModelError:
    if source.startswith("j-"):
        return ModelError(
            f"--model {source}: that job has no model at {job.path_of('model')}",
            hint="Give a pretrain or finetune job that SUCCEEDED, see `bertjobs list`.",
        )
    return ModelError(
        f"--model {source}: there is no such file or folder",
        hint="Give a folder, a job id, a hub name such as google-bert/bert-base-uncased, or one of "
        f"{', '.join(size_names())}.",
    )


def model_and_tokenizer(
    run: Run[Any], *, max_len: int, new_vocabulary: Callable[[], Tokenizer]
) -> tuple[LoadedModel | BertConfig, Tokenizer]:
    """Load the weights with their vocabulary, or size a model for a vocabulary that is given or new.

    Raises: ModelError, ConfigError: broken weights or vocabulary, or they fit neither each other nor max_len.
    """
    section = run.config.model
    path = locate_model(
        section.source,
        settings=run.settings,
        resources=run.resources,
        on_phase=run.reporter.set_phase,
    )
    if path is not None:
        loaded, tokenizer = load_with_vocabulary(path, cache=run.settings.cache, num_heads=section.num_heads)
        loaded.config.check_fits(vocab_size=tokenizer.vocab_size, max_len=max_len)
        return loaded, tokenizer
    tokenizer = new_vocabulary() if section.vocab is None else load_tokenizer(Path(section.vocab))
    config = BertConfig.of_size(
        section.source, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id
    )
    config.check_fits(vocab_size=tokenizer.vocab_size, max_len=max_len)
    return config, tokenizer


def load_with_vocabulary(
    path: Path, *, cache: Path, num_heads: int | None = None
) -> tuple[LoadedModel, Tokenizer]:
    """Load a model and the vocabulary beside it. Raises: ModelError: broken, or without a vocabulary."""
    loaded = load_weights(path, cache=cache, num_heads=num_heads)
    if loaded.tokenizer_path is None:
        raise ModelError(
            f"--model {path}: there is no vocabulary beside the weights",
            hint="Put the model's vocab.txt or tokenizer.json into that folder.",
        )
    return loaded, load_tokenizer(loaded.tokenizer_path)


_MAX_MAX_LEN = 8192  # the upper bound of `text.max_len`


@dataclass(frozen=True, kw_only=True)
class TrainedEncoder:
    """A trained model with its vocabulary, and how texts are truncated for it."""

    loaded: LoadedModel
    tokenizer: Tokenizer
    text: TextSection


def load_encoder(config: EncodeConfig, *, settings: Settings, resources: ExitStack) -> TrainedEncoder:
    """Load the trained model that `--model` names; `resources` as in `locate_model`.

    Raises: ModelError, ConfigError: it is not a trained model, is broken, or has fewer positions than asked
        for. DownloadError.
    """
    path = locate_model(config.model.source, settings=settings, resources=resources)
    if path is None:
        raise ModelError(
            f"--model {config.model.source} names a size with random weights, not a trained model",
            hint="Give the id of a job that succeeded, or the folder of a trained model.",
        )
    loaded, tokenizer = load_with_vocabulary(path, cache=settings.cache, num_heads=config.model.num_heads)
    text = _text_section(config.text, path, loaded)
    loaded.config.check_fits(vocab_size=tokenizer.vocab_size, max_len=text.max_len)
    return TrainedEncoder(loaded=loaded, tokenizer=tokenizer, text=text)


def _text_section(asked: EncodeTextSection, path: Path, loaded: LoadedModel) -> TextSection:
    """Return how texts are truncated: as asked, else to the length of training, where that is known."""
    max_len = asked.max_len
    if max_len is None:
        artefact = read_artefact(path) if path.is_dir() else None
        max_len = artefact.text.max_len if artefact else loaded.config.max_position_embeddings
    return TextSection(max_len=min(max_len, _MAX_MAX_LEN), truncation=asked.truncation)
