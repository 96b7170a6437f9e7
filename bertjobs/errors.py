"""Every error a user can meet, as one tree. The exit code and the failure class are on the class.

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
    └── Cancelled         someone asked for the end

A message says what is wrong, what was given and what to do, and names the flag to do it with.
"""

from typing import ClassVar


class BertjobsError(Exception):
    """Base of everything that is reported to a user without a traceback."""

    exit_code: ClassVar[int] = 1
    failure: ClassVar[str] = "UserError"
    """What the retry decision is made from; see `bertjobs.jobs.retry`."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """What to do about it: one sentence."""

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


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


class QueueError(UsageError):
    failure = "QueueError"


class DownloadError(UsageError):
    failure = "DownloadError"


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
