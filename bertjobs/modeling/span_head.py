"""Define the head that finds an answer in a text: for each token, a score as its start and one as its end.

Shape suffixes: N: tokens of the batch. B: rows. L: tokens of the longest row. D: hidden size.
Source: Devlin et al. 2019 (BERT), section 4.2.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from bertjobs.modeling.bert import BertModel
from bertjobs.modeling.config import BertConfig
from bertjobs.modeling.inputs import ModelInputs


class BertForQuestionAnswering(nn.Module):
    """One linear layer from each token to two scores, under the name that Hugging Face gives it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.bert = BertModel(config)
        del self.bert.pooler  # not used, so neither trained nor saved
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(self, inputs: ModelInputs) -> Tensor:
        """Return logits (2, B, L): as start and as end; -inf beyond the end of a row."""
        logits_N2 = self.qa_outputs(self.bert(inputs))
        places = inputs.padded
        is_padding_BL1 = ~places.is_token_BL[:, :, None]
        return logits_N2[places.token_BL].masked_fill(is_padding_BL1, float("-inf")).permute(2, 0, 1)


def span_loss_sum(logits_2BL: Tensor, *, start_B: Tensor, end_B: Tensor) -> Tensor:
    """Return the sum over rows of the mean of the two cross-entropies, over the row's own tokens."""
    start_loss = F.cross_entropy(logits_2BL[0], start_B, reduction="sum")
    return (start_loss + F.cross_entropy(logits_2BL[1], end_B, reduction="sum")) / 2
