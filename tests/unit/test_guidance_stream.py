"""`stream_guidance` of both clients against scripted streams: no socket, and a clock that a test moves."""

import contextlib
import inspect
import json

import httpx
import pytest

from hintwise import AsyncClient, Client, guidance_stream
from hintwise.errors import (
    BY_TITLE,
    DeadlineExceeded,
    HintwiseError,
    InvalidRequest,
    Offence,
    Overloaded,
    ServiceUnreachable,
)
from hintwise.schemas import GuidanceRequest, GuidanceResponse, GuidanceToken

HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Request-Id": "req-1"}
HINT = {"text": "push left", "log_prob": -5.2, "finish_reason": "stop"}
ANSWER = {"model": "embedded", "model_sha256": "ab", "results": [{"hints": [HINT]}], "mood": "a newer service"}


def event(name, data):
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def token(text, observation=0, hint=0):
    return event("token", {"observation": observation, "hint": hint, "text": text})


def reported(title, status, detail="it went wrong"):
    entries = [{"field": "observations[0]", "message": "bad"}]
    return event(
        "error", {"type": "about:blank", "title": title, "status": status, "detail": detail, "errors": entries}
    )


PUSH, LEFT, DONE = token("push"), token(" left"), event("done", ANSWER)


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives in pieces; an exception among them is raised in its place, a function is called."""

    def __init__(self, chunks):
        self.chunks, self.num_sent, self.closed = chunks, 0, False

    def __iter__(self):
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if callable(chunk):
                chunk()
                continue
            self.num_sent += 1
            yield chunk

    async def __aiter__(self):
        for chunk in self:
            yield chunk

    def close(self):
        self.closed = True

    async def aclose(self):
        self.closed = True


class ScriptedService:
    """Answers in the order of the script, and keeps what it was sent."""

    def __init__(self, kind):
        self.kind, self.requests, self.sleeps = kind, [], []

    def client(self, *script, **settings):
        self.script = [Chunks(each) if isinstance(each, list) else each for each in script]
        kind = {"sync": Client, "async": AsyncClient}[self.kind]
        client = kind("http://service", transport=httpx.MockTransport(self._answer), **settings)
        client._sleep = self._async_sleep if self.kind == "async" else self.sleeps.append
        return client

    async def events(self, client, *arguments, count=None, **options):
        """Returns the events, and what was raised after them; leaves after `count` of them."""
        given, stream = [], client.stream_guidance(*arguments, **options)
        try:
            if self.kind == "async":
                async with contextlib.aclosing(stream):
                    async for each in stream:
                        given.append(each)
                        if len(given) == count:
                            break
            else:
                for each in stream:
                    given.append(each)
                    if len(given) == count:
                        break
                stream.close()
        except HintwiseError as error:
            return given, error
        return given, None

    def _answer(self, request):
        self.requests.append(request)
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(200, headers=HEADERS, stream=answer) if isinstance(answer, Chunks) else answer

    async def _async_sleep(self, seconds):
        self.sleeps.append(seconds)


@pytest.fixture(params=["sync", "async"])
def service(request, monkeypatch):
    for name in ("HINTWISE_URL", "HINTWISE_TOKEN", "HINTWISE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return ScriptedService(request.param)


def texts(events):
    return [each.text for each in events if isinstance(each, GuidanceToken)]


async def test_tokens_and_then_the_whole_answer(service):
    events, error = await service.events(service.client([PUSH, LEFT, DONE]), ["pole"], num_hints=2, seed=3)
    assert error is None
    assert texts(events) == ["push", " left"]
    assert isinstance(events[-1], GuidanceResponse)
    assert events[-1].results[0].hints[0].text == "push left"
    sent = json.loads(service.requests[0].content)
    assert sent == {"observations": ["pole"], "num_hints": 2, "seed": 3, "stream": True}
    assert "text/event-stream" in service.requests[0].headers["accept"]


async def test_every_argument_is_sent(service):
    given = {
        "env_id": "CartPole-v1",
        "task": "Stay.",
        "mode": "ranked",
        "candidates": ["a", "b"],
        "num_hints": 2,
        "max_new_tokens": 5,
        "temperature": 0,
        "seed": [4],
    }
    await service.events(service.client([DONE]), ["a"], ["go"], **given)
    sent = json.loads(service.requests[0].content)
    assert sent == {"observations": ["a"], "actions": ["go"], **given, "stream": True}
    GuidanceRequest.model_validate(sent)
    client = service.client(httpx.Response(200, json=ANSWER))
    answer = client.guidance(["a"], ["go"], **given)
    if inspect.isawaitable(answer):
        await answer
    assert json.loads(service.requests[-1].content) == {"observations": ["a"], "actions": ["go"], **given}


async def test_nothing_is_sent_before_the_first_event_is_asked_for(service):
    service.client([DONE]).stream_guidance(["a"])
    assert service.requests == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1_000])
async def test_chunks_may_end_anywhere(service, size):
    """Also within a character; and what only looks like a line break stays in the text."""
    whole = (
        b": a comment\n\n"
        + token("a\u2028b\x85c\x0bé€𝄞\r\nd")
        + event("news", [1])
        + PUSH.replace(b"\n", b"\r\n")
        + DONE
    )
    chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
    events, error = await service.events(service.client(chunks), ["a"])
    assert error is None
    assert texts(events) == ["a\u2028b\x85c\x0bé€𝄞\r\nd", "push"]
    assert isinstance(events[-1], GuidanceResponse)


async def test_leaving_early_closes_the_connection(service):
    client = service.client([PUSH, LEFT, DONE])
    chunks = service.script[0]
    events, error = await service.events(client, ["a"], count=1)
    assert (texts(events), error) == (["push"], None)
    assert chunks.closed
    assert chunks.num_sent == 1


async def test_a_full_queue_is_retried_until_the_answer_begins(service):
    problem = {"type": "about:blank", "title": "Queue full", "status": 429, "detail": "later", "errors": []}
    headers = {"Content-Type": "application/problem+json", "Retry-After": "3"}
    busy = httpx.Response(429, json=problem, headers=headers)
    client = service.client(httpx.ConnectError("refused"), busy, [PUSH, DONE])
    events, error = await service.events(client, ["a"])
    assert (texts(events), error, len(service.requests)) == (["push"], None, 3)
    assert service.sleeps[1] == 3
    client = service.client(httpx.Response(429, json=problem, headers=headers), retry_s=0)
    assert type((await service.events(client, ["a"]))[1]) is Overloaded


async def test_a_refusal_is_raised_with_its_fields(service):
    problem = {"type": "about:blank", "title": "Invalid request", "status": 422, "detail": "no", "errors": []}
    problem["errors"] = [{"field": "candidates", "message": "is empty"}]
    content = Chunks([json.dumps(problem).encode()])  # its body must be read first
    answer = httpx.Response(422, stream=content, headers={"Content-Type": "application/problem+json"})
    events, error = await service.events(service.client(answer), ["a"])
    assert events == []
    assert type(error) is InvalidRequest
    assert error.errors == (Offence("candidates", "is empty"),)


@pytest.mark.parametrize("title", sorted(BY_TITLE))
async def test_an_error_event_is_raised_as_what_it_names_and_not_retried(service, title):
    kind = BY_TITLE[title]
    events, error = await service.events(service.client([PUSH, reported(title, kind.status)]), ["a"])
    assert texts(events) == ["push"]
    assert type(error) is kind
    assert (error.detail, error.request_id) == ("it went wrong", "req-1")
    assert error.errors == (Offence("observations[0]", "bad"),)
    assert len(service.requests) == 1


async def test_an_unknown_title_in_an_error_event_is_the_class_of_its_status(service):
    assert type((await service.events(service.client([reported("Teapot", 504)]), ["a"]))[1]) is DeadlineExceeded
    assert type((await service.events(service.client([reported("Teapot", 418)]), ["a"]))[1]) is HintwiseError


@pytest.mark.parametrize(
    ("ending", "becomes"),
    [
        ([], ServiceUnreachable),
        ([DONE[:-1]], ServiceUnreachable),
        ([httpx.ReadError("connection reset")], ServiceUnreachable),
        ([httpx.RemoteProtocolError("")], ServiceUnreachable),
        ([httpx.ReadTimeout("")], DeadlineExceeded),
    ],
)
async def test_a_stream_that_breaks_off_is_raised_and_not_retried(service, ending, becomes):
    events, error = await service.events(service.client([PUSH, *ending]), ["a"])
    assert texts(events) == ["push"]
    assert type(error) is becomes
    assert "http://service/guidance" in error.detail
    assert error.request_id == "req-1"
    assert len(service.requests) == 1


async def test_a_stream_that_trickles_on_past_the_deadline_is_left(service, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(guidance_stream, "monotonic", lambda: now[0])

    def wait():
        now[0] += 4

    client = service.client([PUSH, wait, LEFT, wait, wait, PUSH, DONE], timeout_s=10)
    chunks = service.script[0]
    events, error = await service.events(client, ["a"])
    assert texts(events) == ["push", " left"]
    assert type(error) is DeadlineExceeded
    assert "timeout_s" in error.detail
    assert chunks.closed


@pytest.mark.parametrize("body", [{"json": ANSWER}, {"html": "<h1>nginx</h1>"}])
async def test_another_kind_of_answer_is_told(service, body):
    events, error = await service.events(service.client(httpx.Response(200, **body)), ["a"])
    assert events == []
    assert "not with a stream of events" in error.detail


@pytest.mark.parametrize("name", ["token", "done", "error"])
async def test_an_event_that_cannot_be_read_is_told(service, name):
    _, error = await service.events(service.client([event(name, {"observation": "first"})]), ["a"])
    assert type(error) is HintwiseError
    assert f"{name} event" in error.detail
