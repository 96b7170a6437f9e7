"""A trained model that represents texts: found, loaded with its vocabulary, and how texts are cut for it."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bertjobs.config import EncodeConfig
from bertjobs.config.encode import EncodeTextSection
from bertjobs.config.finetune import TextSection
from bertjobs.errors import ModelError
from bertjobs.modeling.config import LoadedModel
from bertjobs.runs.artefact import read_artefact
from bertjobs.runs.model_source import Place, load_with_vocabulary, locate_model
from bertjobs.settings import Settings
from bertjobs.text.tokenizers import Tokenizer

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
