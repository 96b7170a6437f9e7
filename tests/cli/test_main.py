"""The entry point: what it imports, how it fails, and its exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bertjobs.cli.main import COMMANDS, main
from bertjobs.errors import BertjobsError, ConfigError, QueueError, RunError

HEAVY = {"torch", "ray", "pyarrow", "numpy", "pandas", "matplotlib", "transformers", "tokenizers"}
MODULES = sorted({place.partition(":")[0] for rows in COMMANDS.values() for place, _ in rows.values()})


def imported_by(*words: str) -> set[str]:
    """Return the top-level packages in memory after a command."""
    program = (
        "import json, sys\nfrom bertjobs.cli.main import main\n"
        f"try: main({list(words)!r})\nexcept SystemExit: pass\n"
        "print('\\n' + json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_imports_click_and_nothing_else_from_outside() -> None:
    imported = imported_by("--help")
    outside = {name for name in imported if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert outside - {"sitecustomize", "distutils-precedence"} <= {"bertjobs", "click", "__main__"}


@pytest.mark.parametrize(
    ("words", "also_not"),
    [
        (("list",), {"pydantic", "yaml", "rich", "opentelemetry"}),
        (("status", "j-1"), {"pydantic", "yaml", "rich"}),
        (("cancel", "j-1"), {"pydantic", "yaml", "rich"}),
        (("submit", "finetune", "--help"), {"redis", "rich"}),
        (("submit", "finetune", "--lr", "0"), {"redis", "rich"}),
        (("encode", "a", "--model", "./none"), {"redis", "rich"}),
        (("cluster", "status"), {"rich", "pydantic"}),
        (("presets", "list"), {"redis", "rich"}),
    ],
)
def test_a_command_imports_only_what_it_uses(words: tuple[str, ...], also_not: set[str]) -> None:
    assert imported_by(*words) & (HEAVY | also_not) == set()


@pytest.mark.parametrize("module", MODULES)
def test_the_module_of_a_command_imports_nothing_heavy(module: str) -> None:
    program = f"import json, sys, bertjobs.cli.{module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert imported & (HEAVY | {"redis", "rich"}) == set()


def test_every_command_of_the_table_exists_and_its_line_is_its_help() -> None:
    rows = [(name, line) for commands in COMMANDS.values() for name, (_, line) in commands.items()]
    assert len(rows) == 28
    for name, line in rows:
        command = main.commands[name]
        assert command.name == name
        assert command.help, name
        assert line.endswith("."), name
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0


def test_help_shows_every_command_under_its_section() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    for section, commands in COMMANDS.items():
        assert f"{section}:" in output
        for name in commands:
            assert f"  {name} " in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sbmit"], "No such command 'sbmit'. Did you mean 'submit'?"),
        (["submit", "finetun"], "No such command 'finetun'. Did you mean 'finetune'?"),
        (["submit", "finetune", "--lrr", "1"], "No such option '--lrr'. Did you mean '--lr'?"),
        (["status"], "Missing argument 'JOB'\n"),
        (["list", "--limit", "0"], "Invalid value for '--limit': 0 is not in the range x>=1\n"),
        (["list", "--state", "RUNING"], "'RUNING' is not one of"),
        (["list", "--all", "--limit", "3"], "--limit and --all exclude each other\n"),
    ],
)
def test_a_wrong_word_exits_2_and_says_where_to_look(words: list[str], message: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert "--help` shows its options." in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("no"), 2), (QueueError("no"), 2), (RunError("no"), 1), (BertjobsError("no"), 1)],
)
def test_our_errors_become_a_message_and_the_exit_code_of_their_class(
    error: BertjobsError, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    error.hint = "Do this."

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("bertjobs.cli.context.ensure", lambda *_, **__: fail())
    result = CliRunner().invoke(main, ["list"])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "error: no\n hint: Do this.\n"


def test_a_second_line_of_a_message_stands_under_the_first() -> None:
    result = CliRunner().invoke(main, ["submit", "finetune", "--lr", "0", "--epochs", "0"])
    assert result.stderr == (
        "error: --lr: 0 is not allowed; expected a number > 0 and <= 1\n"
        "       --epochs: 0 is not allowed; expected a whole number >= 1\n"
    )


def test_no_command_shows_the_help_and_exits_2() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: bertjobs")


def test_an_interrupted_command_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bertjobs.cli.context.ensure", interrupt)
    result = CliRunner().invoke(main, ["list"])
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_a_reader_that_goes_away_leaves_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bertjobs", "presets", "show", "cola", "--resolved"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_the_version_is_printed() -> None:
    assert CliRunner().invoke(main, ["--version"]).output == "0.1.0\n"
