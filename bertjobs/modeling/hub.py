"""Models by their name on the Hugging Face hub: `google-bert/bert-base-uncased`. Needs network, once."""

from pathlib import Path

from bertjobs.errors import DownloadError
from bertjobs.fetch import Progress, Remote, exists, fetch_file
from bertjobs.modeling.weights import shard_names

HUB_URL = "https://huggingface.co"

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""In order of preference."""
_TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
"""Fetched where the model has them."""
_COMPLETE = ".complete"
"""Marks a folder that holds all it needs: with it, no network is asked for."""


def fetch(name: str, *, cache: Path, base_url: str = HUB_URL, progress: Progress | None = None) -> Path:
    """Return the local folder of a hub model, downloaded on first use and continued where it broke off.

    Raises: DownloadError: no network, or the hub has no such model; says which files to put where.
    """
    folder = cache / "models" / f"hub-{name.replace('/', '--')}"
    if (folder / _COMPLETE).is_file():
        return folder
    address = f"{base_url}/{name}/resolve/main"
    fetch_file(_remote(address, "config.json"), folder / "config.json")
    for file in _weight_files(address, folder):
        fetch_file(_remote(address, file), folder / file, progress=progress)
    for file in _TOKENIZER:
        if exists(_remote(address, file)):
            fetch_file(_remote(address, file), folder / file, progress=progress)
    (folder / _COMPLETE).touch()
    return folder


def _remote(address: str, file: str) -> Remote:
    return Remote(
        url=f"{address}/{file}",
        otherwise="check the name, or copy the model's config.json, model.safetensors and vocab.txt or "
        "tokenizer.json into a folder and give that to --model",
    )


def _weight_files(address: str, folder: Path) -> list[str]:
    for file in _WEIGHTS:
        if (folder / file).is_file() or exists(_remote(address, file)):
            break
    else:
        raise DownloadError(
            f"{address} has none of {', '.join(_WEIGHTS)}.",
            hint="Give --model another model, or a folder.",
        )
    if not file.endswith(".index.json"):
        return [file]
    fetch_file(_remote(address, file), folder / file)
    return shard_names(folder)
