"""Define the heads on the encoder: a classifier of rows, and BERT's two pretraining heads.

Shape suffixes: N: tokens. B: rows. C: classes. P: masked positions. K: first tokens and masked positions.
V: vocabulary. D: hidden size.
Source: Devlin et al. 2019 (BERT), sections 3.1 (pretraining) and 4.1 (classification).
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.modeling.bert import BertModel, Linear, activation_of, in_autocast_dtype
from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.cpu.dropout import DropoutPool
from bertjobs.modeling.cpu.masked_loss import masked_cross_entropy, masked_scores
from bertjobs.modeling.inputs import ModelInputs


class BertForSequenceClassification(nn.Module):
    """A classifier: pooler, dropout, and one linear layer to the classes."""

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


class BertForMultipleChoice(BertForSequenceClassification):
    """One number per sequence, by which the sequences of an example are compared.

    Source: Zellers et al. 2018 (SWAG); Devlin et al. 2019 (BERT), section 4.4.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, num_labels=1)


class PretrainScores(NamedTuple):
    """Sums over a batch that can be added up, each a tensor of one number."""

    mlm_loss_sum: Tensor
    num_masked_correct: Tensor
    nsp_loss_sum: Tensor
    num_pairs_correct: Tensor


class BertForPreTraining(nn.Module):
    """The masked-language-model head, on masked positions only, and next-sentence prediction."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config)
        self.cls: Any = nn.ModuleDict(
            {"predictions": MaskedLanguageHead(config), "seq_relationship": nn.Linear(config.hidden_size, 2)}
        )
        self._writes_gradients = False

    def set_dropout(self, pool: DropoutPool | None) -> None:
        """Use this pool's masks while in training mode."""
        self.bert.set_dropout(pool)

    def write_gradients(self) -> None:
        """Add gradients straight to `.grad`, see `BertModel.write_gradients`; of the word table too."""
        self.bert.write_gradients()
        self.bert.embeddings.writes_gradients = True
        self.cls["predictions"].transform["dense"].writes_gradients = True
        self._writes_gradients = True

    def forward(self, inputs: ModelInputs, *, masked_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (P, V) of the tokens at `masked_P` (indices in N) and (B, 2) of the pairs."""
        first_BD, masked_PD = self._hidden(inputs, masked_P)
        weight_VD, bias_V = self._decoder()
        return F.linear(masked_PD, weight_VD, bias_V), self._pair_logits(first_BD)

    def losses(
        self,
        inputs: ModelInputs,
        *,
        masked_P: Tensor,
        targets_P: Tensor,
        labels_B: Tensor | None,
        mlm_scale: Tensor,
        nsp_scale: float,
    ) -> Tensor:
        """Return the scaled sums of the cross-entropies of masked tokens and, with labels, of pairs.

        The logits of all masked tokens are never in memory at once: see `masked_cross_entropy`.
        """
        first_BD, masked_PD = self._hidden(inputs, masked_P)
        weight_VD, bias_V = self._decoder()
        mlm_loss = masked_cross_entropy(
            masked_PD,
            weight_VD=weight_VD,
            bias_V=bias_V,
            targets_P=targets_P,
            scale=mlm_scale,
            write_gradients=self._writes_gradients,
        )
        if labels_B is None:
            return mlm_loss.view(1)
        logits_B2 = self._pair_logits(first_BD).float()
        nsp_loss = F.cross_entropy(logits_B2, labels_B, reduction="sum") * nsp_scale
        return torch.stack((mlm_loss, nsp_loss))

    @torch.no_grad()
    def scores(
        self, inputs: ModelInputs, *, masked_P: Tensor, targets_P: Tensor, labels_B: Tensor
    ) -> PretrainScores:
        """Return the sums that an evaluation adds up over its batches."""
        first_BD, masked_PD = self._hidden(inputs, masked_P)
        weight_VD, bias_V = self._decoder()
        mlm = masked_scores(masked_PD, weight_VD=weight_VD, bias_V=bias_V, targets_P=targets_P)
        logits_B2 = self._pair_logits(first_BD).double()
        nsp_loss_sum = F.cross_entropy(logits_B2, labels_B, reduction="sum")
        return PretrainScores(*mlm, nsp_loss_sum, (logits_B2.argmax(dim=1) == labels_B).sum())

    def _hidden(self, inputs: ModelInputs, masked_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last hidden states of first tokens (B, D), and the decoder's input (P, D)."""
        # One pass for both: the last layer computes only these tokens after its attention.
        hidden_KD = self.bert.hidden_at(inputs, torch.cat((inputs.starts_B, masked_P)))
        first_BD, masked_PD = hidden_KD.split([len(inputs.starts_B), len(masked_P)])
        return first_BD, in_autocast_dtype(self.cls["predictions"](masked_PD))

    def _decoder(self) -> tuple[Tensor, Tensor]:
        return self.cls["predictions"].decoder_over(self.bert.embeddings.word_embeddings)

    def _pair_logits(self, first_BD: Tensor) -> Tensor:
        return self.cls["seq_relationship"](self.bert.pool(first_BD))


class MaskedLanguageHead(nn.Module):
    """Dense, activation, LayerNorm, decoder. The decoder is the word embedding, or d2l's own matrix."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        D = config.hidden_size
        self.transform: Any = nn.ModuleDict(
            {"dense": Linear(D, D), "LayerNorm": nn.LayerNorm(D, eps=config.layer_norm_eps)}
        )
        self.decoder = None if config.tie_word_embeddings else nn.Linear(D, config.vocab_size)
        if config.tie_word_embeddings:
            self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self._activation = activation_of(config.hidden_act)

    def forward(self, masked_PD: Tensor) -> Tensor:
        """Return the decoder's input (P, D)."""
        return self.transform["LayerNorm"](self._activation(self.transform["dense"](masked_PD)))

    def decoder_over(self, words: nn.Embedding) -> tuple[Tensor, Tensor]:
        """Return the decoder's weight (V, D) and bias (V)."""
        if self.decoder is None:
            return words.weight, self.bias
        return self.decoder.weight, self.decoder.bias
