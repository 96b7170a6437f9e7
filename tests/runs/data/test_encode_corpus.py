"""A corpus through Ray Data into blocks: order, cache, held-out documents, errors of the files."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray

from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import DataError
from bertjobs.runs.data.encode_corpus import encode_corpus
from bertjobs.text.corpus.files import own_files
from bertjobs.text.tokenizer import Tokenizer
from bertjobs.text.vocabulary import train_wordpiece

pytestmark = [
    pytest.mark.ray,
    # Ray Data warns of fields of its own context that it sets itself.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]

NUM_DOCUMENTS = 300


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Any:
    with ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        yield


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = [f"The crane number {i} is flying. A driver of crane {i} came!" for i in range(NUM_DOCUMENTS)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def tokenizer(corpus: Path) -> Tokenizer:
    return train_wordpiece(corpus.read_text().splitlines(), vocab_size=128)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    return SimpleNamespace(
        settings=SimpleNamespace(cache=tmp_path / "cache"), grant=SimpleNamespace(data_cpus=1.0)
    )


def _section(corpus: Path, **fields: Any) -> CorpusSection:
    return CorpusSection(corpus=str(corpus), document="line", **fields)


def _sentences(blocks: Any, tokenizer: Tokenizer) -> list[str]:
    found = []
    for number in range(len(blocks.infos)):
        block = blocks.get(number)
        for begin, end in zip(block.sentence_offsets[:-1], block.sentence_offsets[1:], strict=True):
            found.append("".join(tokenizer.token_strings(block.ids[begin:end])).replace("##", ""))
    return found


def test_blocks_hold_the_corpus_in_order_whatever_their_size(
    corpus: Path, tokenizer: Tokenizer, run: Any
) -> None:
    expected = [
        sentence.lower().replace(" ", "")
        for i in range(NUM_DOCUMENTS)
        for sentence in (f"The crane number {i} is flying.", f"A driver of crane {i} came!")
    ]
    for block_bytes in (4096, 1 << 20):
        data = _section(corpus, block_bytes=block_bytes)
        blocks = encode_corpus(own_files(str(corpus), flag="--corpus"), run, data=data, tokenizer=tokenizer)
        assert _sentences(blocks["train"], tokenizer) == expected
        assert (len(blocks["train"].infos) > 1) == (block_bytes == 4096)
        assert blocks["valid"].infos == ()


def test_held_out_documents_are_nowhere_else_and_the_cache_is_found_again(
    corpus: Path, tokenizer: Tokenizer, run: Any
) -> None:
    data, files = _section(corpus, block_bytes=4096), own_files(str(corpus), flag="--corpus")
    blocks = encode_corpus(files, run, data=data, tokenizer=tokenizer, valid_ratio=0.1)
    train, valid = (set(_sentences(blocks[split], tokenizer)) for split in ("train", "valid"))
    assert not train & valid
    assert len(train) + len(valid) == 2 * NUM_DOCUMENTS
    assert len(valid) == pytest.approx(0.1 * 2 * NUM_DOCUMENTS, abs=6)
    marks = {path: path.stat().st_mtime_ns for path in run.settings.cache.rglob("*") if path.is_file()}
    again = encode_corpus(files, run, data=data, tokenizer=tokenizer, valid_ratio=0.1)
    assert again == blocks
    assert {p: p.stat().st_mtime_ns for p in run.settings.cache.rglob("*") if p.is_file()} == marks


def test_a_block_on_another_node_is_read_there(corpus: Path, tokenizer: Tokenizer, run: Any) -> None:
    blocks = encode_corpus(
        own_files(str(corpus), flag="--corpus"), run, data=_section(corpus), tokenizer=tokenizer
    )["train"]
    here = blocks.get(0)
    with pytest.MonkeyPatch.context() as patch:  # there is one node only; we say that we are on another
        elsewhere = SimpleNamespace(get_node_id=lambda: "another")
        patch.setattr("bertjobs.runs.data.corpus_blocks.ray.get_runtime_context", lambda: elsewhere)
        there = blocks.get(0)
    assert np.array_equal(here.ids, there.ids)
    assert np.array_equal(here.sentence_offsets, there.sentence_offsets)


def test_an_error_in_a_file_comes_out_of_ray_as_it_was_raised(
    corpus: Path, tokenizer: Tokenizer, run: Any
) -> None:
    corpus.write_bytes(corpus.read_bytes() + b"\nbroken \xff byte")
    files = own_files(str(corpus), flag="--corpus")
    with pytest.raises(DataError, match=r"corpus\.txt, line 301: byte 0xff at column 8 is not UTF-8"):
        encode_corpus(files, run, data=_section(corpus), tokenizer=tokenizer)
    assert not any(run.settings.cache.rglob("*.arrow")), "nothing half done is left"
    skipped = _section(corpus, on_bad_row="skip")
    assert encode_corpus(files, run, data=skipped, tokenizer=tokenizer)["train"].infos[0].num_dropped == 1


def test_too_few_documents_to_hold_out_say_what_to_give(tmp_path: Path, run: Any) -> None:
    path = tmp_path / "one.txt"
    path.write_text("One crane. Two cranes.\n")
    tokenizer = train_wordpiece(["One crane. Two cranes."], vocab_size=64)
    with pytest.raises(DataError, match=r"too few documents to hold out 0\.1 of them"):
        encode_corpus(
            own_files(str(path), flag="--corpus"),
            run, data=_section(path), tokenizer=tokenizer, valid_ratio=0.1,
        )  # fmt: skip
