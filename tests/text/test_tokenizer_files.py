"""The fast path against the whole-text tokenizer, and vocabulary files in and out."""

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer

from bertjobs.errors import ModelError
from bertjobs.text.datasets.sample import write_sample
from bertjobs.text.tokenizer import Tokenizer, WordPieceTokenizer, WordTokenizer
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
SPICE = st.sampled_from(
    [
        *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2028", "\u3000", "\u200b", "\x00", "\x07", "\ufffd"),
        *(
            "[MASK]",
            "[CLS]",
            "[SEP]",
            "[PAD]",
            "[UNK]",
            "[MASK",
            "##s",
            "...",
            "-",
            "'",
            "#",
            "word",
            "Words",
        ),
        *(
            "中",
            "日本",
            "é",
            "e\u0301",
            "\u0301",
            "İ",
            "ΣΣ",
            "ﬁ",
            "Ⅷ",
            "한국어",
            "👩\u200d👩\u200d👧",
            "\ud7ff",
            "x" * 101,
        ),
    ]
)
TEXTS = st.lists(st.one_of(SPICE, st.text(max_size=8)), max_size=12).map("".join)


@pytest.fixture(scope="module")
def trained() -> WordPieceTokenizer:
    return train_wordpiece(CORPUS, vocab_size=400)


def whole_text_ids(tokenizer: WordPieceTokenizer, text: str) -> list[int]:
    return tokenizer._fast.encode(text, add_special_tokens=False).ids


