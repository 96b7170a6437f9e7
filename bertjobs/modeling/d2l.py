"""Archives of d2l.ai's pretrained BERT: `vocab.json` and `pretrained.params`, as a zip or unpacked.

The files do not say how many heads the model has; the registry knows it for the published ones.

Source: Dive into Deep Learning, section 16.7 (d2l `load_pretrained_model`), and d2l's `BERTModel`.
"""

import json
import stat
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from bertjobs.errors import ModelError
from bertjobs.fetch import Checksum, DownloadProgress, Remote, digest_of, fetch_file
from bertjobs.modeling.config import BertConfig, LoadedModel

_FILES = ("vocab.json", "pretrained.params")
_MOST_BYTES = 4 << 30
"""Most that an archive may unpack to; the published base model takes 0.5 GB."""
_AGAIN = "Delete it and download it again, or give another copy to --model."


@dataclass(frozen=True, kw_only=True)
class D2lArchive:
    """What is known of a published archive."""

    name: str
    sha1: str
    num_heads: int

    @property
    def url(self) -> str:
        return f"http://d2l-data.s3-accelerate.amazonaws.com/{self.name}"


REGISTRY = {
    archive.name: archive
    for archive in (
        D2lArchive(name="bert.base.torch.zip", sha1="225d66f04cae318b841a13d32af3acc165f253ac", num_heads=12),
        D2lArchive(name="bert.small.torch.zip", sha1="c72329e68a732bef0452e4b96a1c341c8910f81f", num_heads=4),
    )
}


def fetch(name: str, *, cache: Path, progress: DownloadProgress | None = None) -> Path:
    """Return the zip of a registered archive, downloaded on first use. Raises: DownloadError."""
    archive = REGISTRY[name]
    target = cache / "downloads" / name
    remote = Remote(
        url=archive.url,
        checksum=Checksum(algorithm="sha1", digest=archive.sha1),
        otherwise=f"put {name} at {target}, or give --model the path of a copy",
    )
    return fetch_file(remote, target, progress=progress)


def holds_d2l(source: Path) -> bool:
    """Return whether this is a d2l folder, or a zip file (the only zips there are)."""
    if source.is_dir():
        return (source / "pretrained.params").is_file()
    return source.suffix == ".zip"


def read_d2l(source: Path, *, cache: Path, num_heads: int | None) -> LoadedModel:
    """Read a d2l zip or folder; a zip is unpacked once under `cache`, by its checksum.

    Raises: ModelError: broken, tampered with, or of unknown head count.
    """
    folder = source if source.is_dir() else _unpack(source, cache=cache)
    tensors = _read_params(folder / "pretrained.params")
    vocab_size = len(_read_vocabulary(folder / "vocab.json"))
    heads = _num_heads(source, given=num_heads)
    config = _config(tensors, num_heads=heads, source=source)
    if config.vocab_size != vocab_size:
        raise ModelError(
            f"{source}: vocab.json has {vocab_size} entries, but the weights have {config.vocab_size}",
            hint=_AGAIN,
        )
    return LoadedModel(
        source=source,
        kind="d2l",
        config=config,
        state_dict=_renamed(tensors, source=source),
        tokenizer_path=folder / "vocab.json",
        labels=None,
    )


def _num_heads(source: Path, *, given: int | None) -> int:
    name = source.name if source.suffix == ".zip" else f"{source.name}.zip"
    if name not in REGISTRY:
        if given is None:
            raise ModelError(
                f"{source}: d2l's files do not say how many attention heads the model has",
                hint="Say it with --num-heads N.",
            )
        return given
    known = REGISTRY[name].num_heads
    if given not in (None, known):
        raise ModelError(
            f"{source} has {known} attention heads, not {given}", hint="Leave model.num_heads out."
        )
    return known


