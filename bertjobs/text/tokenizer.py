"""From text to token ids, a whole column at a time: BERT's tokenizers, and d2l's word-level one.

The fast path: a column is split at spaces, every distinct word is tokenized once, and the ids are gathered
back into the texts. It gives exactly the ids of the whole text where no rule of the tokenizer looks across a
space (cleaning, case, accents, punctuation and WordPiece do not); the plain version that the tests compare it
with is the `tokenizers` library on whole texts. Other tokenizers take that slow path.

How vocabularies are found on disk is in `tokenizer_files`, how they are made in `vocabulary`.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer as FastTokenizer

from bertjobs.errors import ModelError
from bertjobs.text import ragged


class Tokenizer(ABC):
    """A vocabulary, and how text is cut into its tokens (BERT's wordpieces, or whole words)."""

    vocab_size: int
    """One more than the largest id: the rows that an embedding needs."""
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    unk_id: int
    fingerprint: str
    """SHA-256 of everything that decides the ids; part of the cache keys of encoded data."""
    is_local_to_spaces: bool
    """Whether no rule looks across a space, so that what is between spaces can be encoded by itself."""

    def encode_column(self, column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of all texts as a ragged array (ids, offsets): untruncated, no special tokens.

        ids: `dtype`. offsets: int64, one more than the texts. A null counts as an empty text.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if not self.is_local_to_spaces:
            return self._flat(self._encode(column.fill_null("").to_pylist()))
        words_of_text = pc.split_pattern(column.fill_null("").cast(pa.large_string()), " ")
        words = words_of_text.flatten().dictionary_encode()  # distinct words, and which of them each word is
        distinct_ids, distinct_offsets = self._flat(self._encode(words.dictionary.to_pylist()))
        ids, word_offsets = ragged.take(distinct_ids, distinct_offsets, words.indices.to_numpy())
        # A text begins where its first word begins. The offsets of a sliced column do not begin at 0.
        first_words = words_of_text.offsets.to_numpy().astype(np.int64)
        return ids, word_offsets[first_words - first_words[0]]

    def encode_with_characters(self, column: pa.Array | pa.ChunkedArray) -> "EncodedTexts":
        """Return the ids of all texts as `encode_column`, and which characters each token stands for."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        column = column.fill_null("")
        if not self.is_local_to_spaces:
            return self._encoded_texts(column.to_pylist())
        words_of_text = pc.split_pattern(column.cast(pa.large_string()), " ")
        words = words_of_text.flatten().dictionary_encode()
        distinct = self._encoded_texts(words.dictionary.to_pylist())
        word_of_W = words.indices.to_numpy()
        ids, word_offsets = ragged.take(distinct.ids, distinct.offsets, word_of_W)
        first_words = words_of_text.offsets.to_numpy().astype(np.int64)
        first_words -= first_words[0]
        # A word begins where those before it in its text end, each with the space after it.
        lengths_W = pc.utf8_length(words.dictionary).to_numpy().astype(np.int64)[word_of_W] + 1
        ends_W = ragged.offsets_of(lengths_W)
        begins_W = ends_W[:-1] - np.repeat(ends_W[first_words[:-1]], np.diff(first_words))
        shift = np.repeat(begins_W, np.diff(word_offsets))
        return EncodedTexts(
            ids=ids,
            offsets=word_offsets[first_words],
            char_starts=(ragged.take(distinct.char_starts, distinct.offsets, word_of_W)[0] + shift).astype(
                np.int32
            ),
            char_ends=(ragged.take(distinct.char_ends, distinct.offsets, word_of_W)[0] + shift).astype(
                np.int32
            ),
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, without special tokens."""
        return list(self._encode([text])[0])

    def find_word(self, word: str, ids: Sequence[int]) -> list[range]:
        """Return where a word is among the tokens of a text, all its tokens together.

        `crane` is found in `crane`; in `crane ##s` only where there is no other. A word that is not found as
        text may name a token, such as `[CLS]` or `##s`. Words that are not in the vocabulary are not found:
        all of them have the same id.
        """
        tokens = self.token_strings(ids)
        wanted = self.encode(word)
        found = _find(wanted, ids) if wanted and self.unk_id not in wanted else []
        whole = [place for place in found if not _is_continuation(tokens[place.stop : place.stop + 1])]
        return whole or [range(i, i + 1) for i, token in enumerate(tokens) if token == word]

    def _encoded_texts(self, texts: list[str]) -> "EncodedTexts":
        found = self._encode_with_characters(texts)
        ids, offsets = self._flat([ids for ids, _ in found])
        spans = np.array([span for _, spans in found for span in spans], dtype=np.int32).reshape(-1, 2)
        return EncodedTexts(ids=ids, offsets=offsets, char_starts=spans[:, 0], char_ends=spans[:, 1])

    def _flat(self, lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.fromiter((len(ids) for ids in lists), dtype=np.int64, count=len(lists))
        offsets = ragged.offsets_of(lengths)
        flat = np.fromiter((i for ids in lists for i in ids), dtype=self.dtype, count=int(offsets[-1]))
        return flat, offsets

    @property
    def special_ids(self) -> np.ndarray:
        """Ids of the special tokens, [UNK] and those that a vocabulary adds included; int64, sorted."""
        named = (self.cls_id, self.sep_id, self.pad_id, self.mask_id, self.unk_id)
        return np.unique(np.array([*named, *self._added_special_ids()], dtype=np.int64))

    @property
    def is_continuation_V(self) -> np.ndarray:
        """Whether a token continues the word of the token before it, for each id; bool.

        Raises: ModelError: the tokens do not tell.
        """
        return np.zeros(self.vocab_size, dtype=bool)

    def _added_special_ids(self) -> Sequence[int]:
        return ()

    @property
    def dtype(self) -> type[np.uint16] | type[np.int32]:
        """The smallest type that holds every id."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.int32

    @abstractmethod
    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens as strings, such as `##s`."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the vocabulary files into an existing folder."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of each text."""

    @abstractmethod
    def _encode_with_characters(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Return the ids of each text, and the characters that each of its tokens stands for."""


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """Texts as ragged arrays: token ids, and where in its text each token begins and ends.

    Characters are code points of the original text, before any cleaning, lower-casing or stripping.
    """

    ids: np.ndarray
    offsets: np.ndarray
    """int64: text i has the tokens `offsets[i]` to `offsets[i + 1]`."""
    char_starts: np.ndarray
    """int32, one for each token."""
    char_ends: np.ndarray
    """int32; the character after the token's last."""


class WordPieceTokenizer(Tokenizer):
    """BERT's WordPiece, or whatever else a `tokenizer.json` describes to the `tokenizers` library."""

    def __init__(self, fast: FastTokenizer, specials: dict[str, str]) -> None:
        """Wrap `fast`; `specials` maps `cls`, `sep`, `pad`, `mask`, `unk` to their tokens."""
        fast.no_truncation()  # the files of sentence models set a maximum length and padding
        fast.no_padding()
        self._fast, self._specials = fast, specials
        self.vocab_size = max(fast.get_vocab(with_added_tokens=True).values()) + 1
        ids: dict[str, int] = {}
        for name, token in specials.items():
            token_id = fast.token_to_id(token)
            if token_id is None:
                raise ModelError(
                    f"The vocabulary lacks its {name} token {token!r}",
                    hint="Give the vocabulary that belongs to the weights (--vocab, --model).",
                )
            ids[name] = token_id
        self.cls_id, self.sep_id, self.pad_id = ids["cls"], ids["sep"], ids["pad"]
        self.mask_id, self.unk_id = ids["mask"], ids["unk"]
        content = json.dumps([json.loads(fast.to_str()), specials], sort_keys=True)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        self.is_local_to_spaces = _is_local_to_spaces(json.loads(fast.to_str()))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [e.ids for e in self._fast.encode_batch_fast(texts, add_special_tokens=False)]

    def _encode_with_characters(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return [(e.ids, e.offsets) for e in self._fast.encode_batch(texts, add_special_tokens=False)]

    @cached_property
    def is_continuation_V(self) -> np.ndarray:
        """Whether a token continues the word of the token before it, for each id; bool.

        Raises: ModelError: not a WordPiece vocabulary.
        """
        model = json.loads(self._fast.to_str())["model"]
        if model["type"] != "WordPiece":
            raise ModelError(
                f"The vocabulary is {model['type']}, whose tokens do not tell where words begin",
                hint="Give a WordPiece vocabulary (--vocab), or leave out --whole-word.",
            )
        prefix = model["continuing_subword_prefix"]
        pieces = self._fast.get_vocab(with_added_tokens=False)
        is_continuation_V = np.zeros(self.vocab_size, dtype=bool)
        is_continuation_V[[i for piece, i in pieces.items() if piece.startswith(prefix)]] = True
        return is_continuation_V

    def _added_special_ids(self) -> Sequence[int]:
        return [i for i, token in self._fast.get_added_tokens_decoder().items() if token.special]

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        return [self._fast.id_to_token(int(i)) or self._specials["unk"] for i in ids]

    def save(self, folder: Path) -> None:
        """Write what `transformers` opens: tokenizer.json, vocab.txt, and the two files of settings."""
        rules = json.loads(self._fast.to_str())
        self._fast.save(str(folder / "tokenizer.json"))
        tokens = {f"{name}_token": token for name, token in self._specials.items()}
        config: dict[str, Any] = {**tokens, "tokenizer_class": "PreTrainedTokenizerFast"}
        if rules["model"]["type"] == "WordPiece":
            self._write_vocab(folder / "vocab.txt")
        if rules["model"]["type"] == "WordPiece" and _type_of(rules["normalizer"]) == "BertNormalizer":
            normalizer = rules["normalizer"]
            config |= {
                "tokenizer_class": "BertTokenizer",
                "do_lower_case": normalizer["lowercase"],
                "strip_accents": normalizer["strip_accents"],
                "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
            }
        _write_json(folder / "tokenizer_config.json", config)
        _write_json(folder / "special_tokens_map.json", tokens)

    def _write_vocab(self, path: Path) -> None:
        place_of = self._fast.get_vocab(with_added_tokens=True)
        tokens = sorted(place_of, key=place_of.__getitem__)
        path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")


_MARK, _OTHER = r"[!-/:-@\[-`{-~“”‘’…–—]", r"[^!-/:-@\[-`{-~“”‘’…–—]"
_PUNCTUATED = re.compile(rf"({_MARK}*)({_OTHER}(?:.*?{_OTHER})?)(n't|'\w+)?({_MARK}*)")
"""A word with punctuation around it, and `n't` or `'s` at its end, which the Penn Treebank splits off too."""


class WordTokenizer(Tokenizer):
    """d2l's word-level vocabulary: lower case, words between white space, each a token or `<unk>`.

    d2l reads SNLI's parse trees, where punctuation is a word of its own; in plain sentences it is attached
    (`park.`, `isn't`). So where a word is not in the vocabulary, its punctuation and `'s` or `n't` are split
    off and looked up separately. All other words are treated as in d2l.

    Source: Dive into Deep Learning, section 9.2, `tokenize`, and section 16.7, `SNLIBERTDataset`.
    """

    is_local_to_spaces = True
    _SPECIALS = ("cls", "sep", "pad", "mask", "unk")

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._id_of = {word: i for i, word in enumerate(self._words)}
        for name in self._SPECIALS:
            if f"<{name}>" not in self._id_of:
                raise ModelError(
                    f"The vocabulary lacks the token '<{name}>'", hint="Give a vocab.json that d2l has saved."
                )
        self.vocab_size = len(self._words)
        self.cls_id, self.sep_id, self.pad_id = (self._id_of[f"<{n}>"] for n in ("cls", "sep", "pad"))
        self.mask_id, self.unk_id = self._id_of["<mask>"], self._id_of["<unk>"]
        self.fingerprint = hashlib.sha256(json.dumps(["d2l", self._words]).encode()).hexdigest()

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [[i for word in text.lower().split() for i in self._numbers(word)] for text in texts]

    def _encode_with_characters(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        return [self._with_characters(text) for text in texts]

    def _with_characters(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        place = 0
        for word in text.split():
            place = text.index(word, place)
            # Lower-casing may lengthen a character: the original one of each character of the lowered word.
            origin = [i for i, character in enumerate(word) for _ in character.lower()]
            end = 0
            for piece in self._pieces(word.lower()):
                begin, end = end, end + len(piece)
                ids.append(self._id_of.get(piece, self.unk_id))
                spans.append((place + origin[begin], place + origin[end - 1] + 1))
            place += len(word)
        return ids, spans

    def _numbers(self, word: str) -> list[int]:
        return [self._id_of.get(piece, self.unk_id) for piece in self._pieces(word)]

    def _pieces(self, word: str) -> list[str]:
        if word in self._id_of:
            return [word]
        found = _PUNCTUATED.fullmatch(word)
        if found is None:
            return [word]
        before, core, clitic, after = found.groups(default="")
        return [*before, core, *([clitic] if clitic else []), *after]

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        return [self._words[int(i)] for i in ids]

    def save(self, folder: Path) -> None:
        """Write d2l's vocab.json."""
        _write_json(folder / "vocab.json", self._words)


def _type_of(rule: dict[str, Any] | None) -> str | None:
    return None if rule is None else str(rule["type"])


def _is_local_to_spaces(rules: dict[str, Any]) -> bool:
    return (
        rules["model"]["type"] == "WordPiece"
        and _type_of(rules["normalizer"]) in (None, "BertNormalizer", "Lowercase")
        and _type_of(rules["pre_tokenizer"]) in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
        and not any(_reaches_beyond_a_chunk(token) for token in rules["added_tokens"])
    )


def _reaches_beyond_a_chunk(added: dict[str, Any]) -> bool:
    """Whether an added token is matched across a space, swallows spaces, or looks at its neighbours."""
    return " " in added["content"] or bool(added["lstrip"] or added["rstrip"] or added["single_word"])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_continuation(next_token: Sequence[str]) -> bool:
    return bool(next_token) and next_token[0].startswith("##")


def _find(wanted: Sequence[int], ids: Sequence[int]) -> list[range]:
    length = len(wanted)
    starts = [i for i in range(len(ids) - length + 1) if list(ids[i : i + length]) == list(wanted)]
    return [range(i, i + length) for i in starts]
