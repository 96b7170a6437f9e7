"""`submit pretrain`: every wrong request is refused before Redis is touched, with what to do."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from bertjobs.jobs.store.job_store import JobStore

Run = Callable[..., Result]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.txt"
    path.write_text("A crane is flying. A driver came.\n")
    return str(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask-ratio", "0"], "--mask-ratio: 0 is not allowed; expected a number > 0 and <= 1"),
        (["--mask-ratio", "1.2"], "--mask-ratio: 1.2 is not allowed; expected a number > 0 and <= 1"),
        (["--mask-token-ratio", "0.5"], "must add up to 1, but add up to 0.7"),
        (["--max-steps", "0"], "--max-steps: 0 is not allowed; expected a whole number >= 1, or nothing"),
        (["--max-tokens", "0"], "--max-tokens: 0 is not allowed; expected a whole number >= 1, or nothing"),
        (["--max-time-s", "0"], "--max-time-s: 0 is not allowed; expected a number > 0, or nothing"),
        (["--epochs", "0"], "--epochs: 0 is not allowed; expected a whole number >= 1"),
        (
            ["--max-steps", "9", "--max-tokens", "9"],
            "--max-steps and --max-tokens: a run has one budget: steps, tokens, time or epochs",
        ),
        (["--max-steps", "9", "--epochs", "2"], "--epochs has no effect: another budget sets the length"),
        (["--max-len", "600"], "--max-len 600: the model tiny has 512 positions\n"),
        (["--corpus", "nowhere"], "--corpus nowhere: there is no such corpus, file or folder with text"),
        (["--valid", "nowhere"], "--valid nowhere: there is no such file or folder with text"),
        (["--vocab", "nowhere"], "--vocab nowhere: there is no such file or folder\n"),
        (["--pairs", "none", "--segments", "sentence"], "--segments has no effect: without pairs"),
        (
            ["--vocab-kind", "word", "--vocab-size", "99"],
            "--vocab-size has no effect: a vocabulary of whole words",
        ),
        (["--vocab-min-count", "9"], "--vocab-min-count has no effect: only a vocabulary of whole words"),
        (["--preset", "cola"], "--preset cola: pretrain has no such preset"),
        (["--task", "snli"], "No such option '--task'."),
    ],
)
def test_a_bad_input_exits_2_before_redis_is_touched(
    run: Run, corpus: str, words: list[str], message: str
) -> None:
    given = [] if "--corpus" in words else ["--corpus", corpus]
    result = run("submit", "pretrain", *given, *words)  # no Redis listens in this test
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_published_corpus_that_is_not_there_says_how_to_get_it(run: Run, tmp_path: Path) -> None:
    result = run("submit", "pretrain", "--corpus", "wikitext-2", "--data", str(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"wikitext-2: wiki.train.tokens is not in {tmp_path}" in result.stderr
    assert "Run `bertjobs data get wikitext-2`" in result.stderr


@pytest.mark.redis
def test_a_corpus_is_queued_with_its_whole_path(
    run: Run, store: JobStore, corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(corpus).parent)
    result = run("submit", "pretrain", "--corpus", "corpus.txt", "--valid", "*.txt")
    assert result.exit_code == 0
    job = store.get(result.stdout.strip())
    assert job.kind == "pretrain"
    assert job.config["data"]["corpus"] == corpus
    assert job.config["data"]["valid"] == str(Path(corpus).with_name("*.txt"))
