"""The parameters of fine-tuning and of evaluation, and the rules over several of them."""

from typing import Literal

from bertjobs.config.rules import (
    DECAY_RATIO_UNUSED,
    GRAD_EXCHANGE_UNUSED,
    NUM_HEADS_UNUSED,
    TOO_MANY_WORKERS,
    TRAINING_CONFLICTS,
    UNEVEN_GPUS,
    Conflict,
    UnusedValue,
    num_workers,
    starts_from_random_weights,
    vocabulary_unused,
)
from bertjobs.config.sections import (
    Count,
    DocStride,
    JobConfig,
    LoopSection,
    MaxLen,
    NBest,
    OnBadRow,
    OpenRatio,
    OptimSection,
    Precision,
    Probability,
    Section,
    Seed,
    Text,
    TextSection,
    Truncation,
    VocabSize,
)


class TaskSection(Section):
    name: Text = "snli"
    """Task: `snli`, `squad`, `squad_v2`, `swag`, one of GLUE (`cola`, `sst2`, `mrpc`, `qqp`, `stsb`, `mnli`,
    `qnli`, `rte`, `wnli`), or the path of a task file (YAML: type, columns, labels, metric)."""

    n_best: NBest | None = None
    """Most answers in the n-best list of a question, and best starts and ends of a window that are combined
    to answers (SQuAD); default: 20, as in BERT's own code."""
    max_answer_tokens: Count | None = None
    """Longest answer, in wordpieces (SQuAD); default: 30, as in BERT's own code."""
    null_threshold: float | None = None
    """Null odds, in logits, above which a question counts as unanswered (SQuAD v2.0); default: finetune takes
    the one with the best F1 on the development split, as in BERT, section 4.3; evaluate takes the model's
    own, or 0 where there is none."""


class DataSection(Section):
    path: Text | None = None
    """Folder, zip or file of the data; default: what `bertjobs data get` downloaded."""
    on_bad_row: OnBadRow = "error"
    """What to do with a row that cannot be read: stop with its file and line (`error`), or leave it out and
    count it (`skip`)."""
    valid_split: Text | None = None
    """Split to validate on, or several with commas between, of which the first decides; default: the
    development files where there are any, else held-out rows (CoLA's recipe always holds out)."""
    valid_ratio: OpenRatio = 0.1
    """Share of the training rows to hold out for validation where the data has no development file; 0.1 as in
    CoLA's recipe."""
    split_seed: int = 2018
    """Seed that selects the held-out rows; 2018 as in CoLA's recipe."""
    limit_train: Count | None = None
    """Use only the first N rows of the training split, for a quick test; default: all."""
    limit_valid: Count | None = None
    """Use only the first N rows of the development split, for a quick test; default: all."""


class EvalDataSection(Section):
    path: Text | None = None
    """Folder, zip or file of the data; default: what `bertjobs data get` downloaded."""
    split: Text = "dev"
    """Split to evaluate (`dev`, `test`, `train`; CoLA also has `in_domain_dev` and `out_of_domain_dev`, MNLI
    `dev_matched` and `dev_mismatched`), several of these with commas between, or the path
    of one file."""
    on_bad_row: OnBadRow = "error"
    """What to do with a row that cannot be read: stop with its file and line (`error`), or leave it out and
    count it (`skip`)."""
    limit: Count | None = None
    """Evaluate only the first N rows of the split; default: all."""


class EvalTextSection(Section):
    max_len: MaxLen | None = None
    """Longest sequence, in wordpieces; default: the model's own. Only for a model that was not trained by
    bertjobs; for others it must equal the model's own."""
    truncation: Truncation | None = None
    """How a text that is too long is cut; default: the model's own. Only for a model that was not trained by
    bertjobs; for others it must equal the model's own."""
    doc_stride: DocStride | None = None
    """Wordpieces that neighbouring windows of a long context share (SQuAD); default: the model's own, or a
    third of --max-len. It must equal the model's own where that is set."""


