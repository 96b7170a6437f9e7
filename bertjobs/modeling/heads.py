"""Define the heads on the encoder: a classifier of rows, and BERT's two pretraining heads.

A head knows the plain model only: `bert.pooled(inputs)` is (B, D), `bert(inputs)` is (N, D). What is fast on
CPUs takes the place of these modules without their knowing.

Shape suffixes: N: tokens. B: rows. C: classes. P: masked positions. K: first tokens and masked positions.
V: vocabulary. D: hidden size.
Source: Devlin et al. 2019 (BERT), sections 3.1 (pretraining) and 4.1 (classification).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.modeling.bert import BertModel, activation_of
from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.inputs import ModelInputs


class BertForSequenceClassification(nn.Module):
    """A classifier: pooler, dropout, and one linear layer to the classes."""

    def __init__(self, config: BertConfig, num_labels: int) -> None:
        super().__init__()
        self.config = config
        self.num_labels = num_labels
        self.bert = BertModel(config)
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.hidden_size, num_labels)

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Return logits (B, C)."""
        return self.classifier(self.dropout(self.bert.pooled(inputs)))


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
        self.cls = PretrainingHeads(config)

    def forward(self, inputs: ModelInputs, *, masked_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (P, V) of the tokens at `masked_P` (indices in N) and (B, 2) of the pairs."""
        first_BD, masked_PD = self._hidden(inputs, masked_P)
        return self.cls.predictions(masked_PD, self._words), self._pair_logits(first_BD)

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
        """Return the scaled sums of the cross-entropies of masked tokens and, with labels, of pairs."""
        first_BD, masked_PD = self._hidden(inputs, masked_P)
        mlm_loss = self.cls.predictions.loss(masked_PD, self._words, targets_P=targets_P, scale=mlm_scale)
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
        mlm = self.cls.predictions.scores(masked_PD, self._words, targets_P=targets_P)
        logits_B2 = self._pair_logits(first_BD).double()
        nsp_loss_sum = F.cross_entropy(logits_B2, labels_B, reduction="sum")
        return PretrainScores(*mlm, nsp_loss_sum, (logits_B2.argmax(dim=1) == labels_B).sum())

    @property
    def _words(self) -> Tensor:
        return self.bert.embeddings.word_embeddings.weight

    def _hidden(self, inputs: ModelInputs, masked_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last hidden states of first tokens (B, D) and of masked ones (P, D)."""
        # One pass for both: the last layer computes only these tokens after its attention.
        hidden_KD = self.bert.hidden_at(inputs, torch.cat((inputs.starts_B, masked_P)))
        first_BD, masked_PD = hidden_KD.split([len(inputs.starts_B), len(masked_P)])
        return first_BD, masked_PD

    def _pair_logits(self, first_BD: Tensor) -> Tensor:
        return self.cls.seq_relationship(self.bert.pooler(first_BD))


class PretrainingHeads(nn.Module):
    """Both pretraining heads, under Hugging Face's names."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = MaskedLanguageHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class MaskedLanguageHead(nn.Module):
    """Dense, activation, LayerNorm, decoder. The decoder is the word embedding, or d2l's own matrix."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size)
        )
        if config.tie_word_embeddings:
            self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, masked_PD: Tensor, words_VD: Tensor) -> Tensor:
        """Return logits (P, V)."""
        return F.linear(self.transform(masked_PD), *self.decoder_over(words_VD))

    def loss(self, masked_PD: Tensor, words_VD: Tensor, *, targets_P: Tensor, scale: Tensor) -> Tensor:
        """Return scale times the sum of the cross-entropies, in nats."""
        logits_PV = self(masked_PD, words_VD).float()
        return F.cross_entropy(logits_PV, targets_P, reduction="sum") * scale

    def scores(self, masked_PD: Tensor, words_VD: Tensor, *, targets_P: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the cross-entropies (fp64), and how many targets have the highest logit."""
        logits_PV = self(masked_PD, words_VD).float()
        loss_P = F.cross_entropy(logits_PV, targets_P, reduction="none")
        return loss_P.sum(dtype=torch.float64), (logits_PV.argmax(dim=1) == targets_P).sum()

    def decoder_over(self, words_VD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoder's weight (V, D) and bias (V)."""
        if self.decoder is None:
            return words_VD, self.bias
        return self.decoder.weight, self.decoder.bias


class Transform(nn.Module):
    """Dense, activation, LayerNorm: what comes before the decoder."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = activation_of(config.hidden_act)

    def forward(self, masked_PD: Tensor) -> Tensor:
        """Return the decoder's input (P, D)."""
        return self.LayerNorm(self.activation(self.dense(masked_PD)))
