"""The sections that several kinds of job share, and the types of their values.

Each field has its name, type, bounds and default here once; its docstring is the text of `--help`: the unit,
and why this default."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Truncation = Literal["longest_first", "only_first", "only_second", "ratio", "head_tail"]
PAIR_TRUNCATIONS: tuple[Truncation, ...] = ("only_first", "only_second", "ratio")
"""Strategies that differ from `longest_first` for pairs of texts only."""
Schedule = Literal["linear", "cosine", "constant", "wsd"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
GradExchange = Literal["auto", "fp32", "bf16"]
OnBadRow = Literal["error", "skip"]
TrackerName = Literal["none", "mlflow", "wandb", "trackio"]

Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
OpenRatio = Annotated[float, Field(gt=0.0, lt=1.0)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
MaxLen = Annotated[int, Field(ge=8, le=8192)]
NBest = Annotated[int, Field(ge=1, le=1000)]
DocStride = Annotated[int, Field(ge=0, le=8192)]
VocabSize = Annotated[int, Field(ge=64, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
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


class TextSection(Section):
    max_len: MaxLen = 128
    """Longest sequence, in wordpieces, special tokens included; 128 as in d2l and GLUE."""
    truncation: Truncation = "longest_first"
    """How a text that is too long is cut; `longest_first` as in d2l and BERT's own code."""
    doc_stride: DocStride | None = None
    """Wordpieces that neighbouring windows of a long context share, in tasks that look for an answer in it
    (SQuAD); default: a third of --max-len, which is 128 of 384 as in BERT's own code."""

    @property
    def stride(self) -> int:
        """`doc_stride`, or its default."""
        return self.max_len // 3 if self.doc_stride is None else self.doc_stride


class OptimSection(Section):
    lr: Annotated[float, Field(gt=0.0, le=1.0)] = 5e-5
    """Peak learning rate of AdamW; 5e-5 is in the range of BERT, appendix A.3."""
    weight_decay: Ratio = 0.01
    """Decoupled weight decay, on weight matrices only (not on biases and LayerNorm); 0.01 as in BERT."""
    beta1: Probability = 0.9
    """Decay rate of AdamW's first moment; 0.9 as in BERT."""
    beta2: Probability = 0.999
    """Decay rate of AdamW's second moment; 0.999 as in BERT."""
    eps: Annotated[float, Field(gt=0.0, le=1e-2)] = 1e-8
    """Added to the root of the second moment, for numerical stability; 1e-8 as in PyTorch."""
    schedule: Schedule = "linear"
    """Shape of the learning rate after warmup: to 0 (`linear`, as in BERT; `cosine`), `constant`, or constant
    with a decay at the end (`wsd`)."""
    warmup_ratio: Ratio = 0.1
    """Share of all steps in which the learning rate rises from 0 to its peak; 0.1 as in BERT's own code."""
    decay_ratio: Ratio = 0.2
    """Share of all steps, at the end, in which `wsd` decays the learning rate; other schedules do not use
    it."""
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Clip gradients to this global L2 norm; 0 turns clipping off; 1.0 as in BERT's own code."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the learning rate for each layer further below the top; 1 uses one rate for all layers."""
    freeze_layers: Annotated[int, Field(ge=0)] = 0
    """Number of encoder layers, counted from the bottom, that are not trained; the embeddings are frozen with
    them; 0 trains everything."""


class LoopSection(Section):
    """What the training loop reads, whatever it trains."""

    accumulation: Count = 1
    """Least number of microbatches into which each worker splits its part of a batch; saves memory, the
    result is the same."""
    microbatch_tokens: Annotated[int, Field(ge=64)] = 16384
    """Most tokens, padding included, in one microbatch of a worker; bounds memory."""
    eval_batch_size: Count = 128
    """Examples per evaluation batch, over all workers; does not change the result."""
    precision: Precision = "auto"
    """`auto` trains in bf16 where the CPU (avx512_bf16, AMX) or the GPU has it, else in fp16 on a GPU with
    tensor cores, else in fp32; on a CPU it evaluates in fp32. Other values apply to both; `tf32` and `fp16`
    need a GPU. Weights are always fp32."""
    activation_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest again: less memory, a third
    more work."""
    compile: bool = False
    """Compile forward and backward pass with torch.compile; the first steps take minutes. Where that fails,
    training goes on without, and says so."""
    grad_exchange: GradExchange = "auto"
    """How several workers sum their gradients. `fp32` and `bf16`: by DistributedDataParallel, in that format,
    while the backward pass runs. `auto` is `fp32` on GPUs; on CPUs it is one sum in fp32 after the backward
    pass, without rows of the word table that the batch does not use."""
    deterministic: bool = False
    """Use only deterministic kernels; slower on CUDA, no difference on a CPU."""
    profile: Count | None = None
    """Profile N optimizer steps, after three for warming up: a trace and a table in the folder `profile` of
    the job; default: none."""
    report_to: TrackerName = "none"
    """Also send metrics and configuration to this tracker, which has to be installed and configured on the
    nodes (`pip install bertjobs[mlflow]`); the job does not depend on it."""


class ResourcesSection(Section):
    gpus: Annotated[int, Field(ge=0)] = 0
    """Number of GPUs, granted all at once; 0 uses CPUs."""
    workers: Count | None = None
    """Number of worker processes; default: one per GPU, or one on CPUs."""
    cpus_per_worker: Annotated[float, Field(gt=0.0)] | None = None
    """CPU cores per worker; default: an equal share of the cores that Ray Data does not need."""


class JobConfig(Section):
    """What the configurations of all kinds have."""

    resources: ResourcesSection = ResourcesSection()
