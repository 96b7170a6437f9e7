"""Shell completion: through click's interface, as the scripts of the shells ask, and in a real bash."""

import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bertjobs.cli import completion
from bertjobs.cli.main import COMPLETE_VARIABLE, main
from bertjobs.cli.shells import OurBash, OurFish, OurZsh
from bertjobs.config import load_config
from bertjobs.errors import QueueError
from bertjobs.jobs.job import Job, State
from bertjobs.jobs.store.job_store import JobStore
from bertjobs.runs.tune.trial_records import Search, Trial, write_trial


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Redis may take longer than a person would wait."""
    monkeypatch.setattr(completion, "PATIENCE_S", 60.0)


def complete(*words: str, shell: type = OurBash) -> dict[str, str | None]:
    """Return what can stand in place of the last word, with its help."""
    items = shell(main, {}, "bertjobs", COMPLETE_VARIABLE).get_completions(list(words[:-1]), words[-1])
    return {item.value: item.help for item in items if item.type == "plain"}


def ask_bash(line: str, monkeypatch: pytest.MonkeyPatch, *, tab: str = "9") -> list[str]:
    """Return the lines that the script of bash reads when Tab is pressed at the end of a line."""
    values = {"COMP_LINE": line, "COMP_POINT": str(len(line.encode())), "COMP_TYPE": tab}
    for name, value in {**values, "COMP_WORDBREAKS": " \t\n\"'><=;|&(:"}.items():
        monkeypatch.setenv(name, value)
    return OurBash(main, {}, "bertjobs", COMPLETE_VARIABLE).complete().splitlines()


def submit(store: JobStore, name: str, *, kind: str = "finetune", storage: str = "/none", **more: Any) -> Job:
    config = load_config(kind).model_dump(mode="json")
    return store.submit(kind, config, storage=storage, resources={}, name=name, **{"user": "ada", **more})[0]


@pytest.mark.redis
def test_job_ids_come_with_state_kind_and_name(store: JobStore) -> None:
    first, second = submit(store, "long \x1b[31mred"), submit(store, "next", hold=True)
    assert complete("status", "") == {
        second.id: "HELD finetune next",
        first.id: "QUEUED finetune long  [31mred",
    }
    assert complete("status", first.id[:-1] + "?") == {}
    assert complete("cancel", first.id, "") == {second.id: "HELD finetune next"}  # once per line


@pytest.mark.redis
def test_a_command_offers_the_jobs_that_it_can_change(store: JobStore, drive: Callable[[str], Any]) -> None:
    failed, held, queued = submit(store, "a"), submit(store, "b", hold=True), submit(store, "c")
    drive(failed.id).end(State.FAILED, reason="TrainingError")
    offered = {
        command: set(complete(command, ""))
        for command in ("retry", "release", "hold", "cancel", "wait", "logs", "trials")
    }
    assert offered == {
        "retry": {failed.id},
        "release": {held.id},
        "hold": {queued.id},
        "cancel": {held.id, queued.id},
        "wait": {held.id, queued.id},
        "logs": {failed.id, held.id, queued.id},
        "trials": set(),
    }
    assert set(complete("submit", "finetune", "--after", "")) == {held.id, queued.id}


@pytest.mark.redis
def test_from_trial_offers_searches_and_after_a_colon_their_trials(store: JobStore, home: Path) -> None:
    search, _ = submit(store, "lr", kind="tune", storage=str(home / "jobs")), submit(store, "other")
    Search(metric="accuracy", space={}, algorithm="random", stopper="none", num_trials=2).write(
        search.job_dir
    )
    for number in (1, 2):
        write_trial(search.job_dir, Trial(number=number, values={"optim.lr": number * 1e-4}, config={}))
    assert complete("submit", "finetune", "--from-trial", "") == {search.id: "QUEUED tune lr"}
    assert complete("submit", "finetune", "--from-trial", f"{search.id}:") == {
        f"{search.id}:1": "running optim.lr=0.0001",
        f"{search.id}:2": "running optim.lr=0.0002",
    }


@pytest.mark.redis
def test_users_and_models_come_from_the_queue(store: JobStore) -> None:
    job = submit(store, "base", user="bob")
    evaluation = submit(store, "scores", kind="tune", user="ada")
    assert set(complete("list", "--user", "")) == {"ada", "bob"}
    models = complete("submit", "evaluate", "--model", "")
    assert models[job.id] == "QUEUED finetune base"
    assert models["tiny"] == "random weights"
    assert evaluation.id in models


def test_parameters_of_the_kind_and_their_values() -> None:
    assert "Peak learning rate" in str(complete("submit", "finetune", "--set", "optim.l")["optim.lr="])
    assert "objective.pairs=" in complete("submit", "pretrain", "--set", "obj")
    assert complete("submit", "finetune", "--set", "obj") == {}
    assert set(complete("submit", "finetune", "--set", "optim.schedule=c")) == {
        "optim.schedule=cosine",
        "optim.schedule=constant",
    }
    assert set(complete("tune", "--space", "optim.lr=")) == {
        f"optim.lr={kind}:" for kind in ("choice", "uniform", "loguniform", "randint")
    }
    assert set(complete("submit", "finetune", "--truncation", "only")) == {"only_first", "only_second"}
    assert "--lr" in complete("submit", "finetune", "--l")


def test_presets_and_tasks_by_name() -> None:
    assert complete("submit", "finetune", "--preset", "hf") == {
        "hf-trainer": "Fine-tune with the recipe of the Hugging Face Trainer, exactly"
    }
    assert "squad_v2" in complete("submit", "finetune", "--task", "squ")
    assert list(complete("presets", "show", "snli")) == ["snli", "snli-d2l"]


def test_bash_gets_the_part_after_its_own_word_breaks_and_no_blank_after_an_equals_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ask_bash("bertjobs submit finetune --set optim.schedule=w", monkeypatch) == ["plain,wsd"]
    assert ask_bash("bertjobs submit finetune --set=optim.schedule=w", monkeypatch) == ["plain,wsd"]
    assert ask_bash("bertjobs submit finetune --schedule=w", monkeypatch) == ["plain,wsd"]
    assert ask_bash("bertjobs submit finetune --set optim.schedul", monkeypatch) == [
        "nospace,",
        "plain,optim.schedule=",
    ]
    assert ask_bash("bertjobs submit finetune --vocab x", monkeypatch) == ["file,"]


def test_bash_shows_help_where_it_lists_and_inserts_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "bertjobs submit finetune --preset snli"
    listed = ask_bash(line, monkeypatch)
    assert listed[0] == "plain,snli      (Fine-tune BERT base on SNLI)"
    assert ask_bash(line, monkeypatch, tab="37") == ["plain,snli", "plain,snli-d2l"]


@pytest.mark.parametrize("shell", [OurZsh, OurFish])
def test_other_shells_get_the_whole_word(shell: type) -> None:
    words = ("submit", "finetune", "--schedule=w")
    assert set(complete(*words, shell=shell)) == {"--schedule=wsd"}


def test_without_a_queue_nothing_is_offered_printed_or_started(home: Path) -> None:
    line = "bertjobs status "
    environ = {k: v for k, v in os.environ.items() if k not in ("BERTJOBS_REDIS_URL", "BERTJOBS_RAY_ADDRESS")}
    asked = {COMPLETE_VARIABLE: "bash_complete", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    for redis in ({}, {"BERTJOBS_REDIS_URL": "redis://127.0.0.1:1", "BERTJOBS_RAY_ADDRESS": "http://x:1"}):
        done = subprocess.run(
            [sys.executable, "-m", "bertjobs"], env=environ | asked | redis, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
    assert not home.exists()


def test_a_queue_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion, "PATIENCE_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        monkeypatch.setenv("BERTJOBS_REDIS_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}")
        assert complete("status", "") == {}


def test_a_look_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()

    def hang(**_: object) -> None:
        is_over.wait(60)
        raise QueueError("too late")

    monkeypatch.setattr(completion, "PATIENCE_S", 0.01)
    monkeypatch.setattr("bertjobs.cli.context.open_running_queue", hang)
    assert complete("status", "") == {}
    assert not is_over.is_set()
    is_over.set()


def test_completion_imports_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from bertjobs.cli.main import main; from bertjobs.cli.shells import OurBash\n"
        "OurBash(main, {}, 'bertjobs', '').get_completions(['submit', 'finetune', '--model'], '')\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'ray', 'numpy', 'pyarrow'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_valid(run: Callable[..., Result], shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"{COMPLETE_VARIABLE}={shell}_complete" in result.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=result.stdout, text=True, check=True)


@pytest.mark.redis
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_tab_in_a_real_bash(store: JobStore, run: Callable[..., Result], tmp_path: Path) -> None:
    job = submit(store, "the-only-one")
    script = tmp_path / "bertjobs.bash"
    script.write_text(run("completion", "bash").stdout)
    program = tmp_path / "bin" / "bertjobs"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nfrom bertjobs.cli import completion\nfrom bertjobs.cli.main import main\n"
        "completion.PATIENCE_S = 60.0\nmain()\n"
    )
    program.chmod(0o755)
    environ = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PS1": "> ", "TERM": "dumb"}
    environ["PYTHONPATH"] = str(Path(completion.__file__).parents[2])
    with _Terminal(["bash", "--norc", "--noprofile", "-i"], environ) as terminal:
        terminal.type(f"source {script}\n")
        terminal.type("echo [bertjobs status \t")
        terminal.wait_for(re.escape("echo [bertjobs status "))
        terminal.type("\x15bertjobs status \t")
        terminal.wait_for(f"bertjobs status {job.id} ")
        terminal.type("\x15bertjobs submit finetune --set optim.schedule=ws\t")
        terminal.wait_for("--set optim.schedule=wsd ")
        terminal.type("\x15bertjobs submit finetune --preset snli\t\t")
        terminal.wait_for(r"snli      \(Fine-tune BERT base on SNLI\)")


class _Terminal:
    """A program on a pseudo-terminal."""

    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        self._fd, self._shown = ours, ""
        self._process = subprocess.Popen(
            argv, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)

    def __enter__(self) -> "_Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._fd)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait_for(self, pattern: str) -> None:
        """Read until the pattern has been shown since the last one."""
        give_up_at = time.monotonic() + 60
        while (found := re.search(pattern, self._shown)) is None:
            assert time.monotonic() < give_up_at, f"{pattern} was not shown, but {self._shown!r}"
            if select.select([self._fd], [], [], 1)[0]:
                self._shown += os.read(self._fd, 4096).decode(errors="replace")
        self._shown = self._shown[found.end() :]
