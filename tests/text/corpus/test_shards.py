"""Where a corpus is cut: every document once, in shards of bounded size."""

import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.text.corpus.documents import read_shard
from corpus_kit import documents_of, shards_of


@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=60),
    kind=st.sampled_from(["article", "line", "file"]),
)
def test_shards_have_every_document_once_in_order_and_none_is_larger_than_a_block(
    lengths: list[int], kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    paragraphs = [f"{i} " + "ü" * length for i, length in enumerate(lengths)]
    titles = [f" = T{i} = \n \n" if kind == "article" else "" for i in range(len(lengths))]
    path.write_text("".join(f"{t}{p}\n" for t, p in zip(titles, paragraphs, strict=True)), encoding="utf-8")
    shards = shards_of(path, document=kind, sentences="line", block_bytes=4096)
    assert all(shard.num_bytes <= 4096 for shard in shards)
    assert sum(shard.num_bytes for shard in shards) == path.stat().st_size
    documents = [d for shard in shards for d in read_shard(shard).documents]
    assert [sentence for document in documents for sentence in document] == paragraphs
    if kind != "file":
        assert all(len(document) == 1 for document in documents)
    assert pickle.loads(pickle.dumps(shards)) == shards


def test_small_files_share_a_shard(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i:02d}.txt" for i in range(20)]
    for path in paths:
        path.write_text("x" * 999 + "\n")
    assert [len(shard.parts) for shard in shards_of(*paths, block_bytes=4096)] == [4, 4, 4, 4, 4]


def test_a_document_larger_than_a_block_is_cut_at_a_line_a_space_or_a_character(tmp_path: Path) -> None:
    for name, text in {"line": "abc\n" * 3000, "space": "abc " * 3000, "none": "ü€" * 3000}.items():
        path = tmp_path / f"{name}.txt"
        path.write_text(text, encoding="utf-8")
        shards = shards_of(path, block_bytes=4096)
        assert len(shards) >= 3
        assert all(shard.num_bytes <= 4096 for shard in shards)
        found = "".join(s for shard in shards for d in read_shard(shard).documents for s in d)
        assert found.replace(" ", "") == text.replace("\n", "").replace(" ", "")


def test_a_row_of_jsonl_is_never_cut(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = ["a " * 5000, "b", "c " * 3000, "d"]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    assert documents_of(path, sentences="line", block_bytes=4096) == [[row.strip()] for row in rows]


def test_only_the_first_documents_are_read_when_a_limit_says_so(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{i} {'x' * 500}\n" for i in range(40)))
    found = documents_of(path, document="line", block_bytes=4096, limit_documents=10)
    assert [document[0].split()[0] for document in found] == [str(i) for i in range(10)]
