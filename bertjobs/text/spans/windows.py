"""Cut long contexts into overlapping windows, and place answers in them: arithmetic on lengths.

A window is what goes through the model: [CLS] question [SEP] part of the context [SEP]. The question is
never cut. Windows depend on max_len and on the overlap (`stride`), so they are made from the encoded table
each time, and the cache does not depend on either.

The plain version that the tests compare windows with is the `tokenizers` library: truncation `only_second`
with a stride, and the tokens that overflow.

Shape suffixes: E: examples (questions). W: windows. T: context tokens of all windows, one after another.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from bertjobs.errors import DataError
from bertjobs.text import ragged
from bertjobs.text.encoding import EncodedTable, list_array, one_array
from bertjobs.text.ragged import Int64s
from bertjobs.text.tokenizer import Tokenizer

NUM_SPECIAL_TOKENS = 3  # [CLS], and [SEP] twice


def encode_questions(table: pa.Table, tokenizer: Tokenizer) -> pa.Table:
    """Encode a table of questions (`question_table.SCHEMA`), each distinct context once, uncut.

    Columns: `a`, `b` ids of question and context; `b_starts`, `b_ends` int32, the characters of each token
    of the context; `first`, `last` int32, the answer's tokens in the context, -1 where there is none;
    `context`, `answers`, `label` and `index` as given.
    """
    question_ids, question_offsets = tokenizer.encode_column(table["text_a"])
    contexts = one_array(table["text_b"]).dictionary_encode()
    encoded = tokenizer.encode_with_characters(contexts.dictionary)
    rows = contexts.indices.to_numpy()
    columns = {"a": list_array(question_ids, question_offsets)}
    for name, values in (
        ("b", encoded.ids),
        ("b_starts", encoded.char_starts),
        ("b_ends", encoded.char_ends),
    ):
        columns[name] = list_array(*ragged.take(values, encoded.offsets, rows))
    # Training uses the first answer of a question, as the published code does.
    answers, answer_starts = table["answers"].to_pylist(), table["answer_starts"].to_pylist()
    spans = np.full((table.num_rows, 2), -1, dtype=np.int32)
    for i, (texts, starts) in enumerate(zip(answers, answer_starts, strict=True)):
        if texts:
            begin, end = encoded.offsets[rows[i]], encoded.offsets[rows[i] + 1]
            spans[i] = tokens_of_characters(
                encoded.char_starts[begin:end],
                encoded.char_ends[begin:end],
                start=starts[0],
                end=starts[0] + len(texts[0]),
            )
    columns |= {"first": pa.array(spans[:, 0]), "last": pa.array(spans[:, 1])}
    columns |= {name: one_array(table[name]) for name in ("label", "index", "answers")}
    return pa.table(columns | {"context": one_array(table["text_b"])})


def tokens_of_characters(
    char_starts: np.ndarray, char_ends: np.ndarray, *, start: int, end: int
) -> tuple[int, int]:
    """Return the first and the last token that share a character with `start` to `end`; -1 if none does.

    A token counts whole, where the characters begin or end inside it.
    """
    first = int(np.searchsorted(char_ends, start, side="right"))
    last = int(np.searchsorted(char_starts, end, side="left")) - 1
    return (first, last) if first <= last else (-1, -1)


@dataclass(frozen=True, kw_only=True)
class WindowTable(EncodedTable):
    """The windows of all examples, in their order: what a batch is made of, with what it was cut from.

    A row is a window: the question, and its part of the context. `indices` are the examples' numbers.
    """

    examples: EncodedTable
    """What the windows were cut from: the table of `encode_questions`, one row for each question."""
    example_W: Int64s
    """The row of `examples` that a window belongs to, ascending."""
    begin_W: Int64s
    """The first token of the context that is in the window."""
    length_W: Int64s
    """How many of them there are."""
    start_W: Int64s
    """Index in the window's sequence of the answer's first token; 0, the [CLS], where the answer is not in
    the window."""
    end_W: Int64s
    """The same for its last token."""

    @property
    def offsets_W(self) -> Int64s:
        """Where the context tokens of each window begin among those of all windows (W + 1)."""
        assert self.b_offsets is not None, "a window has a context"
        return self.b_offsets

    @property
    def context_at_W(self) -> Int64s:
        """Index in the window's sequence of its first token of the context."""
        return self.lengths_a + NUM_SPECIAL_TOKENS - 1

    @cached_property
    def char_starts_T(self) -> np.ndarray:
        """Where each context token of each window begins in the context, in characters: int32."""
        return self._characters("b_starts")

    @cached_property
    def answer_starts_T(self) -> np.ndarray:
        """The first character of each token that may begin an answer; -1 of one that may not: int32."""
        return np.where(self.is_max_context_T, self.char_starts_T, -1)

    @cached_property
    def char_ends_T(self) -> np.ndarray:
        """The character after its last one: int32."""
        return self._characters("b_ends")

    def _characters(self, name: str) -> np.ndarray:
        lists = self.examples.more[name]
        begins_W = lists.offsets.to_numpy().astype(np.int64)[self.example_W] + self.begin_W
        values: np.ndarray = lists.values.to_numpy()[ragged.flat_indices(begins_W, self.length_W)]
        return values

    @cached_property
    def is_max_context_T(self) -> np.ndarray:
        """Return, for each context token of each window, whether this window has most context around it.

        A token in several windows may begin an answer only in the one where the lesser of its left and right
        context is longest; of equal ones, in the first. bool.

        Source: Devlin et al. 2019 (BERT), `_check_is_max_context` of the published `run_squad.py`.
        """
        window_T = np.repeat(np.arange(self.num_rows), self.length_W)
        left_T = ragged.positions_in_lists(self.length_W)
        length_T = self.length_W[window_T]
        score_T = np.minimum(left_T, length_T - 1 - left_T) + 0.01 * length_T
        # The same token of the same context has the same key in every window.
        longest = int((self.begin_W + self.length_W).max(initial=0))
        key_T = self.example_W[window_T] * longest + self.begin_W[window_T] + left_T
        _, key_T = np.unique(key_T, return_inverse=True)
        best = np.full(len(key_T), -1.0)
        np.maximum.at(best, key_T, score_T)
        winner = np.full(len(key_T), self.num_rows)
        is_best_T = score_T == best[key_T]
        np.minimum.at(winner, key_T[is_best_T], window_T[is_best_T])
        is_winner_T: np.ndarray = winner[key_T] == window_T
        return is_winner_T


