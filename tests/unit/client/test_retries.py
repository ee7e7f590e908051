"""Which failures are tried again, how long the waits are, and how one waits for a service that starts."""

import math

import httpx
import pytest

from hintwise.client_core import ANSWER_GRACE_S, MIN_RETRY_TIMEOUT_S
from hintwise.errors import DeadlineExceeded, NotFound, Overloaded, ServiceUnreachable, Unavailable
from tests.unit.client.scripted import ACTED, ACTIONS, BUSY, REFUSED, RESET, SILENT, STARTING, fails, html, ok, problem


@pytest.mark.parametrize("lost", [REFUSED, RESET, SILENT, BUSY, STARTING, fails(httpx.RemoteProtocolError("gone"))])
async def test_a_passing_failure_is_retried(service, lost):
    answer = await service.call(service.client(lost, lost, ACTED), "act", ["a"], ACTIONS)
    assert answer.policy_version == 12
    assert len({request.content for request in service.requests}) == 1
    assert len(service.requests) == 3
    assert len(service.sleeps) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415, 422, 428, 500, 502, 504])
async def test_other_failures_are_not_retried(service, status):
    await service.failure(service.client(problem(status, "?", headers={"Retry-After": "1"})), "info")
    assert len(service.requests) == 1
    assert service.sleeps == []


async def test_retry_after_is_waited_for(service):
    await service.call(service.client(BUSY, ACTED), "act", ["a"], ACTIONS)
    assert service.sleeps == [3.0]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "1e3", "\u0663"])
async def test_a_retry_after_without_whole_seconds_is_ignored(service, full_backoff, value):
    busy = problem(429, "Queue full", headers={"Retry-After": value.encode()})
    await service.call(service.client(busy, ACTED), "act", ["a"], ACTIONS)
    assert service.sleeps == [0.1]


async def test_backoff_doubles_to_its_ceiling_with_full_jitter(service, full_backoff):
    await service.call(service.client(*[REFUSED] * 7, ACTED), "act", ["a"], ACTIONS)
    assert full_backoff == [(0.0, high) for high in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0)]
    assert service.sleeps == [high for _, high in full_backoff]


async def test_no_wait_passes_the_budget(service, full_backoff):
    error = await service.failure(service.client(REFUSED, retry_s=5), "info")
    assert service.sleeps == [0.1, 0.2, 0.4, 0.8, 1.6]  # 3.1 s; another 2 s would pass 5 s
    assert isinstance(error, ServiceUnreachable)
    assert "waited 3 s" in error.detail


async def test_a_retry_after_beyond_the_budget_is_raised_at_once(service):
    error = await service.failure(service.client(BUSY, retry_s=3), "info")
    assert isinstance(error, Overloaded)
    assert service.sleeps == []


async def test_without_a_budget_there_is_one_attempt(service):
    await service.failure(service.client(REFUSED, retry_s=0), "info")
    assert len(service.requests) == 1


async def test_an_endless_budget_never_overflows(service):
    await service.call(service.client(*[REFUSED] * 1100, ACTED, retry_s=math.inf), "act", ["a"], ACTIONS)
    assert len(service.sleeps) == 1100
    assert max(service.sleeps) <= 2


async def test_time_spent_in_an_attempt_counts_against_the_budget(service):
    def slow(request):
        service.now_s += 31
        raise httpx.ReadTimeout("timed out")

    error = await service.failure(service.client(slow, retry_s=60), "info")
    assert isinstance(error, DeadlineExceeded)
    assert len(service.requests) == 2


async def test_the_last_error_is_the_one_raised(service, full_backoff):
    error = await service.failure(service.client(REFUSED, SILENT, BUSY, retry_s=1), "info")
    assert isinstance(error, Overloaded)


async def test_on_wait_hears_of_every_wait_before_it(service, full_backoff):
    heard = []
    client = service.client(
        REFUSED, BUSY, ACTED, on_wait=lambda error, waited_s: heard.append((type(error), waited_s, len(service.sleeps)))
    )
    await service.call(client, "act", ["a"], ACTIONS)
    assert heard == [(ServiceUnreachable, 0.0, 0), (Overloaded, pytest.approx(0.1), 1)]


async def test_on_wait_is_silent_when_there_is_no_wait(service):
    heard = []
    await service.failure(service.client(REFUSED, retry_s=0, on_wait=lambda *told: heard.append(told)), "info")
    assert heard == []


async def test_every_attempt_tells_the_service_its_deadline(service):
    busy = problem(429, "Queue full", headers={"Retry-After": "8"})
    await service.call(service.client(busy, busy, ACTED, timeout_s=5, retry_s=20), "act", ["a"], ACTIONS)
    assert [request.headers["x-request-timeout-ms"] for request in service.requests] == ["5000", "5000", "4000"]
    timeouts = [request.extensions["timeout"] for request in service.requests]
    assert [timeout["connect"] for timeout in timeouts] == [5, 5, 4]
    assert [timeout["read"] for timeout in timeouts] == [s + ANSWER_GRACE_S for s in (5, 5, 4)]


async def test_the_first_attempt_gets_all_of_its_time_whatever_the_budget(service):
    await service.call(service.client(ACTED, timeout_s=5, retry_s=0), "act", ["a"], ACTIONS)
    assert service.requests[0].headers["x-request-timeout-ms"] == "5000"


async def test_a_retry_that_begins_late_still_gets_a_moment(service, monkeypatch):
    def oversleep(seconds):
        service.now_s += seconds + 100

    monkeypatch.setattr(service, "_sleep", oversleep)
    await service.call(service.client(BUSY, ACTED, retry_s=4), "act", ["a"], ACTIONS)
    assert service.requests[1].extensions["timeout"]["connect"] == MIN_RETRY_TIMEOUT_S


async def test_a_tiny_timeout_is_still_a_whole_millisecond(service):
    await service.call(service.client(ACTED, timeout_s=0.0001), "act", ["a"], ACTIONS)
    assert service.requests[0].headers["x-request-timeout-ms"] == "1"


@pytest.mark.parametrize(
    ("answer", "ready"), [(ok("ready"), True), (STARTING, False), (REFUSED, False), (SILENT, False)]
)
async def test_is_ready_asks_once(service, answer, ready):
    assert await service.call(service.client(answer), "is_ready") is ready
    assert [request.url.path for request in service.requests] == ["/readyz"]


async def test_wait_until_ready_outlasts_a_start(service):
    client = service.client(*[REFUSED] * 9, STARTING, ok("ready"), retry_s=0)
    assert await service.call(client, "wait_until_ready", 60) is None
    assert len(service.requests) == 11
    assert max(service.sleeps) <= 0.25  # a probe is cheap, and somebody waits


async def test_wait_until_ready_gives_up(service):
    error = await service.failure(service.client(STARTING, retry_s=0), "wait_until_ready", 4)
    assert type(error) is Unavailable
    assert 3 < sum(service.sleeps) < 4
    assert service.requests[0].headers["x-request-timeout-ms"] == "4000"


async def test_wait_until_ready_does_not_wait_for_something_else(service):
    assert type(await service.failure(service.client(html(404)), "wait_until_ready", 60)) is NotFound
