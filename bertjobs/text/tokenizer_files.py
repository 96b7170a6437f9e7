"""Open the vocabulary files that a checkpoint comes with: `tokenizer.json`, `vocab.txt`, d2l's `vocab.json`.

`vocabulary` makes one where there is none.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from bertjobs.errors import ModelError
from bertjobs.text.tokenizer import Tokenizer, WordPieceTokenizer, WordTokenizer

BERT_SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
"""In the order in which BERT numbers them from 0."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Open a checkpoint's folder, or one file: `tokenizer.json`, `vocab.txt`, d2l's `vocab.json`.

    Raises: ModelError: there is none, it is damaged, or it lacks a special token.
    """
    file = _find(path)
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ModelError(f"{file} cannot be read: {e}", hint="Give a vocabulary file (--vocab).") from e
    if file.suffix != ".json":
        return _from_vocab_txt(file, content)
    parsed = _parse_json(file, content)
    if isinstance(parsed, list) and all(isinstance(word, str) for word in parsed):
        return WordTokenizer(parsed)
    if isinstance(parsed, dict) and "model" in parsed:
        return WordPieceTokenizer(_from_json(file, content), _specials(file.parent))
    raise ModelError(
        f"{file} is neither a tokenizer.json nor a d2l vocab.json (a list of words)",
        hint="Give vocab.txt, tokenizer.json or d2l's vocab.json (--vocab).",
    )


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    for name in ("tokenizer.json", "vocab.txt", "vocab.json"):
        if (path / name).is_file():
            return path / name
    raise ModelError(
        f"{path} has no vocabulary (tokenizer.json, vocab.txt, or d2l's vocab.json)",
        hint="Give the folder of a complete checkpoint (--model), or a vocabulary file (--vocab).",
    )


def _from_vocab_txt(file: Path, content: str) -> WordPieceTokenizer:
    pieces = content.removesuffix("\n").split("\n")
    pieces = [piece.removesuffix("\r") for piece in pieces]
    place_of = {piece: i for i, piece in enumerate(pieces)}
    if len(pieces) < 6 or "\0" in content:
        raise ModelError(
            f"{file} is not a vocabulary: it has {len(pieces)} lines",
            hint="Give a file with one wordpiece per line (--vocab).",
        )
    specials = _specials(file.parent)
    settings = _settings(file.parent)
    lowercase = {"do_lower_case": not _is_cased(pieces), **settings}["do_lower_case"]
    if specials["unk"] not in place_of:
        raise ModelError(
            f"{file} lacks the unk token {specials['unk']!r}, so it is not a WordPiece vocabulary",
            hint="Give a vocab.txt as BERT checkpoints have it, one wordpiece per line (--vocab).",
        )
    return WordPieceTokenizer(
        bert_tokenizer(place_of, lowercase=bool(lowercase), specials=specials), specials
    )


def _is_cased(pieces: list[str]) -> bool:
    """Return whether any word has a capital letter; in an uncased vocabulary only `[CLS]` and the like do."""
    return any(piece.isascii() and piece.isalpha() and piece != piece.lower() for piece in pieces)


def bert_tokenizer(
    place_of: dict[str, int], *, lowercase: bool, specials: dict[str, str] = BERT_SPECIALS
) -> FastTokenizer:
    """Return BERT's normalizer, pre-tokenizer, model and template over a vocabulary."""
    fast = FastTokenizer(WordPiece(place_of, unk_token=specials["unk"]))
    fast.normalizer = BertNormalizer(lowercase=lowercase)
    fast.pre_tokenizer = BertPreTokenizer()
    if place_of:
        fast.add_special_tokens([token for token in specials.values() if token in place_of])
        cls, sep = specials["cls"], specials["sep"]
        if cls in place_of and sep in place_of:
            fast.post_processor = TemplateProcessing(
                single=f"{cls} $A {sep}",
                pair=f"{cls} $A {sep} $B:1 {sep}:1",
                special_tokens=[(cls, place_of[cls]), (sep, place_of[sep])],
            )
    return fast


def _from_json(file: Path, content: str) -> FastTokenizer:
    try:
        return FastTokenizer.from_str(content)
    except Exception as e:  # the library raises bare Exception for a file it does not understand
        raise ModelError(
            f"{file} is not a tokenizer that the `tokenizers` library can read: {e}",
            hint="Give a complete tokenizer.json.",
        ) from e


def _specials(folder: Path) -> dict[str, str]:
    """Return the special tokens that `tokenizer_config.json` names; BERT's for those it does not name."""
    settings = _settings(folder)
    named = {}
    for name, default in BERT_SPECIALS.items():
        key = f"{name}_token"
        given = {key: default, **settings}[key]
        named[name] = str(given["content"] if isinstance(given, dict) else given)
    return named


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    if not file.is_file():
        return {}
    parsed = _parse_json(file, file.read_text(encoding="utf-8"))
    return {k: v for k, v in parsed.items() if v is not None} if isinstance(parsed, dict) else {}


def _parse_json(file: Path, content: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as e:
        raise ModelError(f"{file} is damaged: {e}", hint="Fetch the checkpoint again.") from e
