"""Which files make up a corpus, and what is said where there are none."""

from pathlib import Path

import pytest

from bertjobs.errors import DataError
from bertjobs.text.corpus.files import find_files
from corpus_kit import sources

ARTICLES = "".join(
    f" {line} \n"
    for line in (
        *("", "= A Crane =", "", "A crane is flying . It is white .", "", "= = Life = =", ""),
        *("It eats <unk> @-@ fish .", "", "= = = Young = = =", "", "They hatch . They fly .", ""),
        *("= <unk> ( b ) =", "x = y . z ."),
    )
)


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.train.tokens"
    path.write_text(ARTICLES, encoding="utf-8")
    return path


def test_a_missing_published_corpus_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as e:
        find_files("wikitext-103", None, split="train", cache=tmp_path)
    assert str(e.value) == (
        f"wikitext-103: wiki.train.tokens is not in {tmp_path}/downloads. Run `bertjobs data get "
        "wikitext-103`, or give the folder or zip that holds it (--data)."
    )


def test_a_users_corpus_is_a_file_a_folder_or_a_glob(tmp_path: Path) -> None:
    for name in ("x/one.txt", "x/two.jsonl", "x/image.png", "three.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for corpus, expected in (
        ("", ["three.parquet", "one.txt", "two.jsonl"]),
        ("**/*.txt", ["one.txt"]),
        ("x/image.png", ["image.png"]),
    ):
        files = find_files(str(tmp_path / corpus), None, split="train", cache=tmp_path)
        assert files == sources(*(file.path for file in files))
        assert [file.path.name for file in files] == expected
    with pytest.raises(DataError, match=r"--corpus .*/y: there is no such corpus, file or folder with text"):
        find_files(str(tmp_path / "y"), None, split="train", cache=tmp_path)