def _unpack(path: Path, *, cache: Path) -> Path:
    """Unpack the two files into a folder named by the archive's checksum; return it."""
    sha1 = digest_of(path, "sha1")
    published = REGISTRY[path.name].sha1 if path.name in REGISTRY else sha1
    if sha1 != published:
        raise ModelError(
            f"{path} is cut short or tampered with: its sha1 is {sha1}, not {published}", hint=_AGAIN
        )
    folder = cache / "models" / f"d2l-{sha1}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpacked = Path(scratch) / "files"
            unpacked.mkdir()
            for name, member in _members(archive, path=path).items():
                (unpacked / name).write_bytes(archive.read(member))
            _move_unless_there(unpacked, folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as e:
        raise ModelError(f"{path} is cut short or tampered with ({e})", hint=_AGAIN) from e
    return folder


def _members(archive: zipfile.ZipFile, *, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Find the two files; refuse an archive that would write anywhere but below its folder."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise ModelError(
                f"{path} holds {member.filename}, which points outside of the archive", hint=_AGAIN
            )
        if name.name in _FILES:
            found[name.name] = member
    missing = [name for name in _FILES if name not in found]
    if missing:
        raise ModelError(f"{path} holds no {missing[0]}: it is not a d2l BERT archive", hint=_AGAIN)
    num_bytes = sum(member.file_size for member in found.values())
    if num_bytes > _MOST_BYTES:
        raise ModelError(f"{path} would unpack to {num_bytes / 2**30:.0f} GiB; refused", hint=_AGAIN)
    return found


def _move_unless_there(unpacked: Path, folder: Path) -> None:
    try:
        unpacked.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same bytes
            raise


def _read_params(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load names no error for a broken file: zip, pickle, EOF and runtime errors
        reason = " ".join(str(e).split())[:160]
        raise ModelError(f"{path} is cut short or holds more than tensors ({reason})", hint=_AGAIN) from e


def _read_vocabulary(path: Path) -> list[str]:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read as JSON ({e})", hint=_AGAIN) from e
    if not isinstance(words, list):
        raise ModelError(f"{path} must hold a list of words, but holds a {type(words).__name__}", hint=_AGAIN)
    return words


def _config(tensors: dict[str, Tensor], *, num_heads: int, source: Path) -> BertConfig:
    try:
        vocab_size, hidden_size = tensors["encoder.token_embedding.weight"].shape
        return BertConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=len(
                {name.split(".")[2] for name in tensors if name.startswith("encoder.blks.")}
            ),
            num_attention_heads=num_heads,
            intermediate_size=tensors["encoder.blks.0.ffn.dense1.weight"].shape[0],
            hidden_act="relu",
            max_position_embeddings=tensors["encoder.pos_embedding"].shape[1],
            layer_norm_eps=1e-5,
            pad_token_id=None,
            tie_word_embeddings=False,
            embedding_layer_norm=False,
        )
    except KeyError as e:
        raise ModelError(f"{source} lacks {e.args[0]}: it is not a d2l BERT", hint=_AGAIN) from e


_NAMES = {
    "encoder.token_embedding.weight": "bert.embeddings.word_embeddings.weight",
    "encoder.segment_embedding.weight": "bert.embeddings.token_type_embeddings.weight",
    "encoder.pos_embedding": "bert.embeddings.position_embeddings.weight",
    "hidden.0.": "bert.pooler.dense.",
    "mlm.mlp.0.": "cls.predictions.transform.dense.",
    "mlm.mlp.2.": "cls.predictions.transform.LayerNorm.",
    "mlm.mlp.3.": "cls.predictions.decoder.",
    "nsp.output.": "cls.seq_relationship.",
}
_NAMES_OF_BLOCK = {
    "attention.W_q.": "attention.self.query.",
    "attention.W_k.": "attention.self.key.",
    "attention.W_v.": "attention.self.value.",
    "attention.W_o.": "attention.output.dense.",
    "addnorm1.ln.": "attention.output.LayerNorm.",
    "ffn.dense1.": "intermediate.dense.",
    "ffn.dense2.": "output.dense.",
    "addnorm2.ln.": "output.LayerNorm.",
}


def _renamed(tensors: dict[str, Tensor], *, source: Path) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        if name == "encoder.pos_embedding":
            tensor = tensor[0]
        renamed[_huggingface_name(name, source=source)] = tensor.float()
    return renamed


def _huggingface_name(name: str, *, source: Path) -> str:
    for prefix, ours in _NAMES.items():
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    if name.startswith("encoder.blks."):
        index, rest = name.removeprefix("encoder.blks.").split(".", 1)
        for prefix, ours in _NAMES_OF_BLOCK.items():
            if rest.startswith(prefix):
                return f"bert.encoder.layer.{index}.{ours}{rest.removeprefix(prefix)}"
    raise ModelError(f"{source} holds {name}, which d2l's BERT has not", hint=_AGAIN)