def cut_windows(examples: EncodedTable, *, max_len: int, stride: int) -> WindowTable:
    """Cut the contexts into windows of at most max_len tokens; neighbours share `stride` context tokens.

    examples: the encoded table of `encode_questions`.

    Raises: DataError: a question leaves no room for more context than the overlap.
    """
    assert examples.b_ids is not None, "a question has a context"
    assert examples.b_offsets is not None, "a question has a context"
    room_E = max_len - NUM_SPECIAL_TOKENS - examples.lengths_a
    if (room_E <= stride).any():
        worst = int(room_E.argmin())
        raise DataError(
            f"The question in row {int(examples.indices[worst]) + 1} has {int(examples.lengths_a[worst])} "
            f"wordpieces: with --max-len {max_len} that leaves {int(room_E[worst])} for its context, "
            f"which is not more than the overlap of --doc-stride {stride}",
            hint="Give a larger --max-len or a smaller --doc-stride, or shorten the question.",
        )
    offsets = examples.b_offsets.astype(np.int64)
    lengths_E = np.diff(offsets)
    step_E = room_E - stride
    num_windows_E = 1 + np.maximum(0, -(-(lengths_E - room_E) // step_E))
    example_W = np.repeat(np.arange(examples.num_rows), num_windows_E)
    begin_W = ragged.positions_in_lists(num_windows_E) * step_E[example_W]
    length_W = np.minimum(room_E[example_W], lengths_E[example_W] - begin_W)
    # Only a window that holds the whole answer has it.
    first_E, last_E = (examples.more[name].to_numpy() for name in ("first", "last"))
    first_W, last_W = first_E[example_W] - begin_W, last_E[example_W] - begin_W
    is_inside_W = (first_E[example_W] >= 0) & (first_W >= 0) & (last_W < length_W)
    context_at_W = examples.lengths_a[example_W] + NUM_SPECIAL_TOKENS - 1
    a_ids, a_offsets = ragged.take(examples.a_ids, examples.a_offsets, example_W)
    return WindowTable(
        a_ids=a_ids,
        a_offsets=a_offsets,
        b_ids=examples.b_ids[ragged.flat_indices(offsets[example_W] + begin_W, length_W)],
        b_offsets=ragged.offsets_of(length_W),
        labels=examples.labels[example_W],
        indices=examples.indices[example_W],
        examples=examples,
        example_W=example_W,
        begin_W=begin_W,
        length_W=length_W,
        start_W=np.where(is_inside_W, first_W + context_at_W, 0),
        end_W=np.where(is_inside_W, last_W + context_at_W, 0),
    )
