"""What `--model` may name, and what must lie beside the weights."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from bertjobs.errors import DownloadError, ModelError
from bertjobs.jobs.job import Grant
from bertjobs.modeling import BertConfig, build_classifier, save_pretrained, weights
from bertjobs.runs.model_source import load_with_vocabulary, locate_model
from bertjobs.runs.run_context import Run
from bertjobs.settings import load_settings
from bertjobs.storage import JobDir
from bertjobs.text.vocabulary import train_wordpiece


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """A run of which only the folders matter, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"BERTJOBS_HOME": str(tmp_path / "home")})
    with ExitStack() as resources:
        yield Run(
            id="j-test", attempt=1, config=None, settings=settings,
            job_dir=JobDir(settings.storage, "j-test"),
            grant=Grant(workers=1, gpus_per_worker=0, cpus_per_worker=1, data_cpus=1), reporter=None,
            open_reporter=None, checkpoint=None, resources=resources,
        )  # fmt: skip


@pytest.fixture
def model(tmp_path) -> Path:
    """Weights for a vocabulary of 120, without it."""
    small = BertConfig(
        vocab_size=120, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    save_pretrained(build_classifier(small, num_labels=2, seed=0), tmp_path / "model")
    return tmp_path / "model"


def test_a_size_is_no_folder_even_where_there_is_one_of_that_name(attempt, tmp_path):
    (tmp_path / "tiny").mkdir()
    assert locate_model("tiny", attempt) is None
    assert locate_model("./tiny", attempt) == Path("tiny")


def test_a_job_is_its_model(attempt):
    with JobDir(attempt.settings.storage, "j-7f3k2").new_dir("model") as folder:
        (folder / "config.json").write_text("{}")
    found = locate_model("j-7f3k2", attempt)
    assert found is not None and (found / "config.json").is_file()


def test_a_job_without_a_model_and_a_path_that_is_none_say_what_to_give(attempt):
    with pytest.raises(
        ModelError, match=r"--model j-9: that job has no model at .*j-9/model\. Give a pretrain or finetune"
    ):
        locate_model("j-9", attempt)
    with pytest.raises(ModelError, match=r"--model \./none: there is no such file or folder\. Give a folder"):
        locate_model("./none", attempt)


def test_any_other_name_is_looked_up_on_the_hub(attempt, file_server, monkeypatch):
    monkeypatch.setattr(weights, "fetch", partial(weights.fetch, base_url=file_server.url))
    with pytest.raises(DownloadError, match="404 Not Found"):
        locate_model("someone/bert", attempt)
    assert file_server.asked == [("GET", "/someone/bert/resolve/main/config.json", None)]


def test_weights_come_with_the_vocabulary_beside_them(attempt, model):
    with pytest.raises(ModelError, match="there is no vocabulary beside the weights") as caught:
        load_with_vocabulary(model, attempt)
    assert caught.value.hint == "Put the model's vocab.txt or tokenizer.json into that folder."
    train_wordpiece(["a man runs"], vocab_size=120).save(model)
    loaded, tokenizer = load_with_vocabulary(model, attempt)
    assert loaded.config.vocab_size == 120
    assert tokenizer.cls_id != tokenizer.sep_id
