"""The parameters of encoding texts into vectors, and the rules over several of them."""

from typing import Literal

from bertjobs.config.rules import TOO_MANY_WORKERS, Conflict, UnusedValue, is_plain_text
from bertjobs.config.sections import (
    PAIR_TRUNCATIONS,
    Count,
    JobConfig,
    MaxLen,
    OnBadRow,
    Precision,
    Section,
    Text,
    Truncation,
)

Pooling = Literal["cls", "mean"]


class LinesSection(Section):
    path: Text
    """File, folder or glob of text (one text per line), JSONL or Parquet."""
    column: Text = "text"
    """Field or column of the text, in JSONL and Parquet."""
    on_bad_row: OnBadRow = "error"
    """What to do with a line that cannot be read: stop with its file and line (`error`), or leave it out and
    count it (`skip`)."""
    limit: Count | None = None
    """Encode only the first N lines, for a quick test; default: all."""


class EncodeTextSection(Section):
    max_len: MaxLen | None = None
    """Longest sequence, in wordpieces, special tokens included; default: that of the model's training, or all
    its positions."""
    truncation: Truncation = "longest_first"
    """How a text that is too long is cut; `longest_first` as in training."""
    pair_separator: Text | None = None
    """String between the two texts of a line; default: each line is one text."""


class EncodeModelSection(Section):
    source: Text
    """Model that encodes: a job id, a hub name, a folder, or a d2l archive."""
    num_heads: Count | None = None
    """Number of attention heads; needed only for a d2l archive that is not registered."""
    pooling: Pooling = "cls"
    """Vector of a text: that of its first token (`cls`, as in BERT), or the `mean` over its tokens."""


class EncodeTrainSection(Section):
    batch_size: Count = 256
    """Texts per batch of a worker; does not change the result in fp32."""
    precision: Precision = "auto"
    """`auto` computes in fp32 on a CPU, and in bf16 on a GPU that has it. In bf16 a result may change in
    the third digit with the rows that share its batch."""


class EncodeConfig(JobConfig):
    model: EncodeModelSection
    data: LinesSection
    text: EncodeTextSection = EncodeTextSection()
    train: EncodeTrainSection = EncodeTrainSection()


ENCODE_CONFLICTS: tuple[Conflict, ...] = (
    TOO_MANY_WORKERS,
    Conflict(
        paths=("resources.workers", "resources.gpus"),
        applies=lambda c: c.resources.gpus > (c.resources.workers or c.resources.gpus),
        message=lambda c: (
            f"a worker uses one GPU, so {c.resources.workers} worker(s) would leave some of "
            f"{c.resources.gpus} idle"
        ),
    ),
)

ENCODE_UNUSED: tuple[UnusedValue, ...] = (
    UnusedValue(
        path="data.column",
        applies=lambda c: is_plain_text(c.data.path),
        reason="plain text has no columns",
    ),
    UnusedValue(
        path="text.truncation",
        applies=lambda c: c.text.pair_separator is None and c.text.truncation in PAIR_TRUNCATIONS,
        reason="it cuts the two texts of a pair differently, and without --pair-separator there are no pairs",
    ),
)
