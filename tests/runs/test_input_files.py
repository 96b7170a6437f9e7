"""Files of the submitting machine reach the nodes, once, or the user is told before anything is queued."""

from dataclasses import replace
from pathlib import Path

import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.errors import ConfigError, StorageError
from bertjobs.runs.input_files import content_key, fetch_inputs, send_inputs
from bertjobs.settings import Settings, load_settings
from bertjobs.text.corpus.files import member_name


@pytest.fixture
def shared(tmp_path: Path) -> Settings:
    """Return the settings of a machine at a shared cluster."""
    return load_settings(
        {
            "BERTJOBS_HOME": str(tmp_path / "home"),
            "BERTJOBS_REDIS_URL": "rediss://redis:6380/0",
            "BERTJOBS_RAY_ADDRESS": "http://ray-head:8265",
            "BERTJOBS_STORAGE": str(tmp_path / "storage"),
        }
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with two files and one that is nobody's business."""
    folder = tmp_path / "mine" / "snli_1.0"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "snli_1.0_train.jsonl").write_text("train")
    (folder / "sub" / "dev.jsonl").write_text("dev")
    (folder / ".git" / "config").write_text("secret")
    return folder


def finetune(**values: str):
    given = {path.replace("__", "."): value for path, value in values.items()}
    return load_config("finetune", ConfigLayer({"task.name": "snli", "model.source": "tiny", **given}, {}))


def pretrain(corpus: str):
    return load_config("pretrain", ConfigLayer({"data.corpus": corpus, "model.source": "tiny"}, {}))


def quiet(_line: str) -> None:
    """Hear an announcement and say nothing."""


def test_a_folder_travels_once_under_a_name_made_of_its_content(shared, data, tmp_path):
    said: list[str] = []
    config = finetune(data__path=str(data))
    first = send_inputs("finetune", config, settings=shared, announce=said.append)
    again = send_inputs("finetune", config, settings=shared, announce=said.append)
    place = Path(first.data.path)
    assert again == first
    assert place == tmp_path / "storage" / "inputs" / content_key(data) / "snli_1.0"
    files = sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())
    assert files == ["snli_1.0_train.jsonl", "sub/dev.jsonl"]
    assert said == [f"Sending {data} to {place.parent}"]


def test_other_content_is_another_place(shared, data):
    config = finetune(data__path=str(data))
    first = send_inputs("finetune", config, settings=shared, announce=quiet)
    (data / "snli_1.0_train.jsonl").write_text("other")
    second = send_inputs("finetune", config, settings=shared, announce=quiet)
    assert first.data.path != second.data.path
    assert (Path(first.data.path) / "snli_1.0_train.jsonl").read_text() == "train"


def test_every_file_that_a_job_names_travels(shared, data, tmp_path):
    task, vocab, split = (tmp_path / name for name in ("stance.yaml", "vocab.txt", "dev.csv"))
    for file in (task, vocab, split):
        file.write_text(file.name)
    config = finetune(
        task__name=str(task), data__path=str(data), data__valid_split=str(split), model__vocab=str(vocab)
    )
    sent = send_inputs("finetune", config, settings=shared, announce=quiet)
    for place, file in (
        (sent.task.name, task), (sent.data.valid_split, split), (sent.model.vocab, vocab),
    ):  # fmt: skip
        assert Path(place).name == file.name
        assert Path(place).is_relative_to(tmp_path / "storage")
        assert Path(place).read_text() == file.name
    assert sent.model.source == "tiny"


def test_a_download_that_only_this_machine_has_travels_too(shared, tmp_path):
    archive = shared.cache / "downloads" / "snli_1.0.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"zip")
    sent = send_inputs("finetune", finetune(), settings=shared, announce=quiet)
    assert Path(sent.data.path).name == "snli_1.0.zip"
    assert Path(sent.data.path).read_bytes() == b"zip"


def test_a_downloaded_corpus_that_only_this_machine_has_is_sent_too(shared):
    folder = shared.cache / "downloads" / "wikitext-2"
    folder.mkdir(parents=True)
    (folder / member_name("train")).write_text("train")
    sent = send_inputs("pretrain", pretrain("wikitext-2"), settings=shared, announce=quiet)
    assert sent.data.corpus == "wikitext-2"
    assert (Path(sent.data.path) / member_name("train")).read_text() == "train"


