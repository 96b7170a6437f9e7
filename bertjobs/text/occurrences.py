"""Where a word stands among the wordpieces of a text."""

from collections.abc import Sequence

from bertjobs.text.tokenizers import Tokenizer

_CONTINUATION = "##"


def find_word(word: str, ids: Sequence[int], tokenizer: Tokenizer) -> list[range]:
    """Return the places of a word, all its pieces together; else those of the token that is called so.

    `crane` is found in `crane`, and not in `crane ##s`, unless nothing else is found; `[CLS]` and `##s` are
    tokens. Unknown words are not found: all of them have the same number.
    """
    pieces = tokenizer.token_strings(ids)
    wanted = tokenizer.encode(word)
    places = _find(wanted, ids) if wanted and tokenizer.unk_id not in wanted else []
    whole = [place for place in places if not _goes_on(pieces, place.stop)]
    return whole or [range(i, i + 1) for i, piece in enumerate(pieces) if piece == word]


def _goes_on(pieces: Sequence[str], end: int) -> bool:
    return end < len(pieces) and pieces[end].startswith(_CONTINUATION)


def _find(wanted: Sequence[int], ids: Sequence[int]) -> list[range]:
    length = len(wanted)
    starts = [i for i in range(len(ids) - length + 1) if list(ids[i : i + length]) == list(wanted)]
    return [range(i, i + length) for i in starts]
