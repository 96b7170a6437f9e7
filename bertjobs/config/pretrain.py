"""Every parameter of pretraining once, as in `schema`.

Rules over the parameters of pretraining.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from bertjobs.config.finetune import (
    Count,
    JobConfig,
    OptimSection,
    Precision,
    Probability,
    Ratio,
    Section,
    Text,
)
from bertjobs.config.presets import size_names
from bertjobs.config.rule import (
    BATCH_SPLIT,
    DECAY_RATIO_IDLE,
    MICROBATCH_TOO_SMALL,
    NUM_HEADS_IDLE,
    WORKERS,
    WSD_TOO_LONG,
    Contradiction,
    Idle,
    vocabulary_idle,
)

Document = Literal["auto", "article", "paragraph", "file", "line", "row"]
Sentences = Literal["auto", "dot", "line", "punctuation"]
Pairs = Literal["nsp", "sop", "none"]
VocabKind = Literal["wordpiece", "word"]
PUBLISHED_CORPORA = ("wikitext-2", "wikitext-103")
"""What `data.corpus` names that is no path."""


class CorpusSection(Section):
    corpus: Text = "wikitext-2"
    """What to read: `wikitext-2`, `wikitext-103`, or a file, folder or glob of text, JSONL or Parquet."""
    path: Text | None = None
    """Folder or zip that holds a published corpus; default: what `bertjobs data get` downloaded."""
    valid: Text | None = None
    """Corpus to validate on, a file, folder or glob; default: the published validation file where there is
    one, else held-out documents."""
    valid_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """Share of the documents held out where there is no validation corpus."""
    column: Text = "text"
    """Field or column that holds the text, in JSONL and Parquet."""
    document: Document = "auto"
    """What one document is: a WikiText `article` or `paragraph` (d2l's), a `file`, a `line`, or a `row` of
    JSONL or Parquet; `auto` takes articles of WikiText, files of text, rows of the others."""
    sentences: Sentences = "auto"
    """Where sentences end: at ` . ` (`dot`, d2l's, for WikiText), at each `line` end, or after `.`, `!` or
    `?` and a space (`punctuation`); `auto` takes `dot` for WikiText, else `punctuation`."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Bytes that are no UTF-8, or a row without text, stop the job with file and line, or are skipped and
    counted."""
    limit_documents: Count | None = None
    """Use only the first documents, for trying things out."""
    block_bytes: Annotated[int, Field(ge=1 << 12)] = 16 << 20
    """Text that is encoded and shuffled as one block, in bytes; bounds the memory of encoding. A larger
    document is cut, and its parts are documents."""
    shuffle_blocks: Count = 16
    """Blocks whose examples are shuffled together; bounds what a worker keeps at hand."""


class PretrainTextSection(Section):
    max_len: Annotated[int, Field(ge=8, le=8192)] = 128
    """Longest sequence in wordpieces, special tokens included."""


class ObjectiveSection(Section):
    pairs: Pairs = "nsp"
    """Second segment: the next or a random one (`nsp`, BERT), the next or swapped (`sop`, ALBERT), or `none`:
    one segment of full length."""
    segments: Literal["filled", "sentence"] = "filled"
    """What a segment of a pair is: as many sentences as fit (`filled`, BERT), or one `sentence` (d2l)."""
    mask_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    """Share of the positions that are predicted."""
    mask_token_ratio: Ratio = 0.8
    """Share of those that become the mask token."""
    random_token_ratio: Ratio = 0.1
    """Share of those that become a random token."""
    keep_token_ratio: Ratio = 0.1
    """Share of those that stay; the three add up to 1."""
    whole_word: bool = False
    """Mask all wordpieces of a word or none."""


class PretrainModelSection(Section):
    source: Text = "tiny"
    """What to train: a size (`tiny`, `mini`, `small`, `medium`, `base`, `large`, `d2l-small`,
    `d2l-small-wikitext`) from random weights, or a job, folder, archive or hub name to go on from."""
    num_heads: Count | None = None
    """Attention heads; only for d2l archives that the registry does not know."""
    vocab: Text | None = None
    """Vocabulary file or folder for random weights; without it one is made from the corpus."""
    vocab_kind: VocabKind = "wordpiece"
    """What to make from the corpus: wordpieces, or d2l's whole words."""
    vocab_size: Annotated[int, Field(ge=64, le=1_000_000)] = 8192
    """Size of a wordpiece vocabulary made from the corpus."""
    vocab_min_count: Count = 5
    """Least occurrences of a word in a word vocabulary; 5 is d2l's."""
    hidden_dropout: Probability | None = None
    """Dropout on hidden states; default: what the configuration says (0.1 for BERT)."""
    attention_dropout: Probability | None = None
    """Dropout on attention probabilities; default: what the configuration says."""


class PretrainOptimSection(OptimSection):
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    """Peak learning rate of AdamW; 1e-4 is BERT's, appendix A.2."""
    warmup_ratio: Ratio = 0.01
    """Share of the budget over which the learning rate rises from 0; BERT's is 1 %."""


class PretrainTrainSection(Section):
    epochs: Count = 1
    """Passes over the corpus, where no other budget is given."""
    max_steps: Count | None = None
    """Budget: optimizer steps, whatever the epochs; warmup and decay follow the budget."""
    max_tokens: Count | None = None
    """Budget: tokens seen, padding not counted."""
    max_time_s: Annotated[float, Field(gt=0.0)] | None = None
    """Budget: seconds of training, over all attempts; validation and checkpoints not counted."""
    batch_size: Count = 256
    """Examples per optimizer step over all workers and accumulation; 256 is BERT's."""
    accumulation: Count = 1
    """Microbatches each worker splits its share of a batch into at least; does not change the result."""
    microbatch_tokens: Annotated[int, Field(ge=64)] = 16384
    """Most tokens, padding included, that go through the model at once on a worker; bounds memory."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest again: less memory, a third
    more work."""
    eval_steps: Count | None = None
    """Validate every so many steps, besides the end."""
    eval_batch_size: Count = 128
    """Examples per validation batch over all workers."""
    eval_examples: Count = 4096
    """Most examples of the validation corpus that are used."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of new weights, order, pairs, masks and dropout."""
    precision: Precision = "auto"
    """`auto` computes matrix products in bf16 where the processor has it, else in fp32."""
    deterministic: bool = False
    """Use only deterministic kernels; slower on CUDA, no difference on a CPU."""
    checkpoint_steps: Count | None = None
    """Checkpoint every so many steps, besides each validation and the end."""


class PretrainConfig(JobConfig):
    data: CorpusSection = CorpusSection()
    text: PretrainTextSection = PretrainTextSection()
    objective: ObjectiveSection = ObjectiveSection()
    model: PretrainModelSection = PretrainModelSection()
    optim: PretrainOptimSection = PretrainOptimSection()
    train: PretrainTrainSection = PretrainTrainSection()


_BUDGETS = ("train.max_steps", "train.max_tokens", "train.max_time_s")


def _budgets(c: Any) -> list[str]:
    values = (c.train.max_steps, c.train.max_tokens, c.train.max_time_s)
    return [path for path, value in zip(_BUDGETS, values, strict=True) if value is not None]


def _action_ratios(c: Any) -> float:
    o = c.objective
    return float(o.mask_token_ratio + o.random_token_ratio + o.keep_token_ratio)


PRETRAIN_CONTRADICTIONS: tuple[Contradiction, ...] = (
    WORKERS,
    BATCH_SPLIT,
    WSD_TOO_LONG,
    MICROBATCH_TOO_SMALL,
    Contradiction(
        paths=("objective.mask_token_ratio", "objective.random_token_ratio", "objective.keep_token_ratio"),
        holds=lambda c: not math.isclose(_action_ratios(c), 1.0, abs_tol=1e-9),
        says=lambda c: (
            "the shares of predicted positions that are masked, replaced and kept must add up to 1, but add "
            f"up to {_action_ratios(c):g}"
        ),
    ),
    Contradiction(
        paths=_BUDGETS,
        holds=lambda c: len(_budgets(c)) > 1,
        says=lambda c: "a run has one budget: steps, tokens, time or epochs",
    ),
)

PRETRAIN_IDLE: tuple[Idle, ...] = (
    DECAY_RATIO_IDLE,
    Idle(
        path="train.epochs",
        holds=lambda c: bool(_budgets(c)),
        because="another budget says how long it takes",
    ),
    *vocabulary_idle("model.vocab", "model.vocab_kind", "model.vocab_size", "model.vocab_min_count"),
    *(
        Idle(
            path=path,
            holds=lambda c: c.model.source in size_names() and c.model.vocab is not None,
            because="a vocabulary was given, so none is made from the corpus",
        )
        for path in ("model.vocab_kind", "model.vocab_size", "model.vocab_min_count")
    ),
    Idle(
        path="model.vocab_size",
        holds=lambda c: c.model.source in size_names() and c.model.vocab_kind == "word",
        because="a word vocabulary takes every word that occurs --vocab-min-count times",
    ),
    Idle(
        path="model.vocab_min_count",
        holds=lambda c: c.model.source in size_names() and c.model.vocab_kind == "wordpiece",
        because="only a word vocabulary reads it; --vocab-size sizes wordpieces",
    ),
    NUM_HEADS_IDLE,
    Idle(
        path="data.path",
        holds=lambda c: c.data.corpus not in PUBLISHED_CORPORA,
        because="only a published corpus is looked for in a folder; --corpus names files by their path",
    ),
    Idle(
        path="data.valid_ratio",
        holds=lambda c: c.data.valid is not None,
        because="a validation corpus was given, so nothing is held out",
    ),
    Idle(
        path="objective.segments",
        holds=lambda c: c.objective.pairs == "none",
        because="without pairs there is one segment of full length",
    ),
)
