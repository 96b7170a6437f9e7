"""Every parameter of representing texts once, as in `schema`.

Values of an encode job that contradict each other, or that nothing reads.
"""

from typing import Annotated, Literal

from pydantic import Field

from bertjobs.config.finetune import Count, JobConfig, Precision, Section, Text, Truncation
from bertjobs.config.rule import WORKERS, Contradiction, Idle

Pooling = Literal["cls", "mean"]


class LinesSection(Section):
    path: Text
    """File, folder or glob of text (one text per line), JSONL or Parquet."""
    column: Text = "text"
    """Field or column that holds the text, in JSONL and Parquet."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A line that cannot be read stops the job with its file and line, or is skipped and counted."""
    limit: Count | None = None
    """Encode only the first lines, for trying things out."""


class EncodeTextSection(Section):
    max_len: Annotated[int, Field(ge=8, le=8192)] | None = None
    """Longest sequence in wordpieces; default: what the model was trained with, or all its positions."""
    truncation: Truncation = "longest_first"
    """How a too long pair is cut."""
    pair_separator: Text | None = None
    """Text between the two texts of a line; default: each line is one text."""


class EncodeModelSection(Section):
    source: Text
    """What represents: a job id, a hub name, a folder, or a d2l archive."""
    num_heads: Count | None = None
    """Attention heads; only for d2l archives that the registry does not know."""
    pooling: Pooling = "cls"
    """Vector of a text: that of its first token, or the mean over its tokens."""


class EncodeTrainSection(Section):
    batch_size: Count = 256
    """Texts per batch of a worker."""
    precision: Precision = "auto"
    """`auto` computes matrix products in bf16 where the processor has it, else in fp32."""


class EncodeConfig(JobConfig):
    model: EncodeModelSection
    data: LinesSection
    text: EncodeTextSection = EncodeTextSection()
    train: EncodeTrainSection = EncodeTrainSection()


ENCODE_CONTRADICTIONS: tuple[Contradiction, ...] = (
    WORKERS,
    Contradiction(
        paths=("resources.workers", "resources.gpus"),
        holds=lambda c: c.resources.gpus > (c.resources.workers or c.resources.gpus),
        says=lambda c: (
            f"a worker uses one GPU, so {c.resources.workers} worker(s) would leave some of "
            f"{c.resources.gpus} idle"
        ),
    ),
)

_FOR_PAIRS = ("only_first", "only_second", "ratio")

ENCODE_IDLE: tuple[Idle, ...] = (
    Idle(
        path="data.column",
        holds=lambda c: c.data.path.endswith((".txt", ".text", ".tokens")),
        because="a line of plain text has no columns",
    ),
    Idle(
        path="text.truncation",
        holds=lambda c: (
            c.text.pair_separator is None and c.text.truncation not in ("longest_first", "head_tail")
        ),
        because="it tells the two texts of a pair apart, and without --pair-separator there are none",
    ),
)
