"""A corpus through Ray Data into blocks: order, cache, held-out documents, errors of the files."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from bertjobs.config.pretrain import CorpusSection
from bertjobs.errors import DataError, StorageError
from bertjobs.runs.data import encode_corpus as encode_corpus_module
from bertjobs.runs.data.corpus_blocks import MANIFEST, CorpusFolder, StoredBlocks, encode_row
from bertjobs.runs.data.encode_corpus import encode_corpus
from bertjobs.storage import JobDir
from bertjobs.text.corpus.blocks import BlockInfo
from bertjobs.text.corpus.files import own_files
from bertjobs.text.corpus.shards import plan_shards
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
    phases: list[str] = []
    return SimpleNamespace(
        settings=SimpleNamespace(
            encoded_corpora=str(tmp_path / "encoded"), max_cache_mb=None, cache=tmp_path
        ),
        grant=SimpleNamespace(cpus=2.0),
        reporter=SimpleNamespace(set_phase=phases.append, phases=phases),
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
    folder = Path(blocks["train"].folder.uri)
    marks = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = encode_corpus(files, run, data=data, tokenizer=tokenizer, valid_ratio=0.1)
    assert again == blocks
    found = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    # Only the manifest is written again: its age is that of the corpus' last use.
    manifest = folder / MANIFEST
    assert found.pop(manifest) > marks.pop(manifest)
    assert found == marks


def test_an_interrupted_encoding_continues_with_the_shards_that_are_missing(
    corpus: Path, tokenizer: Tokenizer, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, files = _section(corpus, block_bytes=4096), own_files(str(corpus), flag="--corpus")
    whole = encode_corpus(files, run, data=data, tokenizer=tokenizer)["train"]
    folder = Path(whole.folder.uri)
    expected = _sentences(whole, tokenizer)
    # As after a kill: one shard has half a block and no record, another half a record; no manifest.
    (folder / "blocks.json").unlink()
    (folder / "shard-000001.json").unlink()
    (folder / "train-000001.arrow").write_bytes(b"half")
    (folder / "shard-000003.json").write_bytes(b'{"train": {"fi')
    (folder / "train-000003.arrow").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(encode_corpus_module, "_REPORT_INTERVAL_S", 0.0)
    run.reporter.phases.clear()
    again = encode_corpus(files, run, data=data, tokenizer=tokenizer)["train"]
    assert _sentences(again, tokenizer) == expected
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    made = {name for name in after if after[name] != before.get(name)}
    assert made == {
        "blocks.json", "shard-000001.json", "train-000001.arrow", "shard-000003.json", "train-000003.arrow"
    }  # fmt: skip
    num_shards = len(plan_shards(files, data))
    assert run.reporter.phases == [
        f"encoding the corpus, {n} of {num_shards} shards" for n in range(1, num_shards + 1)
    ]


def test_blocks_at_an_address_are_the_blocks_of_a_folder(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    (tmp_path / "bucket" / "corpora" / "corpus-x").mkdir(parents=True)
    monkeypatch.setattr(JobDir, "_filesystem", lambda self: (bucket, self.uri.removeprefix("s3://")))
    shard = plan_shards(own_files(str(corpus), flag="--corpus"), _section(corpus))[0]
    read = []
    for root in (str(tmp_path / "encoded"), "s3://corpora"):
        folder = CorpusFolder(root=root, name="corpus-x")
        encode_row({"shard": pickle.dumps(shard)}, folder=folder, tokenizer=tokenizer, ratio=0.0)
        record = folder.read_json("shard-000000.json")
        assert record is not None
        info = BlockInfo.from_json(record["train"]["info"])
        read.append(StoredBlocks(folder=folder, infos=(info,), files=(record["train"]["file"],)))
    assert _sentences(read[1], tokenizer) == _sentences(read[0], tokenizer)
    assert (tmp_path / "bucket" / "corpora" / "corpus-x" / "train-000000.arrow").exists()


def test_a_removed_block_says_how_to_encode_again(corpus: Path, tokenizer: Tokenizer, run: Any) -> None:
    files = own_files(str(corpus), flag="--corpus")
    blocks = encode_corpus(files, run, data=_section(corpus), tokenizer=tokenizer)["train"]
    (Path(blocks.folder.uri) / blocks.files[0]).unlink()
    with pytest.raises(
        StorageError, match=r"The block .*train-000000\.arrow of the encoded corpus"
    ) as raised:
        blocks.get(0)
    assert raised.value.hint == f"Remove {blocks.folder.uri}, and `bertjobs retry` encodes the corpus again."


def test_a_place_that_cannot_be_written_is_named(
    corpus: Path, tokenizer: Tokenizer, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "encoded").write_text("a file")
    files = own_files(str(corpus), flag="--corpus")
    with pytest.raises(StorageError, match=r"The encoded corpus cannot be written: .*/encoded/") as raised:
        encode_corpus(files, run, data=_section(corpus), tokenizer=tokenizer)
    assert raised.value.hint == "Free space there, or set BERTJOBS_ENCODED to another place."


def test_an_error_in_a_file_comes_out_of_ray_as_it_was_raised(
    corpus: Path, tokenizer: Tokenizer, run: Any
) -> None:
    corpus.write_bytes(corpus.read_bytes() + b"\nbroken \xff byte")
    files = own_files(str(corpus), flag="--corpus")
    with pytest.raises(DataError, match=r"corpus\.txt, line 301: byte 0xff at column 8 is not UTF-8"):
        encode_corpus(files, run, data=_section(corpus), tokenizer=tokenizer)
    assert not any(Path(run.settings.encoded_corpora).rglob("*.arrow")), "nothing half done is left"
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