def test_what_the_nodes_see_stays_where_it_is(shared, data, tmp_path):
    config = finetune(data__path=str(data))
    names_it = replace(shared, shared_folders=(tmp_path / "mine",))
    in_storage = replace(shared, storage=str(tmp_path), shared_folders=(tmp_path,))
    one_machine = replace(shared, redis_url="unix:///tmp/redis.sock")
    for settings in (names_it, in_storage, one_machine):
        assert send_inputs("finetune", config, settings=settings, announce=quiet) == config


def test_more_than_is_sent_along_is_refused_before_anything_is_copied(shared, data, tmp_path):
    config = finetune(data__path=str(data))
    with pytest.raises(ConfigError) as raised:
        send_inputs("finetune", config, settings=replace(shared, max_upload_mb=1e-6), announce=quiet)
    assert raised.value.message.startswith(f"--data {data}: the nodes of the cluster cannot see it, and 0 MB")
    assert "BERTJOBS_SHARED_FOLDERS" in raised.value.hint
    assert "BERTJOBS_MAX_UPLOAD_MB" in raised.value.hint
    assert not (tmp_path / "storage").exists()


def test_a_storage_on_this_machine_alone_is_refused(shared, data):
    settings = replace(shared, storage=str(shared.home / "jobs"))
    with pytest.raises(
        ConfigError, match=r"which the nodes of a shared cluster cannot see.*BERTJOBS_STORAGE"
    ):
        send_inputs("finetune", finetune(data__path=str(data)), settings=settings, announce=quiet)


def test_a_pattern_and_a_corpus_for_an_object_store_are_refused(shared, data):
    with pytest.raises(ConfigError, match="patterns are not sent"):
        send_inputs("pretrain", pretrain(f"{data}/*.txt"), settings=shared, announce=quiet)
    bucket = replace(shared, storage="s3://bucket/jobs", shared_folders=())
    with pytest.raises(ConfigError, match="they read it from a folder"):
        send_inputs("pretrain", pretrain(str(data)), settings=bucket, announce=quiet)


def test_the_driver_fetches_from_an_object_store_once(shared, data, tmp_path, monkeypatch):
    bucket = f"mock-{tmp_path.name}"
    open_from_folder(monkeypatch, bucket, tmp_path / "bucket")
    settings = replace(shared, storage=f"s3://{bucket}/jobs", shared_folders=())
    sent = send_inputs("finetune", finetune(data__path=str(data)), settings=settings, announce=quiet)
    assert sent.data.path == f"s3://{bucket}/jobs/inputs/{content_key(data)}/snli_1.0"
    for _ in range(2):
        here = fetch_inputs(sent, storage=settings.storage, cache=tmp_path / "cache")
        assert (Path(here.data.path) / "sub" / "dev.jsonl").read_text() == "dev"
    assert [p.name for p in (tmp_path / "cache" / "inputs").iterdir()] == [content_key(data)]


def open_from_folder(monkeypatch: pytest.MonkeyPatch, bucket: str, folder: Path) -> None:
    """Let a folder stand in for a bucket, behind pyarrow's own interface."""
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    folder.mkdir()
    system = SubTreeFileSystem(str(folder), LocalFileSystem())
    monkeypatch.setattr(
        "bertjobs.storage.JobDir._filesystem", lambda self: (system, self.uri.removeprefix("s3://"))
    )
    (folder / bucket).mkdir()


def test_a_config_that_names_no_sent_file_is_left_as_it_is(shared, tmp_path):
    config = finetune(data__path="/data/snli")
    assert fetch_inputs(config, storage="/storage", cache=tmp_path) == config


@pytest.fixture
def bucket(shared, tmp_path, monkeypatch) -> Settings:
    """Return the settings of a cluster whose storage is an object store, here a folder."""
    name = f"mock-{tmp_path.name}"
    open_from_folder(monkeypatch, name, tmp_path / "bucket")
    return replace(shared, storage=f"s3://{name}/jobs", shared_folders=())


def upload_folder(settings: Settings, data: Path, tmp_path: Path) -> Path:
    """Return where the folder that stands in for the bucket has the upload."""
    return tmp_path / "bucket" / settings.storage.removeprefix("s3://") / "inputs" / content_key(data)