def lists(encoded: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
    ids, offsets = encoded
    return [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]


def assert_equal_to_whole_text(tokenizer: WordPieceTokenizer, texts: list[str]) -> None:
    assert tokenizer.is_local_to_spaces
    found = lists(tokenizer.encode_column(pa.array(texts, pa.string())))
    assert found == [whole_text_ids(tokenizer, text) for text in texts]


@given(texts=st.lists(TEXTS, max_size=6))
def test_chunks_give_the_ids_of_the_whole_text(trained: WordPieceTokenizer, texts: list[str]) -> None:
    assert_equal_to_whole_text(trained, texts)


@given(texts=st.lists(TEXTS, max_size=6))
def test_a_cased_vocabulary_gives_the_ids_of_the_whole_text(
    cased: WordPieceTokenizer, texts: list[str]
) -> None:
    assert_equal_to_whole_text(cased, texts)


@pytest.fixture(scope="module")
def cased(tmp_path_factory: pytest.TempPathFactory) -> WordPieceTokenizer:
    words = sorted({w for text in CORPUS for w in text.split()} | set("".join(CORPUS)) - {" "})
    folder = tmp_path_factory.mktemp("cased")
    pieces = [*BERT_SPECIALS.values(), *words, *(f"##{w}" for w in words)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(folder / "vocab.txt")
    assert isinstance(tokenizer, WordPieceTokenizer)
    return tokenizer


def test_a_bare_vocabulary_with_capitals_is_taken_as_cased(
    cased: WordPieceTokenizer, trained: WordPieceTokenizer
) -> None:
    assert cased.token_strings(cased.encode("Two women")) == ["Two", "women"]
    assert trained.encode("Two women") == trained.encode("two WOMEN")


@pytest.mark.minilm
@given(texts=st.lists(TEXTS, max_size=6))
def test_the_real_vocabulary_gives_the_ids_of_the_whole_text(
    real: WordPieceTokenizer, texts: list[str]
) -> None:
    assert_equal_to_whole_text(real, texts)


@pytest.fixture(scope="module")
def real(minilm: Path) -> Tokenizer:
    return load_tokenizer(minilm)


@pytest.mark.minilm
def test_a_length_limit_in_the_file_is_not_obeyed(real: Tokenizer) -> None:
    ids, offsets = real.encode_column(pa.array(["word " * 500, "word"]))
    assert np.diff(offsets).tolist() == [500, 1]
    assert ids.dtype == np.uint16


def test_a_column_in_chunks_slices_and_with_nulls_is_encoded_in_place(trained: WordPieceTokenizer) -> None:
    column = pa.chunked_array([["skip", "A man"], [None, "runs  fast", ""]]).slice(1)
    expected = [trained.encode(text) for text in ("A man", "", "runs  fast", "")]
    assert lists(trained.encode_column(column)) == expected
    assert lists(trained.encode_column(pa.array(["skip", "A man"]).slice(1))) == expected[:1]


def test_an_empty_column_has_no_rows(trained: WordPieceTokenizer) -> None:
    ids, offsets = trained.encode_column(pa.array([], pa.string()))
    assert (len(ids), offsets.tolist()) == (0, [0])


@pytest.mark.parametrize(
    "added",
    [
        AddedToken("new york", normalized=False),
        AddedToken("<m>", lstrip=True, normalized=False),
        AddedToken("<m>", rstrip=True, normalized=False),
        AddedToken("man", single_word=True, normalized=False),
    ],
    ids=["with a space", "lstrip", "rstrip", "single word"],
)
def test_added_tokens_that_reach_across_spaces_take_the_whole_text(added: AddedToken) -> None:
    fast = FastTokenizer.from_str(train_wordpiece(CORPUS, vocab_size=400)._fast.to_str())
    fast.add_tokens([added])
    tokenizer = WordPieceTokenizer(fast, BERT_SPECIALS)
    assert not tokenizer.is_local_to_spaces
    texts = ["a man in new york", "a <m> man", "manner of man"]
    found = lists(tokenizer.encode_column(pa.array(texts)))
    assert found == [whole_text_ids(tokenizer, text) for text in texts]


def test_ids_are_uint16_until_the_vocabulary_outgrows_it(tmp_path: Path) -> None:
    for num_pieces, dtype in ((65_536, np.uint16), (65_537, np.int32)):
        words = [*BERT_SPECIALS.values(), *(f"w{i}" for i in range(num_pieces - 5))]
        (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
        tokenizer = load_tokenizer(tmp_path)
        assert tokenizer.vocab_size == num_pieces
        ids, _ = tokenizer.encode_column(pa.array([words[-1]]))
        assert ids.tolist() == [num_pieces - 1]
        assert ids.dtype == dtype


def test_saved_files_open_in_transformers_and_here_alike(trained: WordPieceTokenizer, tmp_path: Path) -> None:
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


def test_training_gives_special_tokens_the_first_numbers(trained: WordPieceTokenizer) -> None:
    assert (trained.pad_id, trained.unk_id, trained.cls_id, trained.sep_id, trained.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert trained.vocab_size <= 400
    assert trained.token_strings([0, 1, 2, 3, 4]) == list(BERT_SPECIALS.values())


def test_training_learns_whole_words_from_the_sample(tmp_path: Path) -> None:
    train = write_sample(tmp_path)[0]
    texts = [json.loads(line)["sentence1"] for line in train.read_text().splitlines()]
    tokenizer = train_wordpiece(texts, vocab_size=400)
    assert tokenizer.token_strings(tokenizer.encode("A horse is running.")) == [
        "a",
        "horse",
        "is",
        "running",
        ".",
    ]
    assert tokenizer.unk_id not in tokenizer.encode_column(pa.array(texts))[0]


@pytest.mark.parametrize("vocab_size", [64, 100])
def test_a_small_vocabulary_stays_within_its_size(vocab_size: int) -> None:
    assert train_wordpiece(CORPUS, vocab_size=vocab_size).vocab_size <= vocab_size


def test_training_does_not_depend_on_the_process(tmp_path: Path) -> None:
    write_sample(tmp_path)
    program = (
        "import sys, json; from bertjobs.text.vocabulary import train_wordpiece;"
        "rows = [json.loads(line) for line in open(sys.argv[1])];"
        "texts = [row[k] for row in rows for k in ('sentence1', 'sentence2')];"
        "print(train_wordpiece(texts, vocab_size=300).fingerprint)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "snli_1.0" / "snli_1.0_train.jsonl")]
    found = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(3)}
    assert len(found) == 1


def test_a_tokenizer_travels_to_another_process(trained: WordPieceTokenizer) -> None:
    copy = pickle.loads(pickle.dumps(trained))
    assert copy.fingerprint == trained.fingerprint
    assert copy.encode("A man") == trained.encode("A man")


D2L_WORDS = ["<unk>", "<pad>", "<mask>", "<cls>", "<sep>", "a", "man", "is", "n't", ".", "@-@"]


@pytest.fixture
def d2l(tmp_path: Path) -> Tokenizer:
    (tmp_path / "vocab.json").write_text(json.dumps(D2L_WORDS))
    return load_tokenizer(tmp_path)


@given(
    words=st.lists(
        st.one_of(st.sampled_from([*D2L_WORDS, "MAN", "Is"]), st.from_regex(r"[^\W_]+", fullmatch=True))
    )
)
def test_d2ls_words_are_lower_case_and_whole(words: list[str]) -> None:
    """Where punctuation stands apart, as in d2l's own data, this is d2l's `tokenize` and lookup."""
    text = " ".join(words)
    expected = [D2L_WORDS.index(w) if w in D2L_WORDS else 0 for w in text.lower().split()]
    assert lists(WordTokenizer(D2L_WORDS).encode_column(pa.array([text], pa.string()))) == [expected]


@given(texts=st.lists(TEXTS, max_size=6))
def test_d2ls_chunks_give_the_ids_of_the_whole_text(texts: list[str]) -> None:
    tokenizer = WordTokenizer(D2L_WORDS)
    assert lists(tokenizer.encode_column(pa.array(texts, pa.string()))) == tokenizer._encode(texts)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("A man.", ["a", "man", "."]),
        ("isn't", ["is", "n't"]),
        ("man's", ["man", "<unk>"]),
        ('"man".', ["<unk>", "man", "<unk>", "."]),
        ("@-@ @", ["@-@", "<unk>"]),
        ("...", ["<unk>"]),
        ("man-made", ["<unk>"]),
        ("a.", ["a", "."]),
    ],
)
def test_punctuation_at_d2ls_words_is_looked_up_by_itself(text: str, tokens: list[str]) -> None:
    tokenizer = WordTokenizer(D2L_WORDS)
    assert tokenizer.token_strings(tokenizer.encode(text)) == tokens


def test_d2ls_vocabulary_is_found_saved_and_found_again(d2l: Tokenizer, tmp_path: Path) -> None:
    assert (d2l.unk_id, d2l.pad_id, d2l.mask_id, d2l.cls_id, d2l.sep_id) == (0, 1, 2, 3, 4)
    assert d2l.token_strings(d2l.encode("A Man <unk> xyz .")) == ["a", "man", "<unk>", "<unk>", "."]
    (tmp_path / "again").mkdir()
    d2l.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint == d2l.fingerprint


def test_a_setting_decides_over_the_look_of_a_vocabulary(tmp_path: Path) -> None:
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
def test_a_file_that_is_no_vocabulary_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert refused(tmp_path / name).startswith(message)
