"""Errors that end a worker; each becomes one line on stderr and an exit status.

HintwiseError
└── WorkerError                   1
    ├── UsageError                2  a flag, variable or configuration file is wrong
    │   └── RunDirTaken           2  the run directory already holds a run
    ├── EnvironmentUnsupported    1  no such environment, or its actions are not Discrete
    ├── DescriberWrong            1  a describer breaks a promise
    ├── EnvironmentNotReplayable  1  the same seed and actions led to another observation
    ├── EnvironmentFailed         1  an environment raised something, or a process of them ended or gave no answer
    ├── CheckpointUnusable        1  missing, damaged, or of a run with other settings
    ├── ServiceMismatch           1  the service runs another model, tokenizer or prompt template
    ├── LocalServiceFailed        1  the service that the worker started did not come up
    ├── RunsFailed                1  some runs of a sweep failed; the others finished
    ├── SweepUnderWay             1  another sweep is at work on the same experiment
    ├── NothingToReport           1  no run of a report has finished
    ├── NotRecorded               1  an episode cannot be filmed
    ├── CollectingCancelled       1  the run ended while another thread collected a rollout
    └── Interrupted         128 + n  signal n asked the worker to stop
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import extract_tb

from hintwise.errors import HintwiseError


class WorkerError(HintwiseError):
    """Base of every error that the worker itself raises."""

    exit_status = 1


class UsageError(WorkerError):
    exit_status = 2


class RunDirTaken(UsageError):
    pass


class EnvironmentUnsupported(WorkerError):
    pass


class DescriberWrong(WorkerError):
    pass


class EnvironmentNotReplayable(WorkerError):
    pass


class EnvironmentFailed(WorkerError):
    pass


class CheckpointUnusable(WorkerError):
    pass


class ServiceMismatch(WorkerError):
    pass


class LocalServiceFailed(WorkerError):
    pass


class RunsFailed(WorkerError):
    pass


class SweepUnderWay(WorkerError):
    pass


class NothingToReport(WorkerError):
    pass


class NotRecorded(WorkerError):
    pass


class CollectingCancelled(WorkerError):
    pass


class Interrupted(WorkerError):
    """A signal asked the worker to stop, and it stopped cleanly.

    Args:
        detail: What was saved and how to go on.
        signal_number: The signal that was received.
    """

    def __init__(self, detail: str, *, signal_number: int) -> None:
        super().__init__(detail)
        self.exit_status = 128 + signal_number


@contextmanager
def blamed(who: str) -> Iterator[None]:
    """Lets what fails in an environment, in code that is not ours, end a run as other failures do: saved, in one line.

    Raises:
        EnvironmentFailed: The block raised something; the message says what, and where.
    """
    try:
        yield
    except HintwiseError:
        raise
    except Exception as error:
        where = extract_tb(error.__traceback__)[-1]
        kind = type(error).__name__
        raise EnvironmentFailed(f"{who} raised {kind}: {error} ({where.filename}, line {where.lineno})") from error
