"""Encode a few texts, token by token, in this process: without Ray, without a queue, in fp32."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bertjobs.config import EncodeConfig
from bertjobs.config.encode import Pooling
from bertjobs.errors import DataError
from bertjobs.modeling.build import build_pretraining
from bertjobs.runs.model_source import load_encoder
from bertjobs.settings import Settings
from bertjobs.text.text_pairs import encode_singles_and_pairs, quoted, singles_and_pairs, split_pair
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.truncation import uncut_sequence_lengths
from bertjobs.training.inference import Floats, TextEmbedder

Warn = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class NamedVector:
    """The vector of a text, of a word in it, or of a special token."""

    token: str
    position: int | None
    """Position of its first wordpiece in the text, from 0; None for the mean over all tokens."""
    vector: Floats


@dataclass(frozen=True, kw_only=True)
class TextEmbedding:
    """The tokens and vectors of one text."""

    text: str
    tokens: list[str]
    vectors: list[NamedVector]
    """The text's vector, then those of the words asked for, in their order."""


def embed_texts(
    texts: Sequence[str], *, words: Sequence[str], config: EncodeConfig, settings: Settings, warn: Warn
) -> list[TextEmbedding]:
    """Return the vectors of each text, and of each occurrence of the words in it; warn of truncated texts.

    Raises: DataError: there is no text, or one is empty, has more than two parts, or lacks one of the words.
        ModelError, ConfigError: as `load_encoder`.
    """
    check_not_empty(texts)
    pairs = [split_pair(text, config.text.pair_separator) for text in texts]
    with ExitStack() as resources:
        trained = load_encoder(config, settings=settings, resources=resources)
    embedder = TextEmbedder(
        build_pretraining(trained.loaded, seed=0).bert,
        text=trained.text,
        tokenizer=trained.tokenizer,
        pooling=config.model.pooling,
        batch_size=config.train.batch_size,
    )
    found: dict[int, TextEmbedding] = {}
    for places, table in singles_and_pairs(encode_singles_and_pairs(pairs, trained.tokenizer)):
        uncut = uncut_sequence_lengths(table.lengths_a, table.lengths_b)
        for row, ids, hidden_LD in embedder.tokens(table):
            text = texts[places[row]]
            warn_if_truncated(text, int(uncut[row]), len(ids), warn=warn)
            vectors = [_vector_of_text(ids, hidden_LD, config.model.pooling, trained.tokenizer)]
            for word in words:
                vectors += _vectors_of_word(word, text, ids, hidden_LD, trained.tokenizer)
            tokens = trained.tokenizer.token_strings(ids)
            found[int(places[row])] = TextEmbedding(text=text, tokens=tokens, vectors=vectors)
    return [found[i] for i in range(len(texts))]


def check_not_empty(texts: Sequence[str]) -> None:
    """Raises: DataError: there is no text."""
    if not texts:
        raise DataError("No text was given", hint="Give texts, or `-` to read them from stdin, one per line.")


def warn_if_truncated(text: str, uncut: int, length: int, *, warn: Warn) -> None:
    """Warn if a text was too long."""
    if uncut > length:
        warn(f"The text {quoted(text)} has {uncut} tokens and is truncated to {length} (--max-len)")


def _vector_of_text(
    ids: Sequence[int], hidden_LD: Floats, pooling: Pooling, tokenizer: Tokenizer
) -> NamedVector:
    if pooling == "mean":
        return NamedVector(token="mean", position=None, vector=hidden_LD.mean(axis=0))
    (name,) = tokenizer.token_strings(ids[:1])
    return NamedVector(token=name, position=0, vector=hidden_LD[0])


def _vectors_of_word(
    word: str, text: str, ids: Sequence[int], hidden_LD: Floats, tokenizer: Tokenizer
) -> list[NamedVector]:
    places = tokenizer.find_word(word, ids)
    if not places:
        raise DataError(
            f"--token {word} does not occur in the text {quoted(text)}",
            hint=f"Its tokens are: {quoted(' '.join(tokenizer.token_strings(ids)))}.",
        )
    return [
        NamedVector(token=word, position=place.start, vector=hidden_LD[place.start : place.stop].mean(axis=0))
        for place in places
    ]
