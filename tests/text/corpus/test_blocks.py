"""A shard as an Arrow table, a table as a block, blocks put together, and what the cache is named by."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bertjobs.text.corpus.blocks import (
    Block,
    BlockInfo,
    corpus_key,
    encode_shard,
    group_small_blocks,
    split_documents,
)
from bertjobs.text.corpus.documents import read_shard
from bertjobs.text.encoding import read_arrow, write_arrow
from bertjobs.text.tokenizer import Tokenizer, WordTokenizer
from bertjobs.text.tokenizer_files import load_tokenizer
from bertjobs.text.vocabulary import make_vocabulary, train_words
from corpus_kit import encoded, section, shards_of, sources

TEXT = "A b c . A b .\n\n \x07 \nb b d . a c . c c c .\n"


@pytest.fixture
def words() -> WordTokenizer:
    return train_words([pa.array(["a b c d .", "a b c .", "A b", "b"])], min_count=1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.tokens"
    path.write_text(TEXT)
    return path


def test_the_table_has_a_row_per_sentence_and_numbers_documents_without_gaps(
    corpus: Path, words: WordTokenizer
) -> None:
    (shard,) = shards_of(corpus, document="paragraph", on_bad_row="skip")
    table = encode_shard(shard, words)
    tokens = [words.token_strings(ids) for ids in table["ids"].to_pylist()]
    assert [" ".join(t) for t in tokens] == ["a b c", "a b .", "<unk>", "b b d", "a c", "c c c ."]
    assert table["document"].to_pylist() == [0, 0, 1, 2, 2, 2]
    assert table["ids"].type == pa.list_(pa.uint16())
    assert BlockInfo.of(table) == BlockInfo(
        num_documents=3, num_pairable=2, num_sentences=6, num_tokens=16, num_dropped=0
    )


def test_sentences_of_no_wordpiece_are_left_out_with_their_documents(tmp_path: Path, bert: Tokenizer) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("one\n\x07\ntwo \n", encoding="utf-8")
    (block,) = encoded(path, tokenizer=bert, document="line")
    assert (block.num_documents, block.num_sentences) == (2, 2)
    assert block.document_offsets.tolist() == [0, 1, 2]


def test_a_blocks_description_is_the_same_after_its_file_and_json(
    tmp_path: Path, corpus: Path, words: WordTokenizer
) -> None:
    corpus.write_bytes(TEXT.encode() + b"\xff\n")
    (shard,) = shards_of(corpus, document="paragraph", on_bad_row="skip")
    table = encode_shard(shard, words)
    write_arrow(table, tmp_path / "block.arrow")
    info = BlockInfo.of(read_arrow(tmp_path / "block.arrow"))
    assert info == BlockInfo.of(table)
    assert info.num_dropped == 1
    assert BlockInfo.from_json(json.loads(json.dumps(info.to_json()))) == info


def test_a_block_is_a_view_and_joined_blocks_have_all_documents(corpus: Path, words: WordTokenizer) -> None:
    (shard,) = shards_of(corpus, document="paragraph")
    table = encode_shard(shard, words)
    block = Block.from_arrow(table)
    assert np.shares_memory(block.ids, table["ids"].chunk(0).values.to_numpy())
    assert block.sentence_offsets.dtype == block.document_offsets.dtype == np.int64
    assert block.document_offsets.tolist() == [0, 2, 3, 6]
    both = Block.join([block, block])
    assert both.document_offsets.tolist() == [0, 2, 3, 6, 8, 9, 12]
    n = block.num_tokens
    assert both.sentence_offsets[-1] == 2 * n == len(both.ids)
    assert both.ids[n:].tolist() == block.ids.tolist()
    sliced = Block.from_arrow(table.slice(2))
    assert sliced.document_offsets.tolist() == [0, 1, 4]
    assert sliced.ids.tolist() == block.ids[6:].tolist()
    assert sliced.sentence_offsets[0] == 0


def info(num_documents: int) -> BlockInfo:
    return BlockInfo(
        num_documents=num_documents, num_pairable=0, num_sentences=0, num_tokens=0, num_dropped=0
    )


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([3, 1, 4], [[0], [1, 2]]),
        ([3, 1], [[0, 1]]),
        ([1, 1, 1], [[0, 1, 2]]),
        ([1, 0, 0, 1, 5, 0], [[0, 3], [4]]),
        ([1], [[0]]),
        ([0], []),
    ],
)
def test_small_blocks_are_merged_with_their_neighbours(counts: list[int], groups: list[list[int]]) -> None:
    assert group_small_blocks([info(n) for n in counts]) == groups


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.37])
def test_the_held_out_share_is_exact_and_the_first_document_is_in_it(ratio: float) -> None:
    num_valid = 0
    for number in range(40):
        documents = np.repeat(np.arange(100), 2)
        table = pa.table({"ids": [[5]] * 200, "document": documents})
        split = split_documents(table, ratio=ratio, seed=number)
        held_out = set(split["valid"]["document"].to_pylist())
        assert held_out.isdisjoint(split["train"]["document"].to_pylist())
        assert split["valid"].num_rows == 2 * len(held_out)
        assert number > 0 or 0 in held_out
        num_valid += len(held_out)
    assert abs(num_valid / 4000 - ratio) < 0.001
    nothing = split_documents(table, ratio=0.0, seed=0)
    assert (nothing["train"].num_rows, nothing["valid"].num_rows) == (200, 0)
    assert Block.from_arrow(nothing["valid"]).num_documents == 0


def test_the_cache_key_follows_content_reading_and_tokenizer_alone(
    tmp_path: Path, corpus: Path, words: WordTokenizer
) -> None:
    def key(path: Path = corpus, tokenizer: Tokenizer = words, **given: object) -> str:
        return corpus_key(sources(path), section(**given), tokenizer)

    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "w.tokens"
    copy.write_text(TEXT)
    assert key() == key(copy) == key(corpus="another name", shuffle_blocks=3, valid_ratio=0.5)
    copy.write_text(TEXT + "more")
    others = [
        key(copy),
        key(document="paragraph"),
        key(sentences="line"),
        key(block_bytes=4096),
        key(limit_documents=3),
        key(on_bad_row="skip"),
        key(tokenizer=WordTokenizer([*words._words, "more"])),
        corpus_key(sources(corpus), section(), words, extra="x"),
    ]
    assert len({key(), *others}) == 9


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "one", "##s", "two"]) + "\n")
    return load_tokenizer(path)


@pytest.mark.real_data
def test_wikitext_as_published_is_read_whole(real_data: Path) -> None:
    path = real_data / "wikitext-2" / "wiki.train.tokens"
    text = path.read_text(encoding="utf-8")
    lines = [line.strip() for line in text.split("\n")]
    paragraphs = [line.lower().split(" . ") for line in lines if line and not line.startswith("= ")]
    for block_bytes in (1 << 14, 1 << 24):
        shards = shards_of(path, document="paragraph", block_bytes=block_bytes)
        found = [d for shard in shards for d in read_shard(shard).documents]
        assert [[s.lower() for s in d] for d in found] == paragraphs
    articles = [d for shard in shards_of(path, block_bytes=1 << 18) for d in read_shard(shard).documents]
    assert len(articles) == sum(line.startswith("= ") and line[2] != "=" for line in lines) == 60
    tokenizer = make_vocabulary(shards, kind="word", size=8192, min_count=5)
    counts = Counter(word for paragraph in paragraphs for s in paragraph for word in s.split())
    assert isinstance(tokenizer, WordTokenizer)
    assert set(tokenizer._words[5:]) == {w for w, n in counts.items() if n >= 5 and w != "<unk>"}
    assert counts[tokenizer._words[5]] == max(n for w, n in counts.items() if w != "<unk>")
