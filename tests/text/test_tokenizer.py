"""The fast path compared with the tokenizer on whole texts, and d2l's words."""

import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from bertjobs.text.tokenizer import Tokenizer, WordPieceTokenizer, WordTokenizer
from bertjobs.text.tokenizer_files import BERT_SPECIALS, bert_tokenizer, load_tokenizer
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


@given(texts=st.lists(TEXTS, max_size=6))
def test_chunks_give_the_characters_of_the_whole_text(trained: WordPieceTokenizer, texts: list[str]) -> None:
    encoded = trained.encode_with_characters(pa.array(texts, pa.string()))
    whole = [trained._fast.encode(text, add_special_tokens=False) for text in texts]
    assert lists((encoded.ids, encoded.offsets)) == [e.ids for e in whole]
    spans = list(zip(encoded.char_starts.tolist(), encoded.char_ends.tolist(), strict=True))
    assert spans == [span for e in whole for span in e.offsets]


def test_characters_of_a_tokenizer_that_looks_across_spaces_are_those_of_the_whole_text() -> None:
    fast = FastTokenizer.from_str(train_wordpiece(CORPUS, vocab_size=400)._fast.to_str())
    fast.add_tokens([AddedToken("new york", normalized=False)])
    encoded = WordPieceTokenizer(fast, BERT_SPECIALS).encode_with_characters(pa.array(["in new york", "a"]))
    assert encoded.char_starts.tolist()[-2:] == [3, 0]
    assert encoded.char_ends.tolist()[-2:] == [11, 1]


def test_characters_of_a_column_with_nulls_and_slices_begin_at_each_text(trained: WordPieceTokenizer) -> None:
    column = pa.chunked_array([["skip it", "A man"], [None, "  a man"]]).slice(1)
    encoded = trained.encode_with_characters(column)
    spans = zip(encoded.char_starts.tolist(), encoded.char_ends.tolist(), strict=True)
    texts = ["A man", "", "  a man"]
    pieces = [
        "".join(texts[row][a:b] for a, b in itertools.islice(spans, count))
        for row, count in enumerate(np.diff(encoded.offsets))
    ]
    assert pieces == ["Aman", "", "aman"]


@pytest.fixture(scope="module")
def cased(tmp_path_factory: pytest.TempPathFactory) -> WordPieceTokenizer:
    words = sorted({w for text in CORPUS for w in text.split()} | set("".join(CORPUS)) - {" "})
    folder = tmp_path_factory.mktemp("cased")
    pieces = [*BERT_SPECIALS.values(), *words, *(f"##{w}" for w in words)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(folder / "vocab.txt")
    assert isinstance(tokenizer, WordPieceTokenizer)
    return tokenizer


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
def test_a_length_limit_in_the_file_is_ignored(real: Tokenizer) -> None:
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


def test_a_tokenizer_can_be_pickled(trained: WordPieceTokenizer) -> None:
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


PIECES = [*BERT_SPECIALS.values(), "a", "crane", "##s", "fly", "##ing", "is", "#"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(
        bert_tokenizer({p: i for i, p in enumerate(PIECES)}, lowercase=True), BERT_SPECIALS
    )


def test_a_word_is_found_whole_at_all_its_places(tokenizer):
    ids = tokenizer.encode("a crane is a crane cranes flying")
    assert tokenizer.token_strings(ids) == ["a", "crane", "is", "a", "crane", "crane", "##s", "fly", "##ing"]
    assert tokenizer.find_word("crane", ids) == [range(1, 2), range(4, 5)]
    assert tokenizer.find_word("Cranes", ids) == [range(5, 7)]
    assert tokenizer.find_word("flying", ids) == [range(7, 9)]


def test_a_piece_or_special_token_is_found_by_its_name(tokenizer):
    ids = [tokenizer.cls_id, *tokenizer.encode("cranes fly"), tokenizer.sep_id]
    assert tokenizer.find_word("[SEP]", ids) == [range(4, 5)]
    assert tokenizer.find_word("##s", ids) == [range(2, 3)]
    assert tokenizer.find_word("crane", ids) == [range(1, 2)]  # where it is no whole word, the piece serves


def test_unknown_words_are_not_mistaken_for_one_another(tokenizer):
    ids = tokenizer.encode("a xyz")
    assert ids[1] == tokenizer.unk_id
    assert tokenizer.find_word("qqq", ids) == []
    assert tokenizer.find_word("", ids) == []


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "##s", "two"]) + "\n")
    return load_tokenizer(path)


def test_continuations_and_special_tokens_are_known_by_their_ids(bert: Tokenizer) -> None:
    assert bert.special_ids.tolist() == [0, 1, 2, 3, 4]
    assert np.flatnonzero(bert.is_continuation_V).tolist() == [6]


@given(texts=st.lists(TEXTS, max_size=4))
def test_the_words_of_d2l_have_the_characters_that_they_stand_for(texts: list[str]) -> None:
    words = ["<cls>", "<sep>", "<pad>", "<mask>", "<unk>", "word", "'", "-", "."]
    tokenizer = WordTokenizer(words)
    encoded = tokenizer.encode_with_characters(pa.array(texts, pa.string()))
    ids, offsets = tokenizer.encode_column(pa.array(texts, pa.string()))
    assert encoded.ids.tolist() == ids.tolist()
    assert encoded.offsets.tolist() == offsets.tolist()
    for row, text in enumerate(texts):
        for token in range(offsets[row], offsets[row + 1]):
            part = text[encoded.char_starts[token] : encoded.char_ends[token]]
            assert part
            assert not any(character.isspace() for character in part)
            if ids[token] != tokenizer.unk_id:
                assert part.lower() == words[ids[token]]


def test_lower_casing_that_lengthens_a_character_moves_no_offset() -> None:
    tokenizer = WordTokenizer(["<cls>", "<sep>", "<pad>", "<mask>", "<unk>", ",", "i\u0307zmir", "ok"])
    encoded = tokenizer.encode_with_characters(pa.array(["\u0130zmir, ok"]))
    assert encoded.ids.tolist() == [6, 5, 7]
    assert encoded.char_starts.tolist() == [0, 5, 7]
    assert encoded.char_ends.tolist() == [5, 6, 9]
