"""The BERT encoder, its heads, and weights in and out."""

from bertjobs.modeling.bert import BertModel
from bertjobs.modeling.build import build_classifier, build_pretraining
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.cpu.dropout import DropoutPool, row_keys
from bertjobs.modeling.heads import BertForMultipleChoice, BertForPreTraining, BertForSequenceClassification
from bertjobs.modeling.inputs import ModelInputs, PaddedGroup, pad_rows
from bertjobs.modeling.weights import load_weights, save_pretrained

__all__ = [
    "BertConfig",
    "BertForMultipleChoice",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertModel",
    "DropoutPool",
    "LoadedModel",
    "ModelInputs",
    "PaddedGroup",
    "build_classifier",
    "build_pretraining",
    "load_weights",
    "pad_rows",
    "row_keys",
    "save_pretrained",
]
