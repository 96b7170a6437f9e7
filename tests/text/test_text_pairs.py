"""Texts of which some are pairs: split, and encoded into one table."""

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


def test_a_separator_splits_a_pair_and_without_one_texts_stay_whole():
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
def test_empty_texts_and_more_than_two_are_refused(text, message):
    with pytest.raises(DataError) as caught:
        split_pair(text, "|")
    assert message in str(caught.value)


def test_singles_and_pairs_are_separated_with_their_row_numbers(tokenizer):
    pairs = [("a crane", None), ("a", "is"), ("fly", None), ("flying", "crane a")]
    table = encode_singles_and_pairs(pairs, tokenizer)
    parts = [(rows.tolist(), part) for rows, part in singles_and_pairs(table)]
    assert [rows for rows, _ in parts] == [[0, 2], [1, 3]]
    (_, singles), (_, both) = parts
    assert not singles.is_pair
    assert singles.a_ids[singles.a_offsets[1] :].tolist() == tokenizer.encode("fly")
    assert both.b_ids.tolist() == [*tokenizer.encode("is"), *tokenizer.encode("crane a")]
    assert [rows.tolist() for rows, _ in singles_and_pairs(table.slice(0, 0))] == []
