"""Vocabularies that are made: of texts or a corpus, always the same."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from bertjobs.config.pretrain import VocabKind
from bertjobs.errors import DataError
from bertjobs.text.corpus.documents import read_shard
from bertjobs.text.datasets.sample import write_sample
from bertjobs.text.tokenizer import WordPieceTokenizer, WordTokenizer
from bertjobs.text.tokenizer_files import BERT_SPECIALS
from bertjobs.text.vocabulary import make_vocabulary, train_wordpiece
from corpus_kit import shards_of

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


TEXT = "A b c . A b .\n\n \x07 \nb b d . a c . c c c .\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.tokens"
    path.write_text(TEXT)
    return path


def test_words_are_counted_as_d2l_does_the_most_frequent_first(tmp_path: Path) -> None:
    path = tmp_path / "wiki.tokens"
    path.write_text("The <unk> cat . the cat .\n\nthe dog . A <unk> b .\n\n" * 3)
    tokenizer = make_vocabulary(shards_of(path), kind="word", size=8192, min_count=6)
    assert isinstance(tokenizer, WordTokenizer)
    assert tokenizer._words == ["<unk>", "<pad>", "<mask>", "<cls>", "<sep>", "the", ".", "cat"]
    assert tokenizer.encode("THE <unk> dog") == [5, 0, 0]
    assert tokenizer.special_ids.tolist() == [0, 1, 2, 3, 4]
    assert not tokenizer.is_continuation_V.any()


def test_a_word_vocabulary_without_words_is_refused(corpus: Path) -> None:
    with pytest.raises(DataError) as e:
        make_vocabulary(shards_of(corpus), kind="word", size=100, min_count=99)
    assert str(e.value) == (
        "No word occurs 99 times in the corpus. Lower --vocab-min-count, or give more text (--corpus)."
    )


def test_wordpieces_are_trained_on_all_shards_of_a_corpus_with_the_same_result_each_time(
    sample: Path,
) -> None:
    shards = shards_of(sample / "corpus" / "train.tokens", block_bytes=1 << 14)
    assert len(shards) > 5
    one, two = (make_vocabulary(shards, kind="wordpiece", size=200, min_count=5) for _ in range(2))
    assert one.fingerprint == two.fingerprint
    assert one.vocab_size <= 200
    texts = [s for shard in shards for d in read_shard(shard).documents for s in d]
    ids, _ = one.encode_column(pa.array(texts))
    assert one.unk_id not in ids
    assert (one.is_continuation_V[ids]).any()


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_the_progress_over_the_shards_of_a_corpus_is_told(sample: Path, kind: VocabKind) -> None:
    shards = shards_of(sample / "corpus" / "train.tokens", block_bytes=1 << 14)
    told: list[tuple[int, int]] = []
    make_vocabulary(shards, kind=kind, size=200, min_count=5, on_progress=lambda *n: told.append(n))
    assert told == [(done, len(shards)) for done in range(len(shards) + 1)]
