"""Describe a BERT: the fields of a Hugging Face `config.json`, and the two that d2l's model needs besides.

`LoadedModel` is what the readers of all file formats return and the builders take. No files are read here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from bertjobs.config.presets import read_size
from bertjobs.errors import ModelError

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes and rates, named as in Hugging Face's `BertConfig`, with its defaults (BERT base, uncased)."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    """Rate before the classifier; None means `hidden_dropout_prob`."""
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    """Whether the MLM decoder is the word embedding transposed; d2l trains a separate matrix."""
    embedding_layer_norm: bool = True
    """Whether LayerNorm and dropout follow the sum of the embeddings; d2l has neither."""

    def __post_init__(self) -> None:
        if self.hidden_act not in ACTIVATIONS:
            raise ModelError(
                f"hidden_act {self.hidden_act!r} is not supported",
                hint=f"Supported are {', '.join(ACTIVATIONS)}.",
            )
        if self.hidden_size % self.num_attention_heads:
            raise ModelError(
                f"hidden_size {self.hidden_size} cannot be divided among {self.num_attention_heads} heads",
                hint="Give a divisor of the hidden size with --num-heads N.",
            )

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def head_dropout(self) -> float:
        """The rate before a head."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @property
    def is_plain_bert(self) -> bool:
        """Whether `transformers` can compute this model; it always normalises the embeddings."""
        return self.embedding_layer_norm

    def with_dropout(
        self, *, hidden: float | None = None, attention: float | None = None, classifier: float | None = None
    ) -> "BertConfig":
        """Return the configuration with these rates; those not given stay as in the checkpoint."""
        given: dict[str, Any] = {
            "hidden_dropout_prob": hidden,
            "attention_probs_dropout_prob": attention,
            "classifier_dropout": classifier,
        }
        return replace(self, **{name: rate for name, rate in given.items() if rate is not None})

    def check_fits(self, *, vocab_size: int, max_len: int) -> None:
        """Check the text side against the weights.

        The embedding may have some rows more: checkpoints add them to reach a round number.

        Raises: ModelError: the vocabulary is not this model's, or sequences are longer than its positions.
        """
        spare = self.vocab_size - vocab_size
        if not 0 <= spare < 128:
            raise ModelError(
                f"The vocabulary has {vocab_size} entries, but the weights have {self.vocab_size}: "
                "they do not belong together",
                hint="Put the vocab.txt or tokenizer.json that came with the weights beside them (--model).",
            )
        if max_len > self.max_position_embeddings:
            raise ModelError(
                f"--max-len {max_len} is more than the model's {self.max_position_embeddings} positions",
                hint=f"Give --max-len {self.max_position_embeddings} or less, or another model.",
            )

    @classmethod
    def of_size(cls, name: str, *, vocab_size: int, pad_token_id: int | None = 0) -> "BertConfig":
        """Return a size of `configs/models` with this vocabulary."""
        vocabulary = {"vocab_size": vocab_size, "pad_token_id": pad_token_id}
        return cls.from_json(read_size(name) | vocabulary, where=f"size {name}")

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, where: str) -> "BertConfig":
        """Read the fields of a `config.json`; those about other things (cache, versions, labels) are ignored.

        Raises: ModelError: another architecture, or a field that asks for a computation not implemented here.
        """
        _refuse_other_architectures(content, where=where)
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{name: value for name, value in content.items() if name in known})
        except TypeError as e:
            raise ModelError(f"{where}: config.json holds a value of the wrong type ({e})") from e

    def to_json(
        self, *, architecture: str, labels: Sequence[str] | None = None, problem_type: str | None = None
    ) -> dict[str, Any]:
        """Return the content of a `config.json`.

        labels, problem_type: of a model of sequence classification, as `transformers` reads them.

        A model that `transformers` would compute differently gets a `model_type` that it refuses.
        """
        content: dict[str, Any] = {
            "architectures": [architecture],
            "model_type": "bert" if self.is_plain_bert else "bertjobs-bert",
            "position_embedding_type": "absolute",
            "dtype": "float32",
        }
        content |= {field.name: getattr(self, field.name) for field in fields(self)}
        if self.is_plain_bert:
            del content["embedding_layer_norm"]
        if labels is not None:
            content["id2label"] = {str(i): label for i, label in enumerate(labels)}
            content["label2id"] = {label: i for i, label in enumerate(labels)}
            content["problem_type"] = problem_type or "single_label_classification"
        return content


def _refuse_other_architectures(content: Mapping[str, Any], *, where: str) -> None:
    fixed = {
        "model_type": ("bert", "bertjobs-bert"),
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
    }
    for word, allowed in fixed.items():
        if word in content and content[word] not in allowed:
            raise ModelError(
                f"{where}: {word} is {content[word]!r}, which is not supported",
                hint=f"Give a BERT encoder with {word} {allowed[0]!r} to --model.",
            )


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A checkpoint in memory, with Hugging Face's parameter names (`bert.encoder.layer.0. ...`)."""

    source: Path
    """Where it was read from, for messages."""
    kind: Literal["huggingface", "d2l"]
    config: BertConfig
    state_dict: dict[str, Tensor]
    tokenizer_path: Path | None
    """Folder or file of the tokenizer that belongs to the weights, if any."""
    labels: tuple[str, ...] | None
    """Names of the classes, where the checkpoint is a classifier."""
    architecture: str | None = None
    """Name of the class that wrote it, such as `BertForMultipleChoice`, where the file says so."""
    problem_type: str | None = None
    """Of sequence classification, as `transformers` names it, where the file says so."""