class ModelSection(Section):
    source: Text = "tiny"
    """Initial weights: a Hugging Face folder or hub name, a d2l archive, a job id, or a size (`tiny`, `mini`,
    `small`, `medium`, `base`, `large`, `d2l-small`) for random weights."""
    num_heads: Count | None = None
    """Number of attention heads; needed only for a d2l archive that is not registered."""
    vocab: Text | None = None
    """Vocabulary file (`vocab.txt`, `tokenizer.json`, d2l `vocab.json`) for random weights; default: train a
    WordPiece vocabulary on the training split."""
    vocab_size: VocabSize = 8192
    """Size of the vocabulary to train, in wordpieces; 8192 keeps the embeddings of a small model small."""
    hidden_dropout: Probability | None = None
    """Dropout on hidden states; default: the checkpoint's own (0.1 for BERT)."""
    attention_dropout: Probability | None = None
    """Dropout on attention probabilities; default: the checkpoint's own (0.1 for BERT)."""
    classifier_dropout: Probability | None = None
    """Dropout before the classifier; default: that of the hidden states."""


class EvalModelSection(Section):
    source: Text
    """Model to evaluate: a job id, or the folder of a fine-tuned checkpoint."""


class TrainSection(LoopSection):
    epochs: Count = 3
    """Number of passes over the training split; 3 as in BERT's recipe for GLUE."""
    max_steps: Count | None = None
    """Number of optimizer steps, instead of --epochs; warmup and decay follow it."""
    batch_size: Count = 32
    """Examples per optimizer step, over all workers and accumulation; 32 as in BERT, appendix A.3."""
    seed: Seed = 0
    """Seed of new weights, order of the examples and dropout."""
    keep_weights: Literal["best", "last"] = "best"
    """Which weights the model has at the end: those of the `best` evaluation on the development split, or the
    `last`."""
    checkpoint_steps: Count | None = None
    """Write a checkpoint every N optimizer steps, and after each epoch; default: only after each epoch."""
    eval_steps: Count | None = None
    """Evaluate on the development split every N optimizer steps, and after each epoch; default: only after
    each epoch."""
    patience: Count | None = None
    """Stop after this many evaluations in a row without a better development metric; default: never."""


class EvalTrainSection(Section):
    batch_size: Count = 32
    """Examples per batch, over all workers; 32 as in CoLA's published MCC per batch."""
    precision: Precision = "auto"
    """`auto` computes in fp32 on a CPU, and in bf16 on a GPU that has it. In bf16 a result may change in
    the third digit with the rows that share its batch."""


class OriginSection(Section):
    from_trial: Text | None = None
    """Start from the configuration of a search's trial: `JOB` for its best trial, `JOB:N` for trial N."""


class FinetuneConfig(JobConfig):
    task: TaskSection = TaskSection()
    data: DataSection = DataSection()
    text: TextSection = TextSection()
    model: ModelSection = ModelSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()
    origin: OriginSection = OriginSection()


class EvaluateConfig(JobConfig):
    task: TaskSection = TaskSection()
    model: EvalModelSection
    data: EvalDataSection = EvalDataSection()
    text: EvalTextSection = EvalTextSection()
    train: EvalTrainSection = EvalTrainSection()


FINETUNE_CONFLICTS: tuple[Conflict, ...] = TRAINING_CONFLICTS

FINETUNE_UNUSED: tuple[UnusedValue, ...] = (
    DECAY_RATIO_UNUSED,
    GRAD_EXCHANGE_UNUSED,
    UnusedValue(
        path="train.epochs",
        applies=lambda c: c.train.max_steps is not None,
        reason="--max-steps sets the length of training",
    ),
    *vocabulary_unused("model.vocab", "model.vocab_size"),
    UnusedValue(
        path="model.vocab_size",
        applies=lambda c: starts_from_random_weights(c) and c.model.vocab is not None,
        reason="the given vocabulary has its own size",
    ),
    NUM_HEADS_UNUSED,
    *(
        UnusedValue(
            path=path,
            applies=lambda c: c.data.valid_split is not None,
            reason="--valid-split names the split to validate on, so no rows are held out",
        )
        for path in ("data.valid_ratio", "data.split_seed")
    ),
)

EVALUATE_CONFLICTS: tuple[Conflict, ...] = (
    TOO_MANY_WORKERS,
    UNEVEN_GPUS,
    Conflict(
        paths=("resources.workers", "train.batch_size"),
        applies=lambda c: num_workers(c) > c.train.batch_size,
        message=lambda c: f"{num_workers(c)} workers cannot share batches of {c.train.batch_size}",
    ),
)
