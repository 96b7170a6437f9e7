"""Turn what `--model` names into a local folder of weights, or into a size to start from random weights;
and load the weights of a folder with their vocabulary."""

import re
from pathlib import Path

from bertjobs.config.presets import size_names
from bertjobs.errors import ModelError
from bertjobs.modeling import d2l, hub
from bertjobs.modeling.loaded import LoadedModel
from bertjobs.modeling.weights import load_weights
from bertjobs.runs.run import Run
from bertjobs.storage import JobDir
from bertjobs.text.tokenizers import Tokenizer, load_tokenizer

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


def locate_model(source: str, run: Run) -> Path | None:
    """Return the local folder or archive that holds the weights; None where `source` is a size.

    Tried in this order: a size, a path, a registered d2l archive, a job, a hub name.

    Raises: ModelError: it is none of them. DownloadError: it would have to be downloaded and cannot be.
    """
    path = Path(source).expanduser()
    if source in size_names():  # a folder of that name is given as ./NAME
        return None
    if path.exists():
        return path
    if source in d2l.REGISTRY:
        return d2l.fetch(source, cache=run.settings.cache)
    job = JobDir(run.settings.storage, source)
    if "/" not in source and job.exists("model"):
        return run.resources.enter_context(job.open_dir("model"))
    if _HUB_NAME.match(source) and not source.startswith((".", "j-")):
        return hub.fetch(source, cache=run.settings.cache)
    raise _unknown(source, job)


def load_with_vocabulary(
    path: Path, run: Run, *, num_heads: int | None = None
) -> tuple[LoadedModel, Tokenizer]:
    """Load a model and the vocabulary beside it. Raises: ModelError: broken, or without a vocabulary."""
    loaded = load_weights(path, cache=run.settings.cache, num_heads=num_heads)
    if loaded.tokenizer_path is None:
        raise ModelError(
            f"--model {path}: there is no vocabulary beside the weights.",
            hint="Put the model's vocab.txt or tokenizer.json into that folder.",
        )
    return loaded, load_tokenizer(loaded.tokenizer_path)


def _unknown(source: str, job: JobDir) -> ModelError:
    if source.startswith("j-"):
        return ModelError(
            f"--model {source}: that job has no model at {job.path_of('model')}.",
            hint="Give a finetune job that SUCCEEDED, see `bertjobs list`.",
        )
    return ModelError(
        f"--model {source}: there is no such file or folder.",
        hint="Give a folder, a job id, a hub name such as google-bert/bert-base-uncased, or one of "
        f"{', '.join(size_names())}.",
    )
