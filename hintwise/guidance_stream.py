"""`stream_guidance` of both clients: hints that are read while they are written.

    for event in client.stream_guidance([text]):
        if isinstance(event, GuidanceToken):        # a piece of a hint
            print(event.text, end="", flush=True)
        else:                                       # the last event: the whole GuidanceResponse
            print(event.results[0].hints[0].log_prob)

Until the answer begins, failures are retried as in every call. After that nothing is: the
service's `error` event is raised as the error it names, a stream that breaks off as
`ServiceUnreachable`, one that takes too long as `DeadlineExceeded`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Literal, TypeAlias

import httpx
from pydantic import ValidationError

from hintwise.errors import BY_STATUS, BY_TITLE, DeadlineExceeded, HintwiseError, Offence, ServiceUnreachable
from hintwise.request_body import Actions, Observations, Seeds, Tasks
from hintwise.schemas import GuidanceResponse, GuidanceToken, Problem

if TYPE_CHECKING:
    from hintwise.async_client import AsyncClient
    from hintwise.client import Client
    from hintwise.client_core import Call

GuidanceEvent: TypeAlias = GuidanceToken | GuidanceResponse
"""A piece of a hint, or at last the whole answer."""


def stream_guidance(
    self: Client,
    observations: Observations,
    actions: Actions = None,
    *,
    env_id: str | None = None,
    task: Tasks = None,
    mode: Literal["free", "ranked"] = "free",
    candidates: Sequence[str] | None = None,
    num_hints: int = 1,
    max_new_tokens: int = 32,
    temperature: float = 0.7,
    seed: Seeds = None,
) -> Generator[GuidanceEvent]:
    """Yields a `GuidanceToken` for each piece of text, and at last the whole `GuidanceResponse`.

    The pieces of a hint together are its text. Nothing is sent before the first event is asked
    for. The service stops writing when the iterator is closed before its end.

    Args: As in `guidance`; in mode `ranked` the answer is the only event.

    Raises:
        HintwiseError: As every call; also between two events.
    """
    call = self._wire.stream_guidance(
        observations=observations,
        actions=actions,
        env_id=env_id,
        task=task,
        mode=mode,
        candidates=candidates,
        num_hints=num_hints,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    return _events(self, call)


def stream_guidance_async(
    self: AsyncClient,
    observations: Observations,
    actions: Actions = None,
    *,
    env_id: str | None = None,
    task: Tasks = None,
    mode: Literal["free", "ranked"] = "free",
    candidates: Sequence[str] | None = None,
    num_hints: int = 1,
    max_new_tokens: int = 32,
    temperature: float = 0.7,
    seed: Seeds = None,
) -> AsyncGenerator[GuidanceEvent]:
    """Yields pieces of hints, and at last the whole answer; see `Client.stream_guidance`.

    To leave before the end, close the iterator (`contextlib.aclosing`): a `break` alone does not.
    """
    call = self._wire.stream_guidance(
        observations=observations,
        actions=actions,
        env_id=env_id,
        task=task,
        mode=mode,
        candidates=candidates,
        num_hints=num_hints,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    return _async_events(self, call)


class EventReader:
    """Turns the bytes of an answer into events, however they are cut into chunks.

    Lines end at line feeds alone: what Python also takes for a line break may stand in a hint.

    Args:
        response: An answer that has begun.

    Raises:
        HintwiseError: It is no stream of events.
    """

    def __init__(self, response: httpx.Response) -> None:
        if not _is_stream(response):
            raise HintwiseError(
                f"{response.url} answered {response.status_code}, but not with a stream of events: "
                "a proxy in between, or not a Hintwise service",
                request_id=response.headers.get("x-request-id"),
            )
        self._response = response
        self._line = b""
        self._name, self._data = "", b""
        self._is_done = False

    def feed(self, chunk: bytes) -> Iterator[GuidanceEvent]:
        """Yields the events that `chunk` completes.

        Raises:
            HintwiseError: The service reports a failure, or time is up.
        """
        if monotonic() > self._response.request.extensions["ends_s"] and not self._is_done:
            raise _broken(self._response, httpx.ReadTimeout("time is up"))
        *lines, self._line = (self._line + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            if name == b"event":
                self._name = value.strip().decode(errors="replace")
            elif name == b"data":
                self._data += value
            elif not line.rstrip(b"\r"):
                yield from self._event()
                self._name, self._data = "", b""

    def end(self) -> None:
        """Raises `ServiceUnreachable` when the stream ends before its last event."""
        if not self._is_done:
            raise _broken(self._response, httpx.RemoteProtocolError("it ended before its last event"))

    def _event(self) -> Iterator[GuidanceEvent]:
        try:
            if self._name == "token":
                yield GuidanceToken.model_validate_json(self._data)
            elif self._name == "done":
                answer = GuidanceResponse.model_validate_json(self._data)
                self._is_done = True
                yield answer
            elif self._name == "error":
                raise self._reported(Problem.model_validate_json(self._data))
        except ValidationError as error:
            raise HintwiseError(
                f"{self._response.url} sent a {self._name} event that cannot be read: another version of the service?",
                request_id=self._response.headers.get("x-request-id"),
            ) from error

    def _reported(self, problem: Problem) -> HintwiseError:
        kind = BY_TITLE.get(problem.title, BY_STATUS.get(problem.status, HintwiseError))
        named = [Offence(entry.field, entry.message) for entry in problem.errors]
        return kind(problem.detail, errors=named, request_id=self._response.headers.get("x-request-id"))


def _events(client: Client, call: Call[httpx.Response]) -> Generator[GuidanceEvent]:
    """Sends what `call` yields, and reads the answer while it comes."""

    def send(request: httpx.Request) -> httpx.Response:
        _set_end(request)
        response = client._http.send(request, stream=True)
        if not _is_stream(response):
            response.read()
        return response

    response = client._run(call, send)
    try:
        reader = EventReader(response)
        for chunk in response.iter_bytes():
            yield from reader.feed(chunk)
        reader.end()
    except httpx.RequestError as error:
        raise _broken(response, error) from error
    finally:
        response.close()


async def _async_events(client: AsyncClient, call: Call[httpx.Response]) -> AsyncGenerator[GuidanceEvent]:
    """As `_events`."""

    async def send(request: httpx.Request) -> httpx.Response:
        _set_end(request)
        response = await client._http.send(request, stream=True)
        if not _is_stream(response):
            await response.aread()
        return response

    response = await client._run(call, send)
    try:
        reader = EventReader(response)
        async for chunk in response.aiter_bytes():
            for event in reader.feed(chunk):
                yield event
        reader.end()
    except httpx.RequestError as error:
        raise _broken(response, error) from error
    finally:
        await response.aclose()


def _set_end(request: httpx.Request) -> None:
    """Notes when the whole stream must have been read: each wait for bytes has a limit, their sum needs one, too."""
    request.extensions["ends_s"] = monotonic() + request.extensions["timeout"]["read"]


def _is_stream(response: httpx.Response) -> bool:
    media_type = str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()
    return response.is_success and media_type == "text/event-stream"


def _broken(response: httpx.Response, error: httpx.RequestError) -> HintwiseError:
    """Returns what a stream that ends too early means."""
    request_id = response.headers.get("x-request-id")
    if isinstance(error, httpx.TimeoutException):
        told = f"the stream from {response.url} took too long; ask for less at once, or raise timeout_s"
        return DeadlineExceeded(told, request_id=request_id)
    reason = str(error).rstrip(".") or type(error).__name__
    return ServiceUnreachable(f"the stream from {response.url} broke off: {reason}; ask again", request_id=request_id)
