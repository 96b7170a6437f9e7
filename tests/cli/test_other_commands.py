"""`data`, `presets`, `cluster`, `run`: each calls its room and prints what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from bertjobs.cli.output.formatting import TransferLine
from bertjobs.errors import DownloadError

Run = Callable[..., Result]


def test_the_sample_is_written_and_its_files_are_named(run: Run, tmp_path: Path) -> None:
    result = run("data", "sample", str(tmp_path / "here"))
    files = [Path(line) for line in result.stdout.splitlines()]
    assert len(files) == 8
    assert all(file.is_file() for file in files)
    assert "--preset demo" in result.stderr


def test_a_sample_that_cannot_be_written_exits_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("data", "sample", str(tmp_path / "file" / "here"))
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr


def test_inspect_shows_labels_lengths_and_cuts_of_every_split(run: Run, sample: Path) -> None:
    result = run("data", "inspect", "--data", str(sample / "snli_1.0"), "--max-len", "16")
    assert result.exit_code == 0
    for part in (
        "train: 600 rows",
        "dev: 144 rows (dropped: 6 no gold label)",
        "test: 150 rows",
        "entailment",
    ):
        assert part in result.stdout
    assert result.stdout.count("Cut at 16:") == 3
    assert "longest_first" in result.stdout


def test_inspect_as_json_keeps_the_splits_apart(run: Run, sample: Path) -> None:
    data = str(sample / "cola_public")
    result = run("data", "inspect", "--task", "cola", "--data", data, "--json")
    document = json.loads(result.stdout)
    assert list(document) == ["train", "dev", "out_of_domain_dev"]
    one = run("data", "inspect", "--task", "cola", "--data", data, "--split", "in_domain_dev", "--json")
    assert json.loads(one.stdout)["in_domain_dev"] == document["dev"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "there is no such folder or file"),
        (["--task", "sli"], "--task sli: there is no such task"),
        (["--split", "tset", "--data", "."], "--split tset: there is no such file"),
        ([], "Run `bertjobs data get snli`"),
    ],
)
def test_inspect_of_what_is_not_there_exits_2(run: Run, words: list[str], message: str) -> None:
    result = run("data", "inspect", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_get_prints_where_the_file_is(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str, *, cache: Path, base_url: str | None, progress: Any) -> Path:
        progress(5 << 20, 10 << 20)
        progress(10 << 20, 10 << 20)
        return cache / f"{name}.zip"

    monkeypatch.setattr("bertjobs.text.datasets.download.get", get)
    result = run("data", "get", "cola")
    assert result.stdout == f"{home}/cache/cola.zip\n"
    assert result.stderr == "cola:  50% of 10.0 MiB\ncola: 100% of 10.0 MiB\n"


def test_get_without_a_network_exits_2(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str, **_: Any) -> Path:
        raise DownloadError(f"{name} cannot be downloaded: no route.", hint="Put it there yourself.")

    monkeypatch.setattr("bertjobs.text.datasets.download.get", get)
    result = run("data", "get", "snli")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith("no route.\n hint: Put it there yourself.\n")
    assert run("data", "get", "mnli").exit_code == 2


def test_a_download_of_unknown_size_says_a_line_per_ten_mebibytes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = TransferLine("x")
    for mebibytes in range(1, 25):
        line(mebibytes << 20, None)
    assert capsys.readouterr().err.splitlines() == ["x: 1.0 MiB", "x: 10.0 MiB", "x: 20.0 MiB"]


def test_presets_are_listed_with_what_they_are_for(run: Run) -> None:
    lines = run("presets", "list").stdout.splitlines()
    names = {tuple(line.split()[:2]) for line in lines}
    assert {("KIND", "PRESET"), ("pretrain", "wikitext-2-d2l"), ("finetune", "cola")} <= names
    documents = json.loads(run("presets", "list", "--json").stdout)
    assert len(documents) == len(lines) - 1
    cola = next(d for d in documents if (d["kind"], d["name"]) == ("finetune", "cola"))
    assert cola["help"].startswith("Fine-tune BERT base on CoLA by its published recipe")


def test_a_shown_preset_is_a_config_file(run: Run, tmp_path: Path, sample: Path) -> None:
    shown = run("presets", "show", "cola").stdout
    assert shown.startswith("# Fine-tune BERT base on CoLA")
    resolved = json.loads(run("presets", "show", "cola", "--resolved").stdout)
    assert resolved["data"]["split_seed"] == 2018
    missing = run("presets", "show", "colla")
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "Did you mean cola?" in missing.stderr


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTJOBS_REDIS_URL")
    monkeypatch.delenv("BERTJOBS_RAY_ADDRESS")


@pytest.mark.usefixtures("embedded")
def test_the_status_of_a_stack_that_is_off_starts_nothing(run: Run, home: Path) -> None:
    result = run("cluster", "status")
    assert result.exit_code == 1
    assert "state      off" in result.stdout
    assert [line.split()[:2] for line in result.stdout.splitlines()[-4:]] == [
        ["redis", "off"],
        ["ray", "off"],
        ["dispatcher", "off"],
        ["watchdog", "off"],
    ]
    assert json.loads(run("cluster", "status", "--json").stdout)["home"] == str(home)
    assert not home.exists()


@pytest.mark.usefixtures("embedded")
def test_without_a_stack_there_is_nothing_to_stop_and_no_dashboard(run: Run) -> None:
    down = run("cluster", "down")
    assert (down.exit_code, down.stdout, down.stderr) == (0, "", "Nothing was running.\n")
    dashboard = run("cluster", "dashboard")
    assert (dashboard.exit_code, dashboard.stdout) == (2, "")
    assert "`bertjobs cluster up` starts it." in dashboard.stderr


def test_a_shared_stack_is_not_stopped_from_here(run: Run) -> None:
    result = run("cluster", "down")
    assert result.exit_code == 2
    assert "shared Redis and Ray, which are not stopped from here" in result.stderr


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
