"""`bertjobs submit`: what reaches the queue, what is printed, and every bad input before Redis is touched."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bertjobs.jobs.job import State
from bertjobs.jobs.store.job_store import JobStore

Run = Callable[..., Result]
Drive = Callable[[str], Any]


@pytest.fixture
def snli(sample: Path) -> str:
    return str(sample / "snli_1.0")


@pytest.mark.redis
def test_the_id_alone_is_printed_and_the_job_waits_with_its_resolved_config(
    run: Run, store: JobStore, snli: str, home: Path
) -> None:
    result = run("submit", "finetune", "--preset", "demo", "--data", snli, "--lr", "3e-4", "--gpus", "8")
    assert result.exit_code == 0
    job = store.get(result.stdout.strip())
    assert result.stdout == f"{job.id}\n"
    assert (job.kind, job.state, job.storage) == ("finetune", State.QUEUED, str(home / "jobs"))
    assert job.resources == {"gpus": 8, "workers": None, "cpus_per_worker": None}
    assert job.config["optim"]["lr"] == 3e-4
    assert job.config["model"] | {"source": "tiny", "vocab_size": 512} == job.config["model"]


@pytest.mark.redis
def test_queue_options_reach_the_job(run: Run, store: JobStore, snli: str) -> None:
    first = run("submit", "finetune", "--data", snli).stdout.strip()
    result = run(
        *("submit", "finetune", "--data", snli, "--name", "mine", "--priority", "5", "--after", first),
        *("--hold", "--time-limit", "2h30m", "--max-retries", "2", "--idempotency-key", "k", "--json"),
    )
    document = json.loads(result.stdout)
    job = store.get(document["id"])
    assert document["state"] == "HELD"
    assert (job.name, job.priority, job.after, job.max_retries) == ("mine", 5, (first,), 2)
    assert (job.time_limit_s, job.idempotency_key) == (9000.0, "k")


@pytest.mark.redis
def test_a_known_idempotency_key_finds_its_first_job(run: Run, store: JobStore, snli: str) -> None:
    words = ("submit", "finetune", "--data", snli, "--idempotency-key", "nightly")
    first, second = run(*words), run(*words)
    assert first.stdout == second.stdout
    assert "This key was submitted before" in second.stderr
    assert len(store.list()) == 1


@pytest.mark.redis
def test_local_paths_are_made_absolute(
    run: Run, store: JobStore, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sample)
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n")
    task = tmp_path / "mine.yaml"
    task.write_text("columns: {text_a: sentence1, label: gold_label}\nlabels: [neutral, entailment]\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").symlink_to(sample / "snli_1.0")
    data = "rows/snli_1.0_train.jsonl"
    result = run(
        *("submit", "finetune", "--data", data, "--task", "mine.yaml", "--vocab", "vocab.txt"),
        *("--valid-split", "rows/snli_1.0_dev.jsonl"),
    )
    config = store.get(result.stdout.strip()).config
    assert config["data"]["path"] == str(tmp_path / data)
    assert config["data"]["valid_split"] == str(tmp_path / "rows/snli_1.0_dev.jsonl")
    assert (config["task"]["name"], config["model"]["vocab"]) == (str(task), str(vocab))


@pytest.mark.redis
@pytest.mark.parametrize("model", ["tiny", "google-bert/bert-base-uncased", "bert.small.torch.zip"])
def test_a_model_that_is_no_local_file_is_kept_as_given(
    run: Run, store: JobStore, snli: str, model: str
) -> None:
    result = run("submit", "finetune", "--data", snli, "--model", model)
    assert store.get(result.stdout.strip()).config["model"]["source"] == model


@pytest.mark.redis
def test_an_evaluation_waits_for_the_job_whose_model_it_takes(run: Run, store: JobStore, snli: str) -> None:
    model = run("submit", "finetune", "--data", snli).stdout.strip()
    result = run("submit", "evaluate", "--data", snli, "--model", model[:-2], "--split", "test")
    job = store.get(result.stdout.strip())
    assert (job.after, job.config["model"]["source"]) == ((model,), model)
    assert result.stderr == f"{model} has not ended; this job starts after it has succeeded.\n"


@pytest.mark.redis
def test_the_model_of_a_succeeded_job_is_taken_at_once(
    run: Run, store: JobStore, drive: Drive, snli: str
) -> None:
    model = run("submit", "finetune", "--data", snli).stdout.strip()
    driver = drive(model)
    driver.step(1)
    driver.end(State.SUCCEEDED)
    job = store.get(run("submit", "evaluate", "--data", snli, "--model", model).stdout.strip())
    assert job.after == ()


@pytest.mark.redis
def test_a_job_without_a_model_is_refused(run: Run, store: JobStore, snli: str) -> None:
    model = run("submit", "finetune", "--data", snli).stdout.strip()
    store.cancel(model)
    result = run("submit", "evaluate", "--data", snli, "--model", model)
    assert result.exit_code == 2
    assert f"--model {model}: {model} (finetune, CANCELLED) has no model\n" in result.stderr
    unknown = run("submit", "evaluate", "--data", snli, "--model", "j-zzz")
    assert unknown.exit_code == 2
    assert "There is no job j-zzz" in unknown.stderr
    assert len(store.list()) == 1


@pytest.mark.redis
def test_an_unknown_job_after_is_refused(run: Run, store: JobStore, snli: str) -> None:
    result = run("submit", "finetune", "--data", snli, "--after", "j-zzz")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "There is no job j-zzz" in result.stderr
    assert store.list() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "0"], "--lr: 0 is not allowed; expected a number > 0 and <= 1"),
        (["--lr", "-1"], "--lr: -1 is not allowed; expected a number > 0 and <= 1"),
        (["--max-len", "2"], "--max-len: 2 is not allowed; expected a whole number >= 8 and <= 8192"),
        (["--max-len", "600"], "--max-len 600: the model tiny has 512 positions\n"),
        (["--epochs", "many"], "--epochs: many is not allowed; expected a whole number >= 1"),
        (
            ["--truncation", "half"],
            "--truncation: half is not allowed; choose one of longest_first, only_first",
        ),
        (["--preset", "colla"], "--preset colla: finetune has no such preset"),
        (["--set", "optim.lrr=1"], "--set optim.lrr: finetune has no parameter optim.lrr"),
        (["--set", "optim.lr"], "--set optim.lr: expected a dotted path and a value"),
        (["--config", "nowhere.yaml"], "--config nowhere.yaml cannot be read: No such file or directory"),
        (["--decay-ratio", "0.3"], "--decay-ratio has no effect: only the wsd schedule uses it"),
        (
            ["--gpus", "2", "--workers", "3"],
            "--workers and --gpus: 3 workers need a GPU each, but there are 2",
        ),
        (["--gpus", "3", "--workers", "2"], "--gpus and --workers: 3 GPUs cannot be shared evenly among 2"),
        (["--model", "org/name", "--vocab-size", "99"], "--vocab-size has no effect: pretrained weights"),
        (["--task", "sli"], "--task sli: there is no such task"),
        (["--task", "nowhere.yaml"], "--task nowhere.yaml cannot be read: No such file or directory"),
        (["--data", "nowhere"], "--data nowhere: there is no such file or folder\n"),
        (["--vocab", "nowhere.txt"], "--vocab nowhere.txt: there is no such file or folder\n"),
        (["--model", "./nowhere"], "--model ./nowhere: there is no such file or folder\n"),
        (
            ["--model", "bert"],
            "--model bert is not a file, a folder, a job id, a size or a name on the hub",
        ),
        (["--valid-split", "nowhere.jsonl"], "--split nowhere.jsonl: there is no such file"),
        (["--priority", "1001"], "Invalid value for '--priority': 1001 is not in the range"),
        (["--time-limit", "soon"], "Invalid value for '--time-limit': soon is not a duration"),
        (
            ["--time-limit", "0"],
            "Invalid value for '--time-limit': 0 is not allowed; it must be more than 0 seconds",
        ),
        (["--max-retries", "-1"], "Invalid value for '--max-retries': -1 is not in the range"),
    ],
)
def test_a_bad_input_exits_2_before_redis_is_touched(
    run: Run, snli: str, words: list[str], message: str
) -> None:
    data = [] if "--data" in words else ["--data", snli]
    result = run("submit", "finetune", *data, *words)  # no Redis listens in this test
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--valid-ratio", "0.2"], "error: --valid-ratio has no effect: "),
        (["--set", "data.split_seed=3"], "error: --set data.split_seed has no effect: "),
        (["--valid-ratio", "0.2", "--split-seed", "3"], "       --split-seed has no effect: "),
    ],
)
@pytest.mark.parametrize("kind", ["finetune", "tune"])
def test_how_to_hold_rows_out_is_refused_where_there_is_a_development_file(
    run: Run, snli: str, kind: str, words: list[str], message: str
) -> None:
    result = run("submit", kind, "--data", snli, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{message}{snli}/snli_1.0_dev.jsonl is there to validate on\n" in result.stderr
    assert "give data without a development file" in result.stderr


@pytest.mark.redis
@pytest.mark.parametrize("words", [["--preset", "cola"], ["--task", "cola", "--valid-ratio", "0.2"]])
def test_how_to_hold_rows_out_is_accepted_where_rows_are_held_out(
    run: Run, store: JobStore, sample: Path, words: list[str]
) -> None:
    result = run("submit", "finetune", *words, "--data", str(sample / "cola_public"), "--model", "tiny")
    assert result.exit_code == 0, result.stderr


@pytest.mark.redis
def test_a_preset_may_say_how_to_hold_rows_out_beside_a_development_file(
    run: Run, store: JobStore, snli: str
) -> None:
    result = run(
        "submit", "finetune", "--preset", "cola", "--task", "snli", "--data", snli, "--model", "tiny"
    )
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("kind", ["finetune", "evaluate"])
def test_a_truncation_for_pairs_is_refused_for_single_texts(run: Run, sample: Path, kind: str) -> None:
    words = ("--task", "cola", "--data", str(sample / "cola_public"), "--model", "org/name")
    split = ("--split", "in_domain_dev") if kind == "evaluate" else ()
    result = run("submit", kind, *words, *split, "--truncation", "ratio")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "error: --truncation has no effect: the task cola has single texts, which ratio cuts as "
        "longest_first does\n"
        " hint: Leave it out, or give head_tail.\n"
    )


@pytest.mark.redis
def test_a_truncation_that_cuts_single_texts_differently_is_accepted(
    run: Run, store: JobStore, sample: Path
) -> None:
    words = ("--task", "cola", "--data", str(sample / "cola_public"), "--truncation", "head_tail")
    result = run("submit", "finetune", *words)
    assert store.get(result.stdout.strip()).config["text"]["truncation"] == "head_tail"


@pytest.mark.parametrize("kind", ["finetune", "evaluate"])
def test_more_tokens_than_a_local_model_has_positions_are_refused(
    run: Run, snli: str, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"max_position_embeddings": 64}')
    result = run("submit", kind, "--data", snli, "--model", str(folder), "--max-len", "65")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--max-len 65: the model {folder} has 64 positions\n" in result.stderr
    assert "Give `--max-len 64` or less, or another `--model`." in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--model is required"),
        (
            ["--model", "tiny"],
            "--model tiny: evaluate needs a trained model, and tiny is only the size of a new one",
        ),
        (
            ["--model", "org/name", "--split", "tset"],
            "--split tset: there is no such file, and it is not a split",
        ),
        (["--model", "org/name", "--lr", "1"], "No such option '--lr'."),
    ],
)
def test_a_bad_evaluation_exits_2(run: Run, snli: str, words: list[str], message: str) -> None:
    result = run("submit", "evaluate", "--data", snli, *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize("kind", ["finetune", "evaluate"])
def test_a_missing_data_set_says_how_to_get_it(run: Run, kind: str) -> None:
    result = run("submit", kind, "--task", "cola", *(["--model", "a/b"] if kind == "evaluate" else []))
    assert result.exit_code == 2
    assert "No data was given for cola, and none has been downloaded" in result.stderr
    assert "Run `bertjobs data get cola`, or give a folder or zip (--data)." in result.stderr


def test_redis_that_is_down_is_said_with_what_to_do(run: Run, snli: str) -> None:
    result = run("submit", "finetune", "--data", snli)
    assert result.exit_code == 2
    assert "cannot be reached" in result.stderr
    assert "BERTJOBS_REDIS_URL" in result.stderr


def test_one_address_without_the_other_is_refused(
    run: Run, snli: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BERTJOBS_RAY_ADDRESS")
    result = run("submit", "finetune", "--data", snli)
    assert result.exit_code == 2
    assert "BERTJOBS_REDIS_URL is set and BERTJOBS_RAY_ADDRESS is not" in result.stderr


@pytest.mark.parametrize("command", ["submit", "run"])
def test_both_ways_to_work_take_the_same_flags(run: Run, command: str) -> None:
    for kind in ("finetune", "evaluate"):
        assert "--batch-size INT" in run(command, kind, "--help").stdout


def test_run_hands_the_located_config_to_its_room(
    run: Run, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bertjobs.runs.foreground

    seen: dict[str, Any] = {}

    def work(
        kind: str, config: Any, *, output: str | None, settings: Any, announce: Callable[[str], None]
    ) -> dict[str, Any]:
        announce("starting")
        seen.update(kind=kind, config=config, output=output, home=settings.home)
        metrics = {"accuracy": 0.5, "labels": ("no", "yes")}  # what is nested is for programs
        return {"metrics": metrics, "artifacts": {"dir": "/there", "plots": []}}

    monkeypatch.setattr(bertjobs.runs.foreground, "run", work)
    words = ("run", "finetune", "--data", str(sample / "snli_1.0"), "--lr", "1e-3", "--output", "out")
    result = run(*words)
    assert result.exit_code == 0
    assert (seen["kind"], seen["output"], seen["config"].optim.lr) == ("finetune", "out", 1e-3)
    assert result.stdout == "  accuracy  0.5\n  dir  /there\n"
    assert result.stderr == "starting\n"
    assert json.loads(run(*words, "--json").stdout)["metrics"] == {
        "accuracy": 0.5,
        "labels": ["no", "yes"],
    }
    assert run("run", "finetune", "--data", "nowhere").exit_code == 2


@pytest.mark.redis
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--task", "squad", "--truncation", "ratio"),
            "--truncation has no effect: the contexts of squad are cut into windows",
        ),
        (
            ("--task", "squad", "--max-len", "64", "--doc-stride", "61"),
            "--doc-stride 61: windows of --max-len 64 have no room for more than this overlap",
        ),
        (("--task", "squad", "--null-threshold", "0"), "--null-threshold has no effect: every question"),
        (("--task", "snli", "--doc-stride", "8"), "--doc-stride has no effect: snli has no contexts"),
        (("--task", "snli", "--n-best", "8"), "--n-best has no effect: snli does not look for answers"),
    ],
)
def test_values_about_windows_and_answers_are_refused_where_they_have_no_effect(
    run: Run, store: JobStore, sample: Path, flags: tuple[str, ...], message: str
) -> None:
    data = sample / ("squad" if "squad" in flags else "snli_1.0")
    result = run("submit", "finetune", "--data", str(data), *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert store.list() == []


@pytest.mark.redis
def test_questions_are_submitted_with_what_their_windows_and_answers_need(
    run: Run, store: JobStore, sample: Path
) -> None:
    result = run(
        *("submit", "finetune", "--preset", "squad-v2", "--data", str(sample / "squad"), "--model", "tiny"),
        *("--max-answer-tokens", "9", "--null-threshold", "-1.5"),
    )
    config = store.get(result.stdout.strip()).config
    assert config["task"] == {
        "name": "squad_v2",
        "n_best": 20,
        "max_answer_tokens": 9,
        "null_threshold": -1.5,
    }
    assert (config["text"]["max_len"], config["text"]["doc_stride"]) == (384, 128)
