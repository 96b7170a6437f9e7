"""Every parameter of fine-tuning and evaluation once: name, type, unit, bounds, default and why; and what all
kinds share. Nothing here does anything."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Truncation = Literal["longest_first", "only_first", "only_second", "ratio", "head_tail"]
Schedule = Literal["linear", "cosine", "constant", "wsd"]
Precision = Literal["auto", "fp32", "bf16"]

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


class TaskSection(Section):
    name: Text = "snli"
    """What to learn: `snli`, `cola`, or the path of a task file (YAML: columns, labels, metric)."""


class DataSection(Section):
    path: Text | None = None
    """Folder, zip or file that holds the data; default: what `bertjobs data get` downloaded."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be read stops the job with its file and line, or is skipped and counted."""
    valid_split: Text | None = None
    """Split to validate on; default: the development file where there is one, else held-out rows (CoLA's
    recipe always holds out)."""
    valid_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the training rows held out where the data has no development file."""
    split_seed: int = 2018
    """Seed of that held-out split; 2018 is the CoLA recipe's."""
    limit_train: Count | None = None
    """Use only the first rows of the training split, in rows; for trying things out."""
    limit_valid: Count | None = None
    """Use only the first rows of the development split, in rows."""


class EvalDataSection(Section):
    path: Text | None = None
    """Folder, zip or file that holds the data; default: what `bertjobs data get` downloaded."""
    split: Text = "dev"
    """Split to evaluate (`dev`, `test`, `train`, CoLA: also `in_domain_dev`) or the path of one file."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that cannot be read stops the job with its file and line, or is skipped and counted."""
    limit: Count | None = None
    """Evaluate only the first rows of the split, in rows."""


class TextSection(Section):
    max_len: Annotated[int, Field(ge=8, le=8192)] = 128
    """Longest sequence in wordpieces, special tokens included; 128 is d2l's and GLUE's."""
    truncation: Truncation = "longest_first"
    """How a too long pair is cut; `longest_first` is what d2l and BERT's own code do."""


class EvalTextSection(Section):
    max_len: Annotated[int, Field(ge=8, le=8192)] | None = None
    """Belongs to the trained model; given here it must agree with it, or be given for a foreign model."""
    truncation: Truncation | None = None
    """Belongs to the trained model; given here it must agree with it, or be given for a foreign model."""


class ModelSection(Section):
    source: Text = "tiny"
    """Where the weights come from: a Hugging Face folder or hub name, a d2l archive, a job id, or a size
    (`tiny`, `mini`, `small`, `medium`, `base`, `large`, `d2l-small`) to start from random weights."""
    num_heads: Count | None = None
    """Attention heads; only for d2l archives that the registry does not know."""
    vocab: Text | None = None
    """Vocabulary file (`vocab.txt`, `tokenizer.json`, d2l `vocab.json`) for random weights; without it a
    WordPiece vocabulary is trained on the training split."""
    vocab_size: Annotated[int, Field(ge=64, le=1_000_000)] = 8192
    """Size of that trained vocabulary, in wordpieces."""
    hidden_dropout: Probability | None = None
    """Dropout on hidden states; default: what the checkpoint's configuration says (0.1 for BERT)."""
    attention_dropout: Probability | None = None
    """Dropout on attention probabilities; default: what the checkpoint's configuration says."""
    classifier_dropout: Probability | None = None
    """Dropout before the classifier; default: the hidden dropout."""


class EvalModelSection(Section):
    source: Text
    """What to evaluate: a job id, or the folder of a fine-tuned checkpoint."""


class OptimSection(Section):
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 5e-5
    """Peak learning rate of AdamW; 5e-5 is in the range of BERT, appendix A.3."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 0.01
    """Decoupled weight decay, on weight matrices only (not on biases and LayerNorm)."""
    beta1: Probability = 0.9
    """Decay of AdamW's first moment."""
    beta2: Probability = 0.999
    """Decay of AdamW's second moment."""
    eps: Annotated[float, Field(gt=0.0, le=1e-2)] = 1e-8
    """Added to the root of the second moment."""
    schedule: Schedule = "linear"
    """Course of the learning rate after warmup."""
    warmup_ratio: Ratio = 0.1
    """Share of all steps over which the learning rate rises from 0."""
    decay_ratio: Ratio = 0.2
    """Share of all steps that `wsd` spends decaying at the end; no other schedule reads it."""
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Gradients are scaled down to this global L2 norm; 0 leaves them alone."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the learning rate per layer below the top; 1 treats all layers alike."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """Encoder layers, from the bottom and with the embeddings, that are not trained; 0 trains everything."""


class TrainSection(Section):
    epochs: Count = 3
    """Passes over the training split."""
    max_steps: Count | None = None
    """Take exactly this many optimizer steps, whatever the epochs; the schedule follows it."""
    batch_size: Count = 32
    """Examples per optimizer step over all workers and accumulation."""
    accumulation: Count = 1
    """Microbatches each worker splits its share of a batch into at least; does not change the result."""
    microbatch_tokens: Annotated[int, Field(ge=64)] = 16384
    """Most tokens, padding included, that go through the model at once on a worker; bounds memory."""
    eval_batch_size: Count = 128
    """Examples per evaluation batch over all workers."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of new weights, order and dropout."""
    precision: Precision = "auto"
    """`auto` computes matrix products in bf16 where the processor has it, else in fp32."""
    deterministic: bool = False
    """Use only deterministic kernels; slower on CUDA, no difference on a CPU."""
    checkpoint_steps: Count | None = None
    """Checkpoint every so many steps, besides the end of each epoch."""
    eval_steps: Count | None = None
    """Judge on the development split every so many steps, besides the end of each epoch."""
    patience: Count | None = None
    """Stop after this many evaluations without a better development metric; default: never."""


class EvalTrainSection(Section):
    batch_size: Count = 32
    """Examples per batch; CoLA's published MCC per batch is over batches of 32."""
    precision: Precision = "auto"
    """`auto` computes matrix products in bf16 where the processor has it, else in fp32."""


class ResourcesSection(Section):
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs, all granted at once; 0 trains on CPUs."""
    workers: Count | None = None
    """Training processes; default: one per GPU, or one on a CPU."""
    cpus_per_worker: Annotated[float, Field(gt=0.0)] | None = None
    """CPU cores per worker; default: an equal share of the cluster's after Ray Data's."""


class OriginSection(Section):
    from_trial: Text | None = None
    """Begin with the configuration of a search's trial: `JOB` for its best, `JOB:N` for the N-th."""


class JobConfig(Section):
    """What every kind has."""

    resources: ResourcesSection = ResourcesSection()


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
