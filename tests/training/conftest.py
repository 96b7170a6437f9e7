"""Fixtures of the training room."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module `tiny.py` beside this file, which the import mode of the tests does not put on the path."""
    spec = importlib.util.spec_from_file_location("bertjobs_tiny", Path(__file__).with_name("tiny.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Very small matrices are slower on several threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs do; tests of the pictures ask for the fixture `pictures`."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr("bertjobs.training.plots.save_plots", lambda *_, **__: ())


@pytest.fixture
def pictures() -> None:
    """Let runs draw."""
