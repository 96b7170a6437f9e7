"""What stands on the encoder: a classifier of rows, and BERT's two pretraining heads.

Legend: N tokens, B rows, C classes, P masked positions, V vocabulary, D hidden size.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.modeling.bert import BertModel, activation_of
from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.dropout import DropoutPool
from bertjobs.modeling.inputs import ModelInputs


class BertForSequenceClassification(nn.Module):
    """Pooler, dropout, and one linear layer to the classes."""

    def __init__(self, config: BertConfig, num_labels: int) -> None:
        super().__init__()
        self.config = config
        self.num_labels = num_labels
        self.bert = BertModel(config)
        self.classifier = nn.Linear(config.hidden_size, num_labels)

    def set_dropout(self, pool: DropoutPool | None) -> None:
        """Use this pool's masks while in training mode."""
        self.bert.set_dropout(pool)

    def write_gradients(self) -> None:
        """Add gradients of weights straight to `.grad`; see `BertModel.write_gradients`."""
        self.bert.write_gradients()

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Return logits (B, C), rows in the order of the groups."""
        pooled_BD, masks = self.bert.pooled(inputs)
        mask = masks.classifier() if masks else None
        return self.classifier(pooled_BD if mask is None else pooled_BD * mask.of(pooled_BD))


class BertForPreTraining(nn.Module):
    """The masked-language-model head, on masked positions only, and next-sentence prediction."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config)
        self.cls = nn.ModuleDict(
            {"predictions": MaskedLanguageHead(config), "seq_relationship": nn.Linear(config.hidden_size, 2)}
        )

    def set_dropout(self, pool: DropoutPool | None) -> None:
        """Use this pool's masks while in training mode."""
        self.bert.set_dropout(pool)

    def write_gradients(self) -> None:
        """Add gradients of weights straight to `.grad`; see `BertModel.write_gradients`."""
        self.bert.write_gradients()

    def forward(self, inputs: ModelInputs, *, masked_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (P, V) of the tokens at `masked_P` (indices in N) and (B, 2) of the pairs."""
        hidden_ND = self.bert(inputs)
        words_VD = self.bert.embeddings.word_embeddings.weight
        logits_PV = self.cls["predictions"](hidden_ND[masked_P], words_VD=words_VD)
        return logits_PV, self.cls["seq_relationship"](self.bert.pool(hidden_ND[inputs.starts_B]))


class MaskedLanguageHead(nn.Module):
    """Dense, activation, LayerNorm, decoder. The decoder is the word embedding, or d2l's own matrix."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.transform = nn.ModuleDict(
            {"dense": nn.Linear(D, D), "LayerNorm": nn.LayerNorm(D, eps=config.layer_norm_eps)}
        )
        self.decoder = None if config.tie_word_embeddings else nn.Linear(D, config.vocab_size)
        if config.tie_word_embeddings:
            self.bias = nn.Parameter(self.transform["dense"].weight.new_zeros(config.vocab_size))
        self._activation = activation_of(config.hidden_act)

    def forward(self, masked_PD: Tensor, *, words_VD: Tensor) -> Tensor:
        hidden_PD = self.transform["LayerNorm"](self._activation(self.transform["dense"](masked_PD)))
        return F.linear(hidden_PD, words_VD, self.bias) if self.decoder is None else self.decoder(hidden_PD)
