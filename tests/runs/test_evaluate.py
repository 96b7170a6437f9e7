"""What an evaluation accepts of a model and of the flags."""

import pytest

from bertjobs.config.finetune import EvalTextSection
from bertjobs.config.sections import TextSection
from bertjobs.errors import ConfigError, ModelError
from bertjobs.runs.artefacts import Artefact, check_task, read_artefact, trained_text
from bertjobs.text.datasets.cola import COLA
from bertjobs.text.datasets.snli import SNLI


def test_evaluation_truncates_texts_as_training_did_and_refuses_a_contradiction():
    artefact = Artefact(task=SNLI, text=TextSection(max_len=64, truncation="ratio"), trained_by="j-1")
    assert trained_text(EvalTextSection(), artefact) == artefact.text
    assert trained_text(EvalTextSection(max_len=64), artefact) == artefact.text
    with pytest.raises(ConfigError, match=r"--max-len 32: the model was trained with 64. Leave the flag out"):
        trained_text(EvalTextSection(max_len=32), artefact)
    assert trained_text(EvalTextSection(max_len=32), None).max_len == 32


def test_a_pretrained_artefact_has_no_task_and_evaluating_it_says_what_to_do(tmp_path):
    artefact = Artefact(task=None, text=TextSection(max_len=64), trained_by="j-1")
    artefact.write(tmp_path)
    assert read_artefact(tmp_path) == artefact
    with pytest.raises(ModelError, match=r"was pretrained and has no classifier\. Fine-tune it first"):
        check_task(COLA, artefact, tmp_path)
