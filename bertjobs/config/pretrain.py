"""The parameters of pretraining, and the rules over several of them."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from bertjobs.config.rules import (
    DECAY_RATIO_UNUSED,
    GRAD_EXCHANGE_UNUSED,
    NUM_HEADS_UNUSED,
    TRAINING_CONFLICTS,
    Conflict,
    UnusedValue,
    is_plain_text,
    starts_from_random_weights,
    vocabulary_unused,
)
from bertjobs.config.sections import (
    Count,
    JobConfig,
    LoopSection,
    MaxLen,
    OnBadRow,
    OpenRatio,
    OptimSection,
    Probability,
    Ratio,
    Section,
    Seed,
    Text,
    VocabSize,
)

Document = Literal["auto", "article", "paragraph", "file", "line", "row"]
Sentences = Literal["auto", "dot", "line", "punctuation"]
Pairs = Literal["nsp", "sop", "none"]
VocabKind = Literal["wordpiece", "word"]
PUBLISHED_CORPORA = ("wikitext-2", "wikitext-103")
"""Names that `data.corpus` takes besides paths; all come with a validation file."""


class CorpusSection(Section):
    corpus: Text = "wikitext-2"
    """Corpus: `wikitext-2`, `wikitext-103`, or a file, folder or glob of text, JSONL or Parquet."""
    path: Text | None = None
    """Folder or zip of a published corpus; default: what `bertjobs data get` downloaded."""
    valid: Text | None = None
    """Validation corpus, a file, folder or glob; default: the published validation file where there is one,
    else held-out documents."""
    valid_ratio: OpenRatio = 0.02
    """Share of the documents to hold out for validation where there is no validation corpus; 0.02 keeps most
    text for training."""
    column: Text = "text"
    """Field or column of the text, in JSONL and Parquet."""
    document: Document = "auto"
    """Unit of text that is one document: a WikiText `article` or `paragraph` (as in d2l), a `file`, a `line`,
    or a `row` of JSONL or Parquet; `auto` takes articles of WikiText, files of text, rows of JSONL and
    Parquet."""
    sentences: Sentences = "auto"
    """How documents are split into sentences: at ` . ` (`dot`, d2l's, for WikiText), at each `line` end, or
    after `.`, `!` or `?` and a space (`punctuation`); `auto` takes `dot` for WikiText, else `punctuation`."""
    on_bad_row: OnBadRow = "error"
    """What to do with bytes that are not UTF-8, or a row without text: stop with file and line (`error`), or
    leave them out and count them (`skip`)."""
    limit_documents: Count | None = None
    """Use only the first N documents, for a quick test; default: all."""
    block_bytes: Annotated[int, Field(ge=1 << 12)] = 16 << 20
    """Size of a block, the unit in which text is encoded and shuffled, in bytes; bounds the memory of
    encoding. A larger document is split, and each part counts as a document."""
    shuffle_blocks: Count = 16
    """Number of blocks whose examples are shuffled together; bounds the memory of a worker."""


class PretrainTextSection(Section):
    max_len: MaxLen = 128
    """Longest sequence, in wordpieces, special tokens included; 128 as in the first 90 % of BERT's steps."""


class ObjectiveSection(Section):
    pairs: Pairs = "nsp"
    """Second segment: the next or a random one (`nsp`, BERT), the next or swapped (`sop`, ALBERT), or `none`:
    one segment of full length."""
    segments: Literal["filled", "sentence"] = "filled"
    """Length of a segment of a pair: as many sentences as fit (`filled`, BERT), or one `sentence` (d2l)."""
    mask_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 0.15
    """Share of the positions to predict; 0.15 as in BERT."""
    mask_token_ratio: Ratio = 0.8
    """Share of the predicted positions that become the mask token; 0.8 as in BERT."""
    random_token_ratio: Ratio = 0.1
    """Share of the predicted positions that become a random token; 0.1 as in BERT."""
    keep_token_ratio: Ratio = 0.1
    """Share of the predicted positions that stay unchanged; 0.1 as in BERT. The three shares add up to 1."""
    whole_word: bool = False
    """Mask either all wordpieces of a word or none; off as in the first BERT."""


class PretrainModelSection(Section):
    source: Text = "tiny"
    """What to train: a size (`tiny`, `mini`, `small`, `medium`, `base`, `large`, `d2l-small`,
    `d2l-small-wikitext`) with random weights; or a job, folder, archive or hub name to continue from."""
    num_heads: Count | None = None
    """Number of attention heads; needed only for a d2l archive that is not registered."""
    vocab: Text | None = None
    """Vocabulary file or folder for random weights; default: make one from the corpus."""
    vocab_kind: VocabKind = "wordpiece"
    """Vocabulary to make from the corpus: wordpieces, or whole words as in d2l."""
    vocab_size: VocabSize = 8192
    """Size of a wordpiece vocabulary made from the corpus; 8192 keeps small models small."""
    vocab_min_count: Count = 5
    """Least number of occurrences of a word in a vocabulary of whole words; 5 as in d2l."""
    hidden_dropout: Probability | None = None
    """Dropout on hidden states; default: the model configuration's own (0.1 for BERT)."""
    attention_dropout: Probability | None = None
    """Dropout on attention probabilities; default: the model configuration's own (0.1 for BERT)."""


class PretrainOptimSection(OptimSection):
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    """Peak learning rate of AdamW; 1e-4 as in BERT, appendix A.2."""
    warmup_ratio: Ratio = 0.01
    """Share of the budget in which the learning rate rises from 0 to its peak; 0.01 as in BERT."""


class PretrainTrainSection(LoopSection):
    epochs: Count = 1
    """Budget: passes over the corpus; used where no other budget is given."""
    max_steps: Count | None = None
    """Budget: optimizer steps, instead of --epochs; warmup and decay follow the budget."""
    max_tokens: Count | None = None
    """Budget: tokens, padding not counted."""
    max_time_s: Annotated[float, Field(gt=0.0)] | None = None
    """Budget: seconds of training over all attempts, without validation and checkpoints."""
    batch_size: Count = 256
    """Examples per optimizer step, over all workers and accumulation; 256 as in BERT."""
    eval_steps: Count | None = None
    """Validate every N optimizer steps, and at the end; default: only at the end."""
    eval_examples: Count = 4096
    """Most examples of the validation corpus to use; 4096 keeps validation short."""
    seed: Seed = 0
    """Seed of new weights, order of the examples, pairs, masks and dropout."""
    checkpoint_steps: Count | None = None
    """Write a checkpoint every N optimizer steps, with each validation and at the end; default: only with
    each validation and at the end."""


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


def _sum_of_token_ratios(c: Any) -> float:
    o = c.objective
    return float(o.mask_token_ratio + o.random_token_ratio + o.keep_token_ratio)


PRETRAIN_CONFLICTS: tuple[Conflict, ...] = (
    *TRAINING_CONFLICTS,
    Conflict(
        paths=("objective.mask_token_ratio", "objective.random_token_ratio", "objective.keep_token_ratio"),
        applies=lambda c: not math.isclose(_sum_of_token_ratios(c), 1.0, abs_tol=1e-9),
        message=lambda c: (
            "the shares of predicted positions that are masked, replaced and kept must add up to 1, but add "
            f"up to {_sum_of_token_ratios(c):g}"
        ),
    ),
    Conflict(
        paths=_BUDGETS,
        applies=lambda c: len(_budgets(c)) > 1,
        message=lambda c: "a run has one budget: steps, tokens, time or epochs",
    ),
)

PRETRAIN_UNUSED: tuple[UnusedValue, ...] = (
    DECAY_RATIO_UNUSED,
    GRAD_EXCHANGE_UNUSED,
    UnusedValue(
        path="train.epochs",
        applies=lambda c: bool(_budgets(c)),
        reason="another budget sets the length of training",
    ),
    *vocabulary_unused("model.vocab", "model.vocab_kind", "model.vocab_size", "model.vocab_min_count"),
    *(
        UnusedValue(
            path=path,
            applies=lambda c: starts_from_random_weights(c) and c.model.vocab is not None,
            reason="--vocab gives the vocabulary, so none is made from the corpus",
        )
        for path in ("model.vocab_kind", "model.vocab_size", "model.vocab_min_count")
    ),
    UnusedValue(
        path="model.vocab_size",
        applies=lambda c: starts_from_random_weights(c) and c.model.vocab_kind == "word",
        reason="a vocabulary of whole words takes every word that occurs --vocab-min-count times",
    ),
    UnusedValue(
        path="model.vocab_min_count",
        applies=lambda c: starts_from_random_weights(c) and c.model.vocab_kind == "wordpiece",
        reason="only a vocabulary of whole words uses it; --vocab-size sizes wordpieces",
    ),
    NUM_HEADS_UNUSED,
    UnusedValue(
        path="data.path",
        applies=lambda c: c.data.corpus not in PUBLISHED_CORPORA,
        reason="only a published corpus is looked for in a folder; --corpus names other files by their path",
    ),
    UnusedValue(
        path="data.valid_ratio",
        applies=lambda c: c.data.valid is not None,
        reason="--valid gives the validation corpus, so no documents are held out",
    ),
    UnusedValue(
        path="data.valid_ratio",
        applies=lambda c: c.data.valid is None and c.data.corpus in PUBLISHED_CORPORA,
        reason="a published corpus has a validation file, so no documents are held out",
    ),
    UnusedValue(
        path="data.column",
        applies=lambda c: not _may_have_columns(c),
        reason="plain text has no columns",
    ),
    UnusedValue(
        path="objective.segments",
        applies=lambda c: c.objective.pairs == "none",
        reason="without pairs there is one segment of full length",
    ),
)


def _may_have_columns(c: Any) -> bool:
    corpora = [c.data.corpus] if c.data.valid is None else [c.data.corpus, c.data.valid]
    return any(corpus not in PUBLISHED_CORPORA and not is_plain_text(corpus) for corpus in corpora)