def test_half_an_upload_of_a_killed_submit_is_sent_again(bucket, data, tmp_path, monkeypatch):
    config = finetune(data__path=str(data))
    with monkeypatch.context() as patch:
        patch.setattr("bertjobs.storage.JobDir._upload", upload_one_file)
        with pytest.raises(KeyboardInterrupt):
            send_inputs("finetune", config, settings=bucket, announce=quiet)
    said: list[str] = []
    sent = send_inputs("finetune", config, settings=bucket, announce=said.append)
    assert said == [f"Sending {data} to {bucket.storage}/inputs/{content_key(data)}"]
    here = fetch_inputs(sent, storage=bucket.storage, cache=tmp_path / "cache")
    assert (Path(here.data.path) / "sub" / "dev.jsonl").read_text() == "dev"


def upload_one_file(self, scratch: Path, name: str) -> None:
    """Upload the first file, and be killed."""
    first = min(path for path in scratch.rglob("*") if path.is_file())
    fs, base = self._filesystem()
    fs.create_dir(f"{base}/{name}/{first.parent.name}", recursive=True)
    with fs.open_output_stream(f"{base}/{name}/{first.relative_to(scratch)}") as f:
        f.write(first.read_bytes())
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda folder: (folder / ".bertjobs-upload.json").unlink(), "the upload was interrupted"),
        (
            lambda folder: (folder / "snli_1.0" / "sub" / "dev.jsonl").unlink(),
            "snli_1.0/sub/dev.jsonl is missing",
        ),
        (
            lambda folder: (folder / "snli_1.0" / "snli_1.0_train.jsonl").write_text("tra"),
            "snli_1.0/snli_1.0_train.jsonl has 3 bytes of 5",
        ),
        (
            lambda folder: (folder / "snli_1.0" / "snli_1.0_train.jsonl").write_text("TRAIN"),
            "snli_1.0/snli_1.0_train.jsonl has another SHA-256 than the file that was sent",
        ),
        (
            lambda folder: (folder / ".bertjobs-upload.json").write_text("{"),
            "its list of files, .bertjobs-upload.json, cannot be read",
        ),
    ],
)
def test_an_upload_that_is_not_whole_is_not_used(bucket, data, tmp_path, damage, error):
    sent = send_inputs("finetune", finetune(data__path=str(data)), settings=bucket, announce=quiet)
    damage(upload_folder(bucket, data, tmp_path))
    if error == "the upload was interrupted":  # without a list, the key tells whether all is there
        (upload_folder(bucket, data, tmp_path) / "snli_1.0" / "sub" / "dev.jsonl").unlink()
    with pytest.raises(StorageError) as raised:
        fetch_inputs(sent, storage=bucket.storage, cache=tmp_path / "cache")
    assert raised.value.message == f"{bucket.storage}/inputs/{content_key(data)} is not whole: {error}"
    assert raised.value.hint.startswith("Submit the job again from the machine that has the files")
    assert not (tmp_path / "cache" / "inputs" / content_key(data)).exists()


def test_a_whole_upload_of_an_earlier_version_is_used(bucket, data, tmp_path):
    sent = send_inputs("finetune", finetune(data__path=str(data)), settings=bucket, announce=quiet)
    (upload_folder(bucket, data, tmp_path) / ".bertjobs-upload.json").unlink()
    here = fetch_inputs(sent, storage=bucket.storage, cache=tmp_path / "cache")
    assert (Path(here.data.path) / "sub" / "dev.jsonl").read_text() == "dev"


def test_a_shortened_file_in_a_shared_folder_is_noticed_and_sent_again(shared, data, tmp_path):
    config = finetune(data__path=str(data))
    sent = send_inputs("finetune", config, settings=shared, announce=quiet)
    file = Path(sent.data.path) / "sub" / "dev.jsonl"
    file.write_text("")
    with pytest.raises(StorageError, match=r"snli_1.0/sub/dev.jsonl has 0 bytes of 3"):
        fetch_inputs(sent, storage=shared.storage, cache=tmp_path / "cache")
    send_inputs("finetune", config, settings=shared, announce=quiet)
    assert file.read_text() == "dev"
    assert fetch_inputs(sent, storage=shared.storage, cache=tmp_path / "cache") == sent
