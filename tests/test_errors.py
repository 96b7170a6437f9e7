"""The error tree: what a class promises holds for every class under it, wherever it is defined."""

import importlib
import pickle
import pkgutil
import re

import pytest

from bertjobs import errors
from bertjobs.errors import BertjobsError, RunError, UsageError


def all_errors(root: type[BertjobsError] = BertjobsError) -> list[type[BertjobsError]]:
    return [root, *(found for child in root.__subclasses__() for found in all_errors(child))]


def test_the_docstring_draws_every_class_of_the_module():
    drawn = {word for word in re.findall(r"\w+", errors.__doc__) if word in vars(errors)}
    defined = {error.__name__ for error in all_errors() if error.__module__ == errors.__name__}
    assert drawn == defined
    assert len(defined) == 13


@pytest.mark.parametrize("error", [e for e in all_errors() if e.__module__ == errors.__name__])
def test_a_wrong_request_exits_with_2_and_work_that_failed_with_1(error):
    assert error.exit_code == (2 if issubclass(error, UsageError) else 1)
    is_leaf = error not in (BertjobsError, UsageError, RunError)
    assert error.failure == (error.__name__ if is_leaf else "UserError")


def test_the_message_and_the_hint_are_one_text_for_a_log_and_two_for_the_command_line():
    error = errors.DataError("a.csv is empty.", hint="Give a file with rows (--data).")
    assert str(error) == "a.csv is empty. Give a file with rows (--data)."
    assert (error.message, error.hint) == ("a.csv is empty.", "Give a file with rows (--data).")
    assert str(errors.Cancelled("Cancelled.")) == "Cancelled."


def test_a_message_without_a_period_gets_one_before_its_hint_in_a_log():
    error = errors.DataError("a.csv is empty", hint="Give a file with rows (--data).")
    assert str(error) == "a.csv is empty. Give a file with rows (--data)."
    assert error.message == "a.csv is empty"
    assert str(errors.DataError("a.csv is empty")) == "a.csv is empty"


@pytest.mark.parametrize("error", [e for e in all_errors() if e.__module__ == errors.__name__])
def test_an_error_crosses_processes_with_its_class_and_its_hint(error):
    """Ray brings what a worker raised to the driver by pickling it."""
    returned = pickle.loads(pickle.dumps(error("what", hint="do this")))
    assert type(returned) is error
    assert (returned.message, returned.hint, str(returned)) == ("what", "do this", "what. do this")


def test_every_error_of_the_packages_has_an_exit_code_and_a_failure_class_of_its_own():
    for room in ("config", "text", "training", "jobs"):
        package = importlib.import_module(f"bertjobs.{room}")
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    of_rooms = [
        e for e in all_errors() if e.__module__.startswith("bertjobs.") and e.__module__ != errors.__name__
    ]
    assert of_rooms
    for error in of_rooms:
        assert error.exit_code in (1, 2)
        assert error.failure != BertjobsError.failure
