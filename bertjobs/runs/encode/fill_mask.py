"""Predict the masked words of a few texts in this process: without Ray, without a queue, in fp32."""

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bertjobs.config import EncodeConfig
from bertjobs.errors import ConfigError, DataError
from bertjobs.runs.encode.embed_texts import Warn, check_not_empty, warn_if_truncated
from bertjobs.runs.model_source import TrainedEncoder, load_encoder
from bertjobs.settings import Settings
from bertjobs.text.text_pairs import quoted
from bertjobs.training.inference import build_masked_language_model, mask_probabilities

_MASK = re.compile(r"\[MASK\]|<mask>")
"""Both names are accepted, whatever the vocabulary calls the mask."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    token: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Mask:
    """A mask in a text, and the model's predictions for it."""

    position: int
    """Index among the text's tokens, from 0."""
    predictions: list[Prediction]
    """The most probable first."""


@dataclass(frozen=True, kw_only=True)
class MaskedText:
    text: str
    masks: list[Mask]


def fill_masks(
    texts: Sequence[str], *, top_k: int, config: EncodeConfig, settings: Settings, warn: Warn
) -> list[MaskedText]:
    """Predict the word at every mask, `[MASK]` or `<mask>`, of each text.

    Raises: DataError: there is no text, or one has no mask, or one beyond `max_len`. ModelError, ConfigError:
        as `load_encoder`; the model has no head for it; the vocabulary has fewer than top_k tokens.
    """
    check_not_empty(texts)
    for text in texts:
        if not _MASK.search(text):
            raise DataError(
                f"The text {quoted(text)} has no mask", hint="Write [MASK] where a word is missing."
            )
    with ExitStack() as resources:
        trained = load_encoder(config, settings=settings, resources=resources)
    tokenizer = trained.tokenizer
    if top_k > tokenizer.vocab_size:
        raise ConfigError(f"--top-k {top_k}: the vocabulary has {tokenizer.vocab_size} tokens")
    model = build_masked_language_model(trained.loaded)
    filled = []
    for text in texts:
        ids = _masked_ids(text, trained, warn=warn)
        places = [place for place, token_id in enumerate(ids) if token_id == tokenizer.mask_id]
        # The weights may have a few rows more than the vocabulary has words.
        best = mask_probabilities(model, ids, masks=places)[:, : tokenizer.vocab_size].topk(top_k)
        rows = zip(places, best.indices.tolist(), best.values.tolist(), strict=True)
        masks = [Mask(position=i, predictions=_named(tokenizer.token_strings(k), p)) for i, k, p in rows]
        filled.append(MaskedText(text=text, masks=masks))
    return filled


def _masked_ids(text: str, trained: TrainedEncoder, *, warn: Warn) -> list[int]:
    """Return the ids of a text, truncated to `max_len`."""
    tokenizer, max_len = trained.tokenizer, trained.text.max_len
    first, *others = [tokenizer.encode(part) for part in _MASK.split(text)]
    ids = [tokenizer.cls_id, *first]
    for other in others:
        ids += [tokenizer.mask_id, *other]
    warn_if_truncated(text, len(ids) + 1, min(len(ids) + 1, max_len), warn=warn)
    if tokenizer.mask_id in ids[max_len - 1 :]:
        raise DataError(
            f"The text {quoted(text)}: a mask is beyond the {max_len} tokens that the model reads",
            hint="Give a shorter text.",
        )
    return [*ids[: max_len - 1], tokenizer.sep_id]


def _named(tokens: Sequence[str], probabilities: Sequence[float]) -> list[Prediction]:
    return [Prediction(token=t, probability=p) for t, p in zip(tokens, probabilities, strict=True)]
