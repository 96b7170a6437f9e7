"""Texts that may be pairs, and both as integers in one table."""

import pytest

from bertjobs.errors import DataError
from bertjobs.text.text_pairs import encode_singles_and_pairs, singles_and_pairs, split_pair
from bertjobs.text.tokenizer import WordPieceTokenizer
from bertjobs.text.tokenizer_files import BERT_SPECIALS, bert_tokenizer

PIECES = [*BERT_SPECIALS.values(), "a", "crane", "##s", "fly", "##ing", "is", "#"]


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer(
        bert_tokenizer({p: i for i, p in enumerate(PIECES)}, lowercase=True), BERT_SPECIALS
    )


def test_a_separator_makes_a_pair_and_none_makes_texts_that_hold_it():
    assert split_pair("a|b", "|") == ("a", "b")
    assert split_pair("a", "|") == ("a", None)
    assert split_pair("a|b", None) == ("a|b", None)
    assert split_pair("a ||| b", " ||| ") == ("a", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a|b|c", "The text 'a|b|c' has 2 separators '|'; a pair has one."),
        ("", "The text '' is empty."),
        (" \t", "is empty."),
        ("|b", "The first half of the text '|b' is empty."),
        ("a| ", "The second half of the text 'a| ' is empty."),
    ],
)
def test_what_is_neither_a_text_nor_a_pair_is_refused(text, message):
    with pytest.raises(DataError) as caught:
        split_pair(text, "|")
    assert message in str(caught.value)


def test_singles_and_pairs_come_apart_with_their_rows(tokenizer):
    pairs = [("a crane", None), ("a", "is"), ("fly", None), ("flying", "crane a")]
    table = encode_singles_and_pairs(pairs, tokenizer)
    parts = [(rows.tolist(), part) for rows, part in singles_and_pairs(table)]
    assert [rows for rows, _ in parts] == [[0, 2], [1, 3]]
    (_, singles), (_, both) = parts
    assert not singles.is_pair
    assert singles.a_ids[singles.a_offsets[1] :].tolist() == tokenizer.encode("fly")
    assert both.b_ids.tolist() == [*tokenizer.encode("is"), *tokenizer.encode("crane a")]
    assert [rows.tolist() for rows, _ in singles_and_pairs(table.slice(0, 0))] == []


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


def test_unknown_words_are_not_taken_for_one_another(tokenizer):
    ids = tokenizer.encode("a xyz")
    assert ids[1] == tokenizer.unk_id
    assert tokenizer.find_word("qqq", ids) == []
    assert tokenizer.find_word("", ids) == []
