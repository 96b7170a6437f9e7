"""Vocabulary files: opened, saved, and what is said of files that are none."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bertjobs.errors import ModelError
from bertjobs.text.tokenizer import Tokenizer, WordPieceTokenizer
from bertjobs.text.tokenizer_files import BERT_SPECIALS, load_tokenizer
from bertjobs.text.vocabulary import train_wordpiece

CORPUS = [
    "A man is running in a park, isn't he?",
    "Two women are embracing while holding to-go packages.",
    "Café naïve Ångström Üben señor",
    "日本語 の テキスト 中文字符",
    "Привет мир ΣΊΣΥΦΟΣ İstanbul straße",
    "100% of $5.00 + 3/4 = [MASK] #hash_tag",
]


@pytest.fixture(scope="module")
def trained() -> WordPieceTokenizer:
    return train_wordpiece(CORPUS, vocab_size=400)


@pytest.fixture(scope="module")
def cased(tmp_path_factory: pytest.TempPathFactory) -> WordPieceTokenizer:
    words = sorted({w for text in CORPUS for w in text.split()} | set("".join(CORPUS)) - {" "})
    folder = tmp_path_factory.mktemp("cased")
    pieces = [*BERT_SPECIALS.values(), *words, *(f"##{w}" for w in words)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(folder / "vocab.txt")
    assert isinstance(tokenizer, WordPieceTokenizer)
    return tokenizer


def test_a_vocab_txt_with_capitals_is_cased(cased: WordPieceTokenizer, trained: WordPieceTokenizer) -> None:
    assert cased.token_strings(cased.encode("Two women")) == ["Two", "women"]
    assert trained.encode("Two women") == trained.encode("two WOMEN")


def test_saved_files_open_in_transformers_and_here_with_the_same_ids(
    trained: WordPieceTokenizer, tmp_path: Path
) -> None:
    trained.save(tmp_path)
    written = {"tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"}
    assert {path.name for path in tmp_path.iterdir()} == written
    theirs = AutoTokenizer.from_pretrained(str(tmp_path))
    assert load_tokenizer(tmp_path).fingerprint == trained.fingerprint
    from_vocab = load_tokenizer(tmp_path / "vocab.txt")
    for text in CORPUS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == trained.encode(text)
        assert from_vocab.encode(text) == trained.encode(text)
    pair = theirs("A man", "he runs")
    assert pair["input_ids"][0] == trained.cls_id
    assert pair["input_ids"][-1] == trained.sep_id
    assert sorted(set(pair["token_type_ids"])) == [0, 1]
    assert (theirs.pad_token_id, theirs.mask_token_id, theirs.unk_token_id) == (
        trained.pad_id,
        trained.mask_id,
        trained.unk_id,
    )


D2L_WORDS = ["<unk>", "<pad>", "<mask>", "<cls>", "<sep>", "a", "man", "is", "n't", ".", "@-@"]


@pytest.fixture
def d2l(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.json").write_text(json.dumps(D2L_WORDS))
    return load_tokenizer(tmp_path)


def test_d2ls_vocabulary_is_found_saved_and_found_again(d2l: Tokenizer, tmp_path: Path) -> None:
    assert (d2l.unk_id, d2l.pad_id, d2l.mask_id, d2l.cls_id, d2l.sep_id) == (0, 1, 2, 3, 4)
    assert d2l.token_strings(d2l.encode("A Man <unk> xyz .")) == ["a", "man", "<unk>", "<unk>", "."]
    (tmp_path / "again").mkdir()
    d2l.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint == d2l.fingerprint


def test_a_setting_of_case_wins_over_the_words_of_the_vocabulary(tmp_path: Path) -> None:
    pieces = [*BERT_SPECIALS.values(), "Two", "two"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    assert load_tokenizer(tmp_path).encode("Two") == [5]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_tokenizer(tmp_path).encode("Two") == [6]


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as e:
        load_tokenizer(path)
    return str(e.value).replace(f"{path}", "PATH")


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        "PATH has no vocabulary (tokenizer.json, vocab.txt, or d2l's vocab.json). "
        "Give the folder of a complete checkpoint (--model), or a vocabulary file (--vocab)."
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b'{"model": ', "PATH is damaged: Expecting value"),
        ("tokenizer.json", b'{"model": {}}', "PATH is not a tokenizer that the `tokenizers`"),
        ("vocab.json", b'{"a": 1}', "PATH is neither a tokenizer.json nor a d2l vocab.json"),
        ("vocab.json", b'["a", "b"]', "The vocabulary lacks the token '<cls>'."),
        ("vocab.txt", b"one\ntwo\n", "PATH is not a vocabulary: it has 2 lines."),
        ("vocab.txt", b"a\nb\nc\nd\ne\nf\ng\n", "PATH lacks the unk token '[UNK]', so it is not a WordPiece"),
        ("vocab.txt", b"[UNK]\nb\nc\nd\ne\nf\ng\n", "The vocabulary lacks its pad token '[PAD]'."),
        ("vocab.txt", b"\xff\xfe\x00", "PATH cannot be read: 'utf-8' codec can't decode"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_vocabulary_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(message)
