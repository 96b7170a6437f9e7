"""Small models of random weights for each type of task, and predictions with them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bertjobs.config import ConfigLayer, load_config
from bertjobs.runs.predict.predict_rows import GivenTexts, PredictedRows, predict_files, predict_texts
from bertjobs.settings import load_settings
from task_models import TASKS, write_model


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each task; `plain` says no more than `transformers` knows."""
    folder = tmp_path_factory.mktemp("models")
    for name, task in TASKS.items():
        write_model(folder / name, task)
    for name in ("cola", "swag", "squad", "stsb", "topics"):
        write_model(folder / f"plain-{name}", TASKS[name], has_artefact=False)
    write_model(folder / "pretrained", None)
    return folder


@dataclass
class Predict:
    """Predict with a model, in this process; warnings are kept."""

    models: Path
    home: Path
    said: list[str] = field(default_factory=list)

    def texts(
        self, model: str, *texts: str, values: dict[str, Any] | None = None, **given: Any
    ) -> PredictedRows:
        return predict_texts(
            GivenTexts(texts=texts, **given),
            config=self._config(model, **{"data.path": "-", **(values or {})}),
            settings=load_settings({"BERTJOBS_HOME": str(self.home)}),
            warn=self.said.append,
        )

    def files(self, model: str, path: Path, **values: Any) -> PredictedRows:
        return predict_files(
            self._config(model, **{"data.path": str(path), **values}),
            settings=load_settings({"BERTJOBS_HOME": str(self.home)}),
            warn=self.said.append,
        )

    def _config(self, model: str, **values: Any) -> Any:
        return load_config("predict", ConfigLayer({"model.source": str(self.models / model), **values}, {}))


@pytest.fixture
def predict(models: Path, tmp_path: Path) -> Predict:
    return Predict(models, tmp_path / "home")
