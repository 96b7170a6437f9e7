"""Models on the Hugging Face hub: which names it can have, and their files in a local folder.

`huggingface_hub` knows names, addresses, tokens (`HF_TOKEN`), mirrors (`HF_ENDPOINT`) and the checksums of
files; `fetch_file` downloads them, because it resumes what an earlier process left, which `huggingface_hub`
does not. Knows nothing of what is in the files. Importing it is quick: `huggingface_hub` is imported where it
is needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from bertjobs.errors import DownloadError
from bertjobs.fetch import Checksum, DownloadProgress, Remote, fetch_file

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""In order of preference; the index names the shards."""
_TOKENIZER = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
"""Downloaded where the model has them."""
_COMPLETE = ".complete"
"""Marks a folder that has all its files: with it, the network is not used."""
_INSTEAD = (
    "check the name, set HF_TOKEN for a private or gated model, or copy the model's config.json, "
    "model.safetensors and vocab.txt or tokenizer.json into a folder and give that to --model"
)


def is_hub_name(source: str) -> bool:
    """Return whether a model on the hub can have this name: `owner/name`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented

    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return "/" in source


def fetch_model(
    name: str, *, cache: Path, endpoint: str | None = None, progress: DownloadProgress | None = None
) -> Path:
    """Return the local folder of a model, downloaded on first use and resumed where it was interrupted.

    endpoint: address of the hub; by default that of `HF_ENDPOINT`, or huggingface.co.

    Raises: DownloadError: no network, no access, or the hub has no such model; says which files to put where.
        StorageError: the cache cannot be written, or is full.
    """
    folder = cache / "models" / f"hub-{name.replace('/', '--')}"
    if (folder / _COMPLETE).is_file():
        return folder
    info = _model_info(name, endpoint)
    for file in _needed_files(info):
        fetch_file(_remote(info, file, endpoint), folder / file.rfilename, progress=progress)
    (folder / _COMPLETE).touch()
    return folder


def _model_info(name: str, endpoint: str | None) -> "ModelInfo":
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return HfApi(endpoint=endpoint).model_info(name, files_metadata=True)
    except RepositoryNotFoundError as e:
        raise DownloadError(
            f"The hub has no model {name}, or you have no access to it",
            hint=f"Please {_INSTEAD}.",
            may_pass=False,
        ) from e
    except (HTTPError, OSError, ValueError) as e:  # ValueError: the answer is not the hub's
        cause = str(e).strip().splitlines()
        raise DownloadError(
            f"The files of {name} on the hub cannot be listed: {cause[0] if cause else type(e).__name__}",
            hint=f"Try again, or {_INSTEAD}.",
        ) from e


def _needed_files(info: "ModelInfo") -> list["RepoSibling"]:
    """Return the files of the configuration, the weights and the tokenizer.

    Raises: DownloadError: there is no configuration, or there are no weights.
    """
    files = {file.rfilename: file for file in info.siblings or ()}
    weights = next((name for name in _WEIGHTS if name in files), None)
    if "config.json" not in files or weights is None:
        lacking = "config.json" if weights else f"weights ({', '.join(_WEIGHTS)})"
        raise DownloadError(
            f"The model {info.id} on the hub has no {lacking}",
            hint="Give --model another model, or a folder.",
            may_pass=False,
        )
    names = ["config.json", weights, *(name for name in _TOKENIZER if name in files)]
    if weights.endswith(".index.json"):
        names += [name for name in files if name.endswith(".safetensors") and "/" not in name]
    return [files[name] for name in names]


def _remote(info: "ModelInfo", file: "RepoSibling", endpoint: str | None) -> Remote:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented

    return Remote(
        url=hf_hub_url(info.id, file.rfilename, revision=info.sha, endpoint=endpoint),
        checksum=Checksum(algorithm="sha256", digest=file.lfs.sha256) if file.lfs is not None else None,
        headers=build_hf_headers(),
        otherwise=_INSTEAD,
    )
