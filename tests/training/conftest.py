"""Fixtures of the training room."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _beside(name: str) -> ModuleType:
    """Import a module beside this file, which the import mode of the tests does not put on the path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    return _beside("tiny")


@pytest.fixture(scope="session")
def tiny_pretrain(tiny: ModuleType) -> ModuleType:
    return _beside("tiny_pretrain")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Very small matrices are slower on several threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs do; tests of the pictures ask for the fixture `pictures`."""
    if "pictures" not in request.fixturenames:
        for name in ("save_plots", "save_pretraining_plots"):
            monkeypatch.setattr(f"bertjobs.training.monitoring.plots.{name}", lambda *_, **__: ())


@pytest.fixture
def pictures() -> None:
    """Let runs draw."""
