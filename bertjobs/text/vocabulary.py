"""Make a vocabulary from a corpus of any size: counted or sampled a span at a time."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from bertjobs.config.pretrain import VocabKind
from bertjobs.text.corpus_pieces import Span
from bertjobs.text.documents import read_span
from bertjobs.text.tokenizers import MAX_TRAINING_TEXTS, Tokenizer, train_wordpiece, train_words

_SAMPLE_BYTES = 256 << 20
"""Of a larger corpus, evenly spaced spans of about this size together are read for wordpieces."""


def make_vocabulary(spans: Sequence[Span], *, kind: VocabKind, size: int, min_count: int) -> Tokenizer:
    """Train `size` wordpieces on a sample of the corpus, or count all its words, as `kind` says.

    Raises: DataError: see `read_span`; or no word occurs `min_count` times.
    """
    if kind == "word":
        return train_words((_sentences(span) for span in spans), min_count=min_count)
    num_bytes = sum(span.num_bytes for span in spans)
    chosen = spans[:: max(1, -(-num_bytes // _SAMPLE_BYTES))]
    return train_wordpiece(pa.chunked_array(list(_thinned(chosen)), pa.string()), vocab_size=size)


def _thinned(spans: Sequence[Span]) -> Iterator[pa.Array]:
    """Yield evenly spaced sentences of each span, together what training uses at most."""
    share = MAX_TRAINING_TEXTS // len(spans)
    for span in spans:
        sentences = _sentences(span)
        step = max(1, -(-len(sentences) // max(share, 1)))
        yield sentences.take(pa.array(range(0, len(sentences), step)))


def _sentences(span: Span) -> pa.Array:
    return pa.array((s for document in read_span(span).documents for s in document), pa.string())
