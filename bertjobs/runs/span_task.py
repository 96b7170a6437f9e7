"""What a Ray Data task does with one span of a corpus. Imports no torch: such a task lives for a moment."""

import json
import pickle
from typing import Any

import pyarrow as pa

from bertjobs.text.corpus_encoding import BlockInfo, encode_span, split_documents
from bertjobs.text.spans import Span
from bertjobs.text.tokenizers import Tokenizer


def encode_row(row: dict[str, Any], *, tokenizer: Tokenizer, ratio: float) -> dict[str, Any]:
    """Encode the pickled `row["span"]`; return for each split its Arrow file, and what is in it as JSON."""
    span: Span = pickle.loads(row["span"])
    parts = split_documents(encode_span(span, tokenizer), ratio=ratio, seed=span.number)
    files = {split: _as_file(part) for split, part in parts.items()}
    return files | {
        f"{split}_info": json.dumps(BlockInfo.of(part).to_json()) for split, part in parts.items()
    }


def _as_file(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()
