"""What a masked-language model expects at the masks of a text.

Legend: P masks, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bertjobs.errors import ModelError
from bertjobs.modeling.build import build_pretraining
from bertjobs.modeling.config import LoadedModel
from bertjobs.modeling.heads import BertForPreTraining
from bertjobs.modeling.inputs import pad_rows

_HEAD = "cls.predictions."


def build_masked_language_model(loaded: LoadedModel) -> BertForPreTraining:
    """Build the model with its trained head. Raises: ModelError: it has none."""
    model = build_pretraining(loaded, seed=0).eval()
    head = [name for name, _ in model.named_parameters() if name.startswith(_HEAD)]
    missing = [name for name in head if name not in loaded.state_dict]
    if missing:
        raise ModelError(
            f"--model {loaded.source} cannot fill masks: it has no masked-language-model head "
            f"({missing[0]}).",
            hint="Give a pretrained model; one that was fine-tuned has lost its head.",
        )
    return model


def mask_probabilities(model: BertForPreTraining, ids: Sequence[int], *, masks: Sequence[int]) -> Tensor:
    """Return the probability of each word at the places `masks` of one text, (P, V)."""
    inputs = pad_rows([ids], segments=[[0] * len(ids)], pad_id=0)
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits_PV, _ = model(inputs.to(device), masked_P=torch.tensor(masks, device=device))
        return logits_PV.float().softmax(dim=1).cpu()
