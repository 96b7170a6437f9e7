"""The BERT encoder, its heads, and weights in and out."""

from bertjobs.modeling.bert import BertModel
from bertjobs.modeling.build import build_classifier, build_pretraining
from bertjobs.modeling.config import BertConfig, LoadedModel
from bertjobs.modeling.heads import BertForMultipleChoice, BertForPreTraining, BertForSequenceClassification
from bertjobs.modeling.inputs import ModelInputs, RowGroup, offsets_of, pack_rows
from bertjobs.modeling.weights import load_weights, save_pretrained

__all__ = [
    "BertConfig",
    "BertForMultipleChoice",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertModel",
    "LoadedModel",
    "ModelInputs",
    "RowGroup",
    "build_classifier",
    "build_pretraining",
    "load_weights",
    "offsets_of",
    "pack_rows",
    "save_pretrained",
]
