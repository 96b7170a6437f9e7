"""The very small model of the training room's tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    if "tiny" not in sys.modules:
        path = Path(__file__).parents[2] / "training" / "tiny.py"
        spec = importlib.util.spec_from_file_location("tiny", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules["tiny"]
