"""Questions to the service from inside an environment's step: how long they may take, and what their failure means.

| the service                        | `on_failure="raise"` | `on_failure="skip"`                                    |
| ---------------------------------- | -------------------- | ------------------------------------------------------ |
| is away, full, slow, or broke down | raised               | counted, warned of once; left alone for 1, 2, ... 30 s |
| refuses the question or the token  | raised               | raised: waiting would not mend it                      |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import Literal, TypeAlias, TypeVar

from hintwise.client import Client
from hintwise.errors import (
    DeadlineExceeded,
    GuidanceUnavailable,
    HintwiseError,
    InferenceFailed,
    Overloaded,
    Unavailable,
)

OnFailure: TypeAlias = Literal["raise", "skip"]
Answer = TypeVar("Answer")
Question = TypeVar("Question")

FAILURES = (DeadlineExceeded, GuidanceUnavailable, InferenceFailed, Overloaded, Unavailable)
"""What waiting may mend."""
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0


class UnusableAnswer(GuidanceUnavailable):
    """The service answered with something that the wrapper has no use for."""

    title = "Unusable answer"


class Asker:
    """Asks one service, and bears its failures as it was told.

    Args:
        client: A client, whose own limits hold; or a service's address; None is `HINTWISE_URL`, or this machine.
        timeout_s: Seconds that a question may take, where an address was given.
        on_failure: `raise`, or `skip`: go on without an answer.
        instead: What happens without an answer, for the warning.

    Raises:
        ValueError: An argument cannot be used.
    """

    def __init__(self, client: Client | str | None, *, timeout_s: float, on_failure: OnFailure, instead: str) -> None:
        if on_failure not in ("raise", "skip"):
            raise ValueError(f'on_failure is {on_failure!r}; choose "raise" or "skip"')
        self._is_own = client is None or isinstance(client, str)
        retry_s = timeout_s if on_failure == "raise" else 0.0
        if client is None or isinstance(client, str):
            client = Client(client, timeout_s=timeout_s, retry_s=retry_s)
        self._client = client
        self._on_failure, self._instead = on_failure, instead
        self._pause_s, self._quiet_until_s = FIRST_PAUSE_S, 0.0
        self.num_failures = 0

    def ask(self, question: Callable[[Client], Answer]) -> Answer | None:
        """Returns the answer; None where there is none and that is to be borne.

        Raises:
            HintwiseError: The service failed, or refuses the question.
        """
        if monotonic() < self._quiet_until_s:
            return None
        try:
            answer = question(self._client)
        except FAILURES as error:
            self.bear(error)
            self._quiet_until_s = monotonic() + max(self._pause_s, error.retry_after_s or 0.0)
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
            return None
        self._pause_s = FIRST_PAUSE_S
        return answer

    def bear(self, error: HintwiseError) -> None:
        """Counts a failure, and raises it or warns of the first."""
        self.num_failures += 1
        if self._on_failure == "raise":
            raise error
        if self.num_failures == 1:
            warnings.warn(f"{error}; {self._instead}. Later failures are counted alone.", RuntimeWarning, stacklevel=2)

    def close(self) -> None:
        """Closes the client, unless it was given."""
        if self._is_own:
            self._client.close()


def in_parts(questions: Sequence[Question], size: int) -> Iterator[Sequence[Question]]:
    """Splits questions into as many as one request may carry."""
    for start in range(0, len(questions), size):
        yield questions[start : start + size]
