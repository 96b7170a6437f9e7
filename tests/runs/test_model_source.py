"""What `--model` may name, and what must lie beside the weights."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from bertjobs.errors import DownloadError, ModelError
from bertjobs.hub import fetch_model
from bertjobs.jobs.attempt_result import AttemptResult, write_result
from bertjobs.modeling import BertConfig, build_classifier, save_pretrained
from bertjobs.runs import model_source
from bertjobs.runs.model_source import load_with_vocabulary, locate_model
from bertjobs.settings import load_settings
from bertjobs.storage import JobDir
from bertjobs.text.vocabulary import train_wordpiece


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Settings of a home of its own; relative paths are looked up beside it."""
    monkeypatch.chdir(tmp_path)
    return load_settings({"BERTJOBS_HOME": str(tmp_path / "home")})


@pytest.fixture
def locate(settings):
    with ExitStack() as resources:
        yield partial(locate_model, settings=settings, resources=resources)


@pytest.fixture
def model(tmp_path) -> Path:
    """Weights for a vocabulary of 120, without it."""
    small = BertConfig(
        vocab_size=120, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    save_pretrained(build_classifier(small, num_labels=2, seed=0), tmp_path / "model")
    return tmp_path / "model"


def test_a_size_is_not_a_folder_even_where_a_folder_has_that_name(locate, tmp_path):
    (tmp_path / "tiny").mkdir()
    assert locate("tiny") is None
    assert locate("./tiny") == Path("tiny")


def test_a_job_id_names_the_model_of_that_job(locate, settings):
    with JobDir(settings.storage, "j-7f3k2").new_dir("model") as folder:
        (folder / "config.json").write_text("{}")
    found = locate("j-7f3k2")
    assert found is not None and (found / "config.json").is_file()


def test_a_job_id_names_the_model_of_the_attempt_that_succeeded(locate, settings):
    job_id = "j-00007f3k2"
    for attempt in (1, 2, 3):
        job_dir = JobDir(settings.storage, job_id, writer=f"a{attempt}")
        with job_dir.new_dir(job_dir.own("model")) as folder:
            (folder / "config.json").write_text(str(attempt))
        if attempt < 3:  # the third is an attempt that lived on and never ended
            result = AttemptResult(metrics={}, artifacts={"model": job_dir.path_of(job_dir.own("model"))})
            write_result(job_dir, job_id=job_id, attempt=attempt, token=attempt, result=result)
    found = locate(job_id)
    assert found is not None and (found.name, (found / "config.json").read_text()) == ("model-a2", "2")


def test_a_job_without_a_model_and_a_path_without_a_file_are_refused_with_the_remedy(locate):
    with pytest.raises(
        ModelError, match=r"--model j-9: that job has no model at .*j-9/model\. Give a pretrain or finetune"
    ):
        locate("j-9")
    with pytest.raises(ModelError, match=r"--model \./none: there is no such file or folder\. Give a folder"):
        locate("./none")


def test_any_other_name_is_looked_up_on_the_hub(locate, file_server, monkeypatch):
    fetch_here = partial(fetch_model, endpoint=file_server.url)
    monkeypatch.setattr(model_source, "fetch_model", fetch_here)
    with pytest.raises(DownloadError, match="someone/bert"):
        locate("someone/bert")
    method, path, _ = file_server.asked[0]
    assert (method, path.partition("?")[0]) == ("GET", "/api/models/someone/bert")


def test_weights_are_loaded_with_the_vocabulary_beside_them(settings, model):
    with pytest.raises(ModelError, match="there is no vocabulary beside the weights") as caught:
        load_with_vocabulary(model, cache=settings.cache)
    assert caught.value.hint == "Put the model's vocab.txt or tokenizer.json into that folder."
    train_wordpiece(["a man runs"], vocab_size=120).save(model)
    loaded, tokenizer = load_with_vocabulary(model, cache=settings.cache)
    assert loaded.config.vocab_size == 120
    assert tokenizer.cls_id != tokenizer.sep_id


def test_a_download_says_how_far_it_is_once_a_second(monkeypatch):
    now_s, told = [0.0], []
    monkeypatch.setattr(model_source.time, "monotonic", lambda: now_s[0])
    tell = model_source._Download("org/model", told.append)
    for num_bytes, total in ((1e6, 440e6), (2e6, 440e6), (9e6, None)):
        tell(int(num_bytes), None if total is None else int(total))
        now_s[0] += 0.6
    assert told == ["downloading org/model, 1 of 440 MB", "downloading org/model, 9 MB"]
