"""The card of a model: what it says, that the Hub's library reads it, and that users' texts stay texts."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard

from bertjobs.config import load_config
from bertjobs.config.load import ConfigLayer
from bertjobs.modeling import BertConfig
from bertjobs.runs.finetune import TrainingInputs, write_model
from bertjobs.runs.model_card import ModelCard, escaped
from bertjobs.storage import JobDir
from bertjobs.text.datasets.tasks import BUILT_IN
from bertjobs.text.vocabulary import train_wordpiece
from bertjobs.training.tasks.types import task_type


def card(kind: str = "finetune", *, task: str | None = "snli", **values: object) -> ModelCard:
    given = {path.replace("__", "."): value for path, value in values.items()}
    return ModelCard(
        kind=kind,
        config=load_config(kind, ConfigLayer(given, {})),  # type: ignore[arg-type]
        task=None if task is None else BUILT_IN[task],
        metrics={"accuracy": 0.8125, "loss": 0.5, "per_class": [], "mcc": None, "num_examples": 16},
        split="dev split",
        trained_by="j-1t4k7wx3m",
    )


def test_the_hub_reads_task_base_model_and_results() -> None:
    made = card(model__source="google-bert/bert-base-uncased", optim__lr=3e-5)
    read = HubCard(made.text(model_class="BertForSequenceClassification"))
    assert read.data.library_name == "transformers"
    assert read.data.pipeline_tag == "text-classification"
    assert read.data.base_model == "google-bert/bert-base-uncased"
    assert read.data.datasets == ["snli"]
    found = {result.metric_type: result.metric_value for result in read.data.eval_results}
    assert found == {"accuracy": 0.8125, "loss": 0.5, "num_examples": 16}
    assert {result.dataset_split for result in read.data.eval_results} == {"dev split"}


def test_the_text_says_how_it_was_trained_and_how_to_load_it() -> None:
    text = card(optim__lr=3e-5, data__path="/home/ada/secret").text(
        model_class="BertForSequenceClassification"
    )
    assert "| accuracy | 0.8125 |" in text
    assert "optim.lr: 3.0e-05" in text
    assert "model = BertForSequenceClassification.from_pretrained(folder)" in text
    assert "bertjobs submit evaluate --model FOLDER --task snli --split test" in text
    assert "job j\\-1t4k7wx3m" in text
    assert "secret" not in text  # no path of the machine travels with the model


def test_a_pretrained_model_has_a_card_too() -> None:
    text = card("pretrain", task=None, data__corpus="wikitext-2").text(model_class="BertForPreTraining")
    front = yaml.safe_load(text.split("---")[1])
    assert (front["pipeline_tag"], front["datasets"]) == ("fill-mask", ["wikitext-2"])
    assert "bertjobs submit finetune --model FOLDER" in text


def test_it_is_written_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForMultipleChoice"]}))
    card(task="swag").write(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "import AutoTokenizer, BertForMultipleChoice" in text


@pytest.mark.parametrize("task", ["cola", "stsb", "swag"])
def test_every_model_of_a_task_is_published_with_its_card(task: str, tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["a word", "another word"], vocab_size=60)
    size = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    nothing: Any = None
    inputs = TrainingInputs(
        task=BUILT_IN[task], source=nothing, tokenizer=tokenizer, train=nothing, valid=nothing,
        valid_split="dev", more_valid={},
    )  # fmt: skip
    job_dir = JobDir(str(tmp_path), "j-1t4k7wx3m", writer="a1")
    write_model(
        task_type(BUILT_IN[task]).build_model(size, seed=0),
        inputs=inputs,
        config=load_config("finetune", ConfigLayer({"task.name": task, "model.source": "tiny"}, {})),  # type: ignore[arg-type]
        metrics=SimpleNamespace(to_json=lambda: {"loss": 0.5}),  # type: ignore[arg-type]
        job_dir=job_dir,
        trained_by="j-1t4k7wx3m",
    )
    text = job_dir.read_bytes("model-a1/README.md").decode()
    assert HubCard(text).data.eval_results[0].metric_value == 0.5
    written = json.loads(job_dir.read_bytes("model-a1/config.json"))["architectures"][0]
    assert f"import AutoTokenizer, {written}" in text


@pytest.mark.parametrize("kind", ["classification", "regression", "multiple_choice", "span"])
def test_texts_of_users_are_shown_as_text(kind: str) -> None:
    name = "x\n---\n# <script>alert(1)</script> [a](javascript:b) ```\n$(reboot)"
    task = replace(BUILT_IN["snli"], name=name, type=kind, labels=("a|b", "`c`"))  # type: ignore[arg-type]
    text = replace(card(), task=task).text(model_class="BertForSequenceClassification")
    _, front, body = text.split("---\n", 2)
    (result,) = yaml.safe_load(front)["model-index"][0]["results"]
    assert result["dataset"]["name"] == " ".join(name.split())
    assert "datasets" not in yaml.safe_load(front)
    for markup in ("<script>", "[a](", "\n---", "```\n$("):
        assert markup not in body
    assert "$(reboot)" not in body


def test_escaping_leaves_plain_texts_as_they_are() -> None:
    assert escaped("plain text, 3 words") == "plain text, 3 words"
    assert escaped("a_b <i> & \x1b[1m") == "a\\_b &lt;i&gt; &amp; \\[1m"
