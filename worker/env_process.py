"""A process that steps some of a run's environments for the worker that started it.

    worker ──(method, arguments)──▶ process ──("answer", what it returned, the states now)──▶ worker
                                            └─("failed", name of the error, its message)

It ends when it is told to, when the worker closes its end of the pipe, and when the worker dies:
then even in the middle of a step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from worker.envs import TextEnvs
from worker.errors import WorkerError

ANSWER, FAILED = "answer", "failed"
CLOSE = "close"


def run(connection: Connection, settings: Mapping[str, Any]) -> None:
    """Serves `TextEnvs(**settings)` until `connection` ends; the first message says what they are.

    Args:
        connection: This end of the worker's pipe.
        settings: Arguments of `TextEnvs`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the worker decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError), closing(connection):
        try:
            envs = TextEnvs(**settings)
        except Exception as error:  # noqa: BLE001 (told to the worker, which raises it)
            connection.send(_failure(error))
            return
        with closing(envs):
            connection.send((ANSWER, (envs.task, envs.action_phrases), envs.states))
            _answer_all(connection, envs)


def _answer_all(connection: Connection, envs: TextEnvs) -> None:
    methods: Mapping[str, Callable[..., object]] = {
        "step": envs.step,
        "snapshot": envs.snapshot,
        "restore": envs.restore,
    }
    while True:
        method, arguments = connection.recv()
        if method == CLOSE:
            return
        try:
            answer = methods[method](*arguments)
        except Exception as error:  # noqa: BLE001 (told to the worker, which raises it)
            connection.send(_failure(error))
        else:
            connection.send((ANSWER, answer, envs.states))


def _failure(error: Exception) -> tuple[str, str, str]:
    """Returns what the worker needs to raise `error` again; exceptions themselves do not always survive a pipe."""
    kind = type(error).__name__
    return FAILED, kind, str(error) if isinstance(error, WorkerError) else f"{kind}: {error}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
