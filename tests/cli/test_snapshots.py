"""What every command prints, compared with a file under `snapshots/`: exit code, stdout and stderr.

A file is rewritten by `pytest tests/cli/test_snapshots.py --update-snapshots`; read the difference before you
commit it. Width, time zone, user, job ids and times are fixed here, and folders of this machine are replaced
by a name in capitals, so that a file is the same on every machine.
"""

import itertools
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from bertjobs import __version__
from bertjobs.cli.main import main
from bertjobs.cli.output import render
from bertjobs.jobs.job import Job, JobSummary, State
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.modeling import BertConfig, build_pretraining, save_pretrained
from bertjobs.text.vocabulary import train_wordpiece
from task_models import TASKS, write_model
from three_trials import submit_search

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDTH = 100
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Check = Callable[[str, str], None]


@pytest.fixture
def check(
    request: pytest.FixtureRequest, tmp_path: Path, sample: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Check]:
    """Run a command line and compare it with a snapshot: `check("list", "list --all")`."""
    monkeypatch.setenv("LOGNAME", "ada")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.chdir(tmp_path)
    folders = {str(sample): "SAMPLE", str(home): "HOME", str(tmp_path): "TMP"}

    def compare(name: str, line: str) -> None:
        words = [str(sample) + word.removeprefix("SAMPLE") if word.startswith("SAMPLE") else word
                 for word in shlex.split(line)]  # fmt: skip
        result = CliRunner().invoke(main, words, catch_exceptions=False, terminal_width=WIDTH)
        text = f"$ bertjobs {line}\nexit code {result.exit_code}\n"
        for stream, content in (("stdout", result.stdout), ("stderr", result.stderr)):
            if content:
                text += f"--- {stream}\n{content}"
        # The last digits of a computed number are the processor's.
        text = re.sub(r"\b0\.\d{7,}", lambda number: f"{float(number[0]):.6f}", text)
        for folder, word in (folders | {f'"version": "{__version__}"': '"version": "VERSION"'}).items():
            text = text.replace(folder, word)
        file = SNAPSHOTS / f"{name}.txt"
        if request.config.getoption("--update-snapshots"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        assert file.exists(), f"{file} is missing: run with --update-snapshots"
        assert text == file.read_text(encoding="utf-8")

    yield compare
    monkeypatch.undo()
    time.tzset()


def command_paths(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from command_paths(found, *path, name)


@pytest.mark.parametrize("path", list(command_paths(main)), ids=lambda path: "-".join(path) or "bertjobs")
def test_the_help_of_a_command(check: Check, path: tuple[str, ...]) -> None:
    check(f"help/{'-'.join(path) or 'bertjobs'}", " ".join([*path, "--help"]))


FINETUNE = "submit finetune --data SAMPLE/snli_1.0"
ERRORS = {
    "unknown-command": "sbmit",
    "unknown-kind": "submit finetun",
    "unknown-flag": "submit finetune --lrr 1",
    "missing-job": "status",
    "limit-range": "list --limit 0",
    "prioritize-range": "prioritize j-1 --priority 1001",
    "top-in-a-pipe": "top",
    "unknown-state": "list --state RUNING",
    "all-and-limit": "list --all --limit 3",
    "mine-and-user": "list --mine --user bob",
    "csv-and-json": "trials j-1 --csv --json",
    "limit-usage": "cluster limit --gpus 3",
    "down-of-a-shared-stack": "cluster down",
    "redis-is-down": "list",
    "lr": f"{FINETUNE} --lr 0",
    "two-values": f"{FINETUNE} --lr 0 --epochs 0",
    "choice": f"{FINETUNE} --truncation half",
    "preset": f"{FINETUNE} --preset colla",
    "set-unknown": f"{FINETUNE} --set optim.lrr=1",
    "set-without-value": f"{FINETUNE} --set optim.lr",
    "config-file": f"{FINETUNE} --config nowhere.yaml",
    "no-effect": f"{FINETUNE} --decay-ratio 0.3",
    "workers-without-gpus": f"{FINETUNE} --gpus 2 --workers 3",
    "uneven-gpus": f"{FINETUNE} --gpus 3 --workers 2",
    "max-len": f"{FINETUNE} --max-len 600",
    "task": f"{FINETUNE} --task sli",
    "data": "submit finetune --data nowhere",
    "vocab": f"{FINETUNE} --vocab nowhere.txt",
    "model-path": f"{FINETUNE} --model ./nowhere",
    "model-name": f"{FINETUNE} --model bert",
    "time-limit": f"{FINETUNE} --time-limit soon",
    "time-limit-zero": f"{FINETUNE} --time-limit 0",
    "priority": f"{FINETUNE} --priority 1001",
    "no-model": "submit evaluate --data SAMPLE/snli_1.0",
    "untrained-model": "submit evaluate --data SAMPLE/snli_1.0 --model tiny",
    "split": "submit evaluate --data SAMPLE/snli_1.0 --model a/b --split tset",
    "data-not-downloaded": "submit finetune --task cola",
    "from-trial": f"{FINETUNE} --from-trial j-1:x",
    "space": "tune --data SAMPLE/snli_1.0 --space optim.lr=uniform:1,0",
    "corpus": "submit pretrain --corpus nowhere",
    "two-budgets": "submit pretrain --max-steps 9 --max-tokens 9",
    "unknown-preset": "presets show colla",
    "mixed-flags": "data inspect --document file",
    "encode-file-and-json": "encode a --model SAMPLE -o x.npy --json",
    "stdin-twice": "encode - - --model SAMPLE",
    "predict-text-and-data": "predict a --model SAMPLE --data x.csv",
    "predict-limit-of-texts": "predict a --model SAMPLE --limit 2",
    "predict-file-and-json": "predict a --model SAMPLE -o x.csv --json",
    "predict-format": "predict a --model SAMPLE -o x.txt",
    "predict-no-data": "submit predict --model SAMPLE",
    "predict-no-files": "submit predict --model SAMPLE --data SAMPLE/snli_1.0/none.csv",
}


@pytest.mark.parametrize("name", list(ERRORS))
def test_an_error(check: Check, name: str) -> None:
    check(f"errors/{name}", ERRORS[name])


class _Noon(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return NOON


@pytest.fixture
def queue(store: JobStore, home: Path, drive: Any, monkeypatch: pytest.MonkeyPatch) -> JobStore:
    """A real queue of four jobs; only their ids and times are made up, on the way out of Redis."""
    numbers = itertools.count(1)
    monkeypatch.setattr("bertjobs.jobs.store.job_store.new_job_id", lambda: f"j-1t4k7wx{next(numbers):02d}")

    def submit(kind: str, name: str, data: dict[str, Any], user: str = "ada") -> str:
        config = {"task": {"name": "snli"}, "data": data}
        return store.submit(
            kind, config, storage=str(home / "jobs"), resources={"gpus": 1}, name=name, user=user
        )[0].id

    done, failed = submit("evaluate", "tested", {"split": "test"}), submit("finetune", "nan", {})
    running = submit("finetune", "long", {"valid_split": None}, user="bob")
    submit("finetune", "next", {})
    drive(done).end(State.SUCCEEDED, metrics={"accuracy": 0.8125}, artifacts={"dir": f"{home}/jobs/{done}"})
    drive(failed).end(State.FAILED, reason="TrainingError", message="The loss is nan at step 3")
    drive(running).step(3)

    def dated(job: Any) -> Any:
        start, end = NOON - timedelta(minutes=30), NOON - timedelta(minutes=20)
        attempts = tuple(
            replace(a, claimed_at=start, started_at=a.started_at and start, ended_at=a.ended_at and end)
            for a in getattr(job, "attempts", ())
        )
        if attempts:
            job = replace(job, attempts=attempts)
        return replace(
            job,
            submitted_at=NOON - timedelta(hours=1),
            started_at=job.started_at and start,
            ended_at=job.ended_at and end,
        )

    get, list_, events = JobStore.get, JobStore.list, JobStore.events

    def dated_get(self: JobStore, job_id: str) -> Job:
        return dated(get(self, job_id))  # type: ignore[no-any-return]

    def dated_list(self: JobStore, **given: Any) -> list[JobSummary]:
        return [dated(job) for job in list_(self, **given)]

    def dated_events(self: JobStore, job_id: str) -> list[Any]:
        found = events(self, job_id)
        return [replace(e, at=NOON - timedelta(minutes=60 - n)) for n, e in enumerate(found)]

    monkeypatch.setattr(JobStore, "get", dated_get)
    monkeypatch.setattr(JobStore, "list", dated_list)
    monkeypatch.setattr(JobStore, "events", dated_events)
    monkeypatch.setattr(render, "datetime", _Noon)
    return store


ON_THE_QUEUE = {
    "list": "list",
    "list-limit": "list --limit 2",
    "list-none": "list --state held",
    "status-succeeded": "status j-1t4k7wx01",
    "status-failed": "status j-1t4k7wx02",
    "status-running": "status j-1t4k7wx03",
    "status-waiting": "status j-1t4k7wx04",
    "status-unknown": "status j-nobody",
    "wait-succeeded": "wait j-1t4k7wx01",
    "wait-failed": "watch j-1t4k7wx02",
    "cancel": "cancel j-1t4k7wx04",
    "cancel-ended": "cancel j-1t4k7wx01",
    "hold": "hold j-1t4k7wx04",
    "release-not-held": "release j-1t4k7wx04",
    "retry": "retry j-1t4k7wx02",
    "prioritize": "prioritize j-1t4k7wx04 --priority 5",
    "prioritize-running": "prioritize j-1t4k7wx03 --priority 5",
    "logs-none": "logs j-1t4k7wx04",
    "logs-attempt": "logs j-1t4k7wx02 --attempt 3",
    "plot-nothing": "plot j-1t4k7wx01",
    "plot-waiting": "plot j-1t4k7wx04 -o x.png",
    "trials-not-a-search": "trials j-1t4k7wx01",
    "limit-none": "cluster limit carol",
    "limit": "cluster limit ada --gpus 8",
    "drain": "cluster drain",
    "undrain": "cluster undrain",
    "clean-nothing": "cluster clean",
    "dashboard-waiting": "cluster dashboard j-1t4k7wx04",
    "submit": FINETUNE,
    "submit-evaluate-of-a-waiting-job": "submit evaluate --data SAMPLE/snli_1.0 --model j-1t4k7wx04",
    "list-json": "list --json",
    "status-json": "status j-1t4k7wx01 --json",
    "status-waiting-json": "status j-1t4k7wx04 --json",
    "wait-json": "wait j-1t4k7wx02 --json",
    "cancel-json": "cancel j-1t4k7wx04 --json",
    "limit-json": "cluster limit ada --gpus 8 --json",
}


@pytest.mark.redis
@pytest.mark.parametrize("name", list(ON_THE_QUEUE))
def test_an_answer_about_the_queue(check: Check, queue: JobStore, name: str) -> None:
    check(f"queue/{name}", ON_THE_QUEUE[name])


ON_A_SEARCH = {
    "trials": "trials j-1t4k7wx05",
    "trials-csv": "trials j-1t4k7wx05 --csv",
    "status-search": "status j-1t4k7wx05",
    "submit-from-trial": f"{FINETUNE} --from-trial j-1t4k7wx05:1 --gpus 0",
    "unknown-trial": f"{FINETUNE} --from-trial j-1t4k7wx05:9",
}


@pytest.mark.redis
@pytest.mark.parametrize("name", list(ON_A_SEARCH))
def test_an_answer_about_a_search(check: Check, queue: JobStore, home: Path, name: str) -> None:
    submit_search(queue, storage=str(home / "jobs"))
    check(f"queue/{name}", ON_A_SEARCH[name])


OTHERS = {
    "data-sample": "data sample here",
    "data-inspect": "data inspect --data SAMPLE/snli_1.0 --split dev",
    "data-inspect-corpus": "data inspect --corpus SAMPLE/corpus/valid.tokens",
    "presets-list": "presets list",
    "presets-show": "presets show demo",
    "version": "--version",
    "cluster-status-of-a-shared-stack": "cluster status",
}


@pytest.mark.parametrize("name", list(OTHERS))
def test_an_answer_without_the_queue(check: Check, name: str) -> None:
    check(f"other/{name}", OTHERS[name])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose numbers are exact on every processor: weights of 0, so that only two biases are left."""
    tokenizer = train_wordpiece(["a crane is flying", "he left"], vocab_size=60)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=16,
    )  # fmt: skip
    model = build_pretraining(config, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.bert.encoder.layer[0].output.LayerNorm.bias.copy_(torch.arange(8) / 4)
        model.cls.predictions.bias.copy_(torch.arange(tokenizer.vocab_size) / 8)
    save_pretrained(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    return tmp_path / "model"


WITH_A_MODEL = {
    "encode": "encode 'a crane is flying' 'a crane|he left' --model model --token crane",
    "encode-json": "encode 'he left' --model model --json",
    "encode-cut": "encode 'a crane is flying a crane is flying' --model model --max-len 8",
    "encode-file": "encode 'he left' --model model -o x.npy",
    "encode-no-such-token": "encode 'he left' --model model --token crane",
    "fill-mask": "fill-mask 'a [MASK] is <mask>' --model model --top-k 2",
    "fill-mask-json": "fill-mask 'a [MASK] is flying' --model model --top-k 2 --json",
    "fill-mask-no-mask": "fill-mask 'a crane' --model model",
}


@pytest.mark.parametrize("name", list(WITH_A_MODEL))
def test_an_answer_of_a_model(check: Check, model: Path, name: str) -> None:
    check(f"model/{name}", WITH_A_MODEL[name])


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A classifier whose probabilities are exact on every processor: all weights are 0."""
    folder = write_model(tmp_path / "classifier", TASKS["rte"])
    weights = load_file(folder / "model.safetensors")
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_file(zeros, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "rows.csv").write_text("sentence1,sentence2,n\na crane,he left,1\nthe tower,a joy,2\n")
    (tmp_path / "broken.csv").write_text("sentence1,n\na crane,1\n")
    return folder


WITH_A_CLASSIFIER = {
    "predict": "predict 'a crane|he left' --model classifier",
    "predict-all": "predict 'a crane|he left' 'the tower|a joy' --model classifier --all",
    "predict-lines": "predict 'a crane|he left' 'the tower|a joy' --model classifier",
    "predict-json": "predict 'a crane' --text-pair 'he left' --model classifier --json --all",
    "predict-data": "predict --data rows.csv --model classifier",
    "predict-file": "predict --data rows.csv --model classifier -o out.csv",
    "predict-column": "predict --data broken.csv --model classifier",
    "predict-no-pair": "predict 'a crane' --model classifier",
    "predict-context": "predict 'a crane' --context 'he left' --model classifier",
}


@pytest.mark.parametrize("name", list(WITH_A_CLASSIFIER))
def test_an_answer_of_a_classifier(check: Check, classifier: Path, name: str) -> None:
    check(f"model/{name}", WITH_A_CLASSIFIER[name])
