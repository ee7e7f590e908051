"""Where the worker's answers come from: a service somebody runs, or one of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from hintwise.client import Client
from hintwise.client_core import Call
from hintwise.errors import DeadlineExceeded, HintwiseError
from worker.errors import UsageError
from worker.local_service import LocalService
from worker.service_settings import MAX_REQUEST_TIMEOUT_S, ServiceSettings

Connect = Callable[..., AbstractContextManager[Client]]
"""What `connect` is, to those who may be given another."""
START_TIMEOUT_S = 10.0
"""A service that was named has to be there: a wrong address should show at once."""
NOBODY_WORKS = "look whether a service works there, or say where one does: --service-url"
T = TypeVar("T")


class WorkerClient(Client):
    """A client whose requests' time is that of two flags, and which says so where it was too short."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        retry_s: float,
        on_wait: Callable[[HintwiseError, float], None] = lambda error, waited_s: None,
        **settings: Any,
    ) -> None:
        def wait(error: HintwiseError, waited_s: float) -> None:
            self._retried = True
            on_wait(error, waited_s)

        super().__init__(url, timeout_s=timeout_s, retry_s=retry_s, on_wait=wait, **settings)
        self._timeout_s, self._retry_s = timeout_s, retry_s
        self._retried = False

    def _run(self, call: Call[T], *others: Any) -> T:
        self._retried = False
        try:
            return super()._run(call, *others)
        except DeadlineExceeded as error:
            _advise(error, self._advice())
            raise

    def _advice(self) -> str:
        """Returns what would give a request more time; what is left of the service's is all that a retry has."""
        flags = []
        if self._timeout_s < (self._retry_s if self._retried else MAX_REQUEST_TIMEOUT_S):
            flags.append(f"--request-timeout-s ({self._timeout_s:g} now)")
        if self._retried:
            flags.append(f"--service-timeout-s ({self._retry_s:g} now)")
        if flags:
            return f"raise {' or '.join(flags)}"
        return f"no request may take more than {MAX_REQUEST_TIMEOUT_S:g} s: ask for less at once, or serve it faster"


@contextmanager
def connect(
    settings: ServiceSettings,
    *,
    weights_dir: Path,
    log_path: Path,
    say: Callable[[str], None],
    on_wait: Callable[[str, float], None],
    while_waiting: Callable[[], None] = lambda: None,
    head_actions: Sequence[str] | None = None,
) -> Iterator[Client]:
    """Yields a client of the named service, or of a new one that ends with the block.

    Args:
        settings: All of them but `num_threads`.
        weights_dir: Where a new service keeps versions.
        log_path: Where its output goes.
        say: Told of every restart.
        on_wait: Called before each retry with what was wrong and the seconds since the first attempt.
        while_waiting: Called while a request is at the service; it must not use the client.
        head_actions: What a new service's head answers for; None: it scores phrases.

    Raises:
        UsageError: `service_url` or the access token cannot be used.
        ServiceUnreachable, DeadlineExceeded: Nobody answers at `service_url`.
        LocalServiceFailed: A new service did not start.
    """
    with ExitStack() as stack:
        own: LocalService | None = None
        url = settings.service_url
        if url is None:
            local = LocalService(
                model=settings.model or "embedded",
                guidance_model=settings.guidance_model,
                device=settings.device,
                weights_dir=weights_dir,
                log_path=log_path,
                head_actions=head_actions,
            )
            own = stack.enter_context(local)
            url = own.url

        def wait(error: HintwiseError, waited_s: float) -> None:
            if own is not None and own.revive():
                say(f"the service died and was started again ({own.num_restarts}); its output is in {log_path}")
            on_wait(error.title.lower(), waited_s)

        transport = None if own is None else httpx.HTTPTransport()  # no proxy can reach this machine's loopback
        with _open_client(url, settings, wait, while_waiting, transport) as client:
            _await_ready(client, NOBODY_WORKS if own is None else f"its output is in {log_path}")
            yield client


def _open_client(
    url: str,
    settings: ServiceSettings,
    on_wait: Callable[[HintwiseError, float], None],
    while_waiting: Callable[[], None],
    transport: httpx.BaseTransport | None,
) -> Client:
    try:
        return WorkerClient(
            url,
            timeout_s=settings.request_timeout_s,
            retry_s=settings.service_timeout_s,
            transport=transport,
            on_wait=on_wait,
            while_waiting=while_waiting,
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def _await_ready(client: Client, advice: str) -> None:
    try:
        client.wait_until_ready(timeout_s=START_TIMEOUT_S)
    except DeadlineExceeded as error:  # more time for a request would not help
        _advise(error, advice)
        raise


def _advise(error: HintwiseError, advice: str) -> None:
    """Puts our advice in the place of that to callers in Python or by hand, which follows a semicolon."""
    error.detail = f"{error.detail.partition('; ')[0]}; {advice}"
