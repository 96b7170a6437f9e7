"""Every error that a user can meet, as one tree. Each class has its exit code and its failure class.

BertjobsError
├── UsageError            exit 2: the request itself is wrong; nothing was started
│   ├── ConfigError       a key, a value or a combination of flags
│   ├── DataError         a source file, a row, a label, a task file
│   ├── ModelError        weights, vocabulary, a checkpoint, an archive
│   ├── StorageError      a path that cannot be read, written or has no room left
│   ├── QueueError        Redis or Ray cannot be reached or refuses us; an unknown job
│   └── DownloadError     no network, a wrong checksum, an interrupted download
└── RunError              exit 1: the work started and did not succeed
    ├── TrainingError     the loss is not finite, the code of the step raised
    │   └── OutOfMemory   the batch does not fit the device
    ├── LeaseLost         another attempt owns the job; this one publishes nothing
    └── Cancelled         a user cancelled the job

A message says what happened and what was given; its hint says what to do, and names the flag to do it with. A
message of one sentence ends without a period, so that a hint can be put on a line of its own.
"""

import errno
from typing import ClassVar


class BertjobsError(Exception):
    """Base of everything that is reported to a user without a traceback."""

    exit_code: ClassVar[int] = 1
    failure: ClassVar[str] = "UserError"
    """Failure class, from which `bertjobs.jobs.retry` decides whether the job is retried."""
    may_pass: bool = False
    """Whether the same work may succeed later although nobody changes anything."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """What to do about it, in whole sentences."""

    def __str__(self) -> str:
        """Return message and hint as one line of text, for a log."""
        if not self.hint:
            return self.message
        return f"{as_sentence(self.message)} {self.hint}"


def as_sentence(message: str) -> str:
    """Return a message with the period that it needs where another sentence follows."""
    return message if message.endswith((".", "!", "?", ":")) else f"{message}."


_LASTING = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.EFBIG,
        errno.ENOENT,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    }
)
"""Errors of a file system that stay until somebody changes something."""


def os_error_may_pass(number: int) -> bool:
    """Return whether the same call may succeed later although nobody changes anything; `number` is errno."""
    return number not in _LASTING


class UsageError(BertjobsError):
    exit_code = 2


class ConfigError(UsageError):
    failure = "ConfigError"


class DataError(UsageError):
    failure = "DataError"


class ModelError(UsageError):
    failure = "ModelError"


class StorageError(UsageError):
    failure = "StorageError"

    def __init__(self, message: str, *, hint: str = "", may_pass: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.may_pass = may_pass


class QueueError(UsageError):
    failure = "QueueError"


class DownloadError(UsageError):
    failure = "DownloadError"

    def __init__(self, message: str, *, hint: str = "", may_pass: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.may_pass = may_pass


class RunError(BertjobsError):
    exit_code = 1


class TrainingError(RunError):
    failure = "TrainingError"


class OutOfMemory(TrainingError):
    failure = "OutOfMemory"


class LeaseLost(RunError):
    failure = "LeaseLost"


class Cancelled(RunError):
    failure = "Cancelled"
