"""`bertjobs encode` and `bertjobs fill-mask`: what they print, and how they refuse."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from bertjobs.cli.main import main
from bertjobs.modeling import BertConfig, build_pretraining, save_pretrained
from bertjobs.text.vocabulary import train_wordpiece

Run = Callable[..., Result]

FLYING, DRIVER = "a crane is flying", "a crane driver came|he just left"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random weights with a vocabulary, as a job leaves them."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_wordpiece([FLYING, DRIVER], vocab_size=80)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    save_pretrained(build_pretraining(config, seed=0), folder)
    tokenizer.save(folder)
    return str(folder)


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def test_the_leading_numbers_of_a_word_differ_between_two_texts(run: Run, model: str) -> None:
    result = run("encode", FLYING, DRIVER, "--model", model, "--token", "crane")
    assert (result.exit_code, result.stderr) == (0, "")
    assert FLYING in result.stdout
    assert "[CLS] a crane is flying [SEP]" in result.stdout
    words = re.findall(
        r"^  crane +2 +\(16,\) +(-?[\d.]+) +(-?[\d.]+) +(-?[\d.]+) \.\.\.$", result.stdout, re.M
    )
    assert len(words) == 2
    assert words[0] != words[1]


def test_one_json_document_holds_all_vectors(run: Run, model: str) -> None:
    document = json.loads(run("encode", FLYING, "--model", model, "--token", "crane", "--json").stdout)
    assert document["dim"] == 16
    (text,) = document["texts"]
    assert [(v["token"], v["position"], len(v["vector"])) for v in text["vectors"]] == [
        ("[CLS]", 0, 16),
        ("crane", 2, 16),
    ]


def test_texts_come_from_stdin_too(model: str) -> None:
    lines = b"\xef\xbb\xbfa crane\nhe left\n"
    result = CliRunner().invoke(main, ["encode", FLYING, "-", "--model", model, "--json"], input=lines)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [text["text"] for text in json.loads(result.stdout)["texts"]] == [FLYING, "a crane", "he left"]
    broken = CliRunner().invoke(main, ["encode", "-", "--model", model], input=b"a\n\xff\n")
    assert broken.exit_code == 2
    assert "stdin, line 2: byte 0xff is not UTF-8\n" in broken.stderr


def test_another_separator_leaves_bars_alone(run: Run, model: str) -> None:
    words = ("encode", "a crane => he|left", "--model", model, "--pair-separator", "=>", "--json")
    (text,) = json.loads(run(*words).stdout)["texts"]
    assert text["tokens"].count("[SEP]") == 2


def test_an_output_file_holds_the_vectors_and_its_name_is_the_answer(
    run: Run, model: str, in_empty_folder: Path
) -> None:
    result = run("encode", FLYING, DRIVER, "--model", model, "--output", "x.npy")
    assert result.stdout == f"{in_empty_folder / 'x.npy'}\n"
    assert np.load(in_empty_folder / "x.npy").shape == (2, 16)


def test_masks_are_filled_with_probabilities(run: Run, model: str) -> None:
    result = run("fill-mask", "a [MASK] is <mask>", "--model", model, "--top-k", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "mask 1, at 2" in result.stdout
    assert len(re.findall(r"^  \S+ +\d+\.\d\d%$", result.stdout, re.M)) == 4
    document = json.loads(run("fill-mask", "a [MASK]", "--model", model, "--json").stdout)
    (mask,) = document["texts"][0]["masks"]
    assert len(mask["predictions"]) == 5
    assert mask["predictions"][0].keys() == {"token", "probability"}


@pytest.mark.usefixtures("in_empty_folder")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode"], "--model is required"),
        (["encode", "--model", "MODEL"], "No text was given"),
        (["encode", "", "--model", "MODEL"], "The text '' is empty"),
        (["encode", "a|b|c", "--model", "MODEL"], "The text 'a|b|c' has 2 separators '|'; a pair has one"),
        (["encode", "a|", "--model", "MODEL"], "The second half of the text 'a|' is empty"),
        (["encode", "-", "-", "--model", "MODEL"], "`-` was given twice"),
        (
            ["encode", "he left", "--model", "MODEL", "--token", "crane"],
            "--token crane does not occur in",
        ),
        (["encode", "a", "--model", "./none"], "--model ./none: there is no such file or folder\n"),
        (["encode", "a", "--model", "j-none"], "--model j-none: that job has no model at"),
        (
            ["encode", "a", "--model", "tiny"],
            "--model tiny: encode needs a trained model, and tiny is only the size of a new one",
        ),
        (["encode", "a", "--model", "MODEL", "--max-len", "64"], "--max-len 64: the model"),
        (["encode", "a", "--model", "MODEL", "--max-len", "2"], "--max-len: 2 is not allowed"),
        (["encode", "a", "--model", "MODEL", "--pooling", "max"], "--pooling: max is not allowed"),
        (["encode", "a", "--model", "MODEL", "--pair-separator", ""], "--pair-separator: '' is not allowed"),
        (["encode", "a", "--model", "MODEL", "-o", "x.csv"], "--output x.csv: .csv is not a known format"),
        (
            ["encode", "a", "--model", "MODEL", "-o", "no/x.npy"],
            "--output no/x.npy: its folder does not exist",
        ),
        (["encode", "a", "--model", "MODEL", "-o", "x.npy", "--json"], "--output and --json exclude each"),
        (["fill-mask", "--model", "MODEL"], "No text was given"),
        (["fill-mask", "a crane", "--model", "MODEL"], "The text 'a crane' has no mask"),
        (["fill-mask", "a [MASK]", "--model", "MODEL", "--top-k", "0"], "0 is not in the range x>=1"),
        (
            ["fill-mask", "a [MASK]", "--model", "MODEL", "--top-k", "9999"],
            "--top-k 9999: the vocabulary",
        ),
        (["submit", "encode", "--model", "MODEL", "--data", "none.txt"], "--data none.txt: there is no such"),
        (["submit", "encode", "--data", "."], "--model is required"),
    ],
)
def test_a_bad_request_exits_2_and_says_what_is_wrong(
    run: Run, model: str, words: list[str], message: str
) -> None:
    result = run(*[model if word == "MODEL" else word for word in words])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert message in result.stderr


def test_a_cut_text_is_said_on_stderr(run: Run, model: str) -> None:
    result = run("encode", "a crane " * 20, "--model", model, "--max-len", "8")
    assert result.exit_code == 0
    assert "is truncated to 8 (--max-len)" in result.stderr
