"""Both clients against a scripted service: no socket, and a clock that only sleeping moves."""

import asyncio
import base64
import hashlib
import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hintwise import AsyncClient, Client, client_core, errors
from hintwise.client_core import ANSWER_GRACE_S, MIN_RETRY_TIMEOUT_S
from hintwise.errors import (
    BY_STATUS,
    BY_TITLE,
    DeadlineExceeded,
    HintwiseError,
    InvalidRequest,
    NotFound,
    Offence,
    Overloaded,
    ServiceUnreachable,
    Unavailable,
    VersionConflict,
    WeightsRejected,
)
from hintwise.large_body import PIECE_BYTES, LargeBody
from hintwise.request_body import to_body
from hintwise.schemas import ActRequest, GuidanceRequest, RewardItem, RewardRequest

ROOT = Path(__file__).parents[2]
SECRET = "tok-3141592653"  # noqa: S105 (no real one)
ACTIONS = ["push left", "push right"]
DATA = b"safetensors, honestly"
SHA256 = hashlib.sha256(DATA).hexdigest()


def ok(body):
    return lambda request: httpx.Response(200, json=body)


def problem(status, title, *, headers=None, entries=(), detail="it went wrong"):
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "errors": list(entries)}
    headers = {"Content-Type": "application/problem+json", "X-Request-Id": "req-1", **(headers or {})}
    return lambda request: httpx.Response(status, content=json.dumps(body), headers=headers)


def html(status):
    return lambda request: httpx.Response(status, html="<html><h1>nginx</h1></html>")


def fails(error):
    def answer(request):
        raise error

    return answer


ACTED = ok(
    {
        "policy_version": 12,
        "readout": "phrase",
        "fashion": "a newer service",
        "results": [
            {
                "action": 1,
                "label": "push right",
                "log_prob": -0.11,
                "log_probs": [-2.3, -0.11],
                "scores": [0.1, 2.3],
                "value": 17.2,
                "num_prompt_tokens": 21,
                "mood": "unknown to this client",
            }
        ],
    }
)
GUIDED = ok(
    {
        "model": "embedded",
        "model_sha256": "ab",
        "results": [{"hints": [{"text": "push right", "log_prob": -5.2, "finish_reason": "stop"}]}],
    }
)
REWARDED = ok({"scorer": "alignment", "model": "embedded", "model_sha256": "ab", "results": [{"reward": 0.42}]})
MODEL = {"name": "embedded", "sha256": "ab", "architecture": "gpt2", "num_parameters": 5, "max_prompt_tokens": 9}
LIMITS = (
    "max_observations max_guidance_observations max_reward_items max_actions max_body_bytes max_weights_bytes "
    "max_batch_tokens max_queue_observations max_request_timeout_ms default_request_timeout_ms"
)
INFORMED = ok(
    {
        "api_version": 1,
        "policy_version": 3,
        "readout": "head",
        "prompt_template_version": 1,
        "device": "cpu",
        "policy": MODEL,
        "guidance": MODEL,
        "scorer": MODEL,
        "scorers": ["alignment"],
        "env_ids": ["CartPole-v1"],
        "limits": dict.fromkeys(LIMITS.split(), 7),
    }
)


def weighed(policy_version, sha256=SHA256):
    return ok(
        {
            "policy_version": policy_version,
            "sha256": sha256,
            "num_parameters": 5,
            "architecture": "gpt2",
            "tokenizer_sha256": "cd",
            "retained_versions": [policy_version],
            "created_at": "2026-01-01T00:00:00Z",
            "durable": True,
        }
    )


BUSY = problem(429, "Queue full", headers={"Retry-After": "3"})
STARTING = problem(503, "Unavailable")
CONFLICT = problem(409, "Version conflict")
REFUSED = fails(httpx.ConnectError("[Errno 111] Connection refused"))
RESET = fails(httpx.ReadError("connection reset"))
SILENT = fails(httpx.ReadTimeout("timed out"))


class ScriptedService:
    """Answers in the order of the script, the last answer for ever, and keeps what it was sent."""

    def __init__(self, kind):
        self.kind, self.script, self.requests, self.sleeps, self.now_s = kind, [], [], [], 1000.0

    def client(self, *script, base_url="http://service", **settings):
        self.script = list(script)
        kind = {"sync": Client, "async": AsyncClient}[self.kind]
        client = kind(base_url, transport=httpx.MockTransport(self._answer), **settings)
        client._sleep = self._async_sleep if self.kind == "async" else lambda seconds: self._sleep(seconds)
        return client

    async def call(self, client, name, *arguments, **options):
        result = getattr(client, name)(*arguments, **options)
        return await result if inspect.isawaitable(result) else result

    async def failure(self, client, name, *arguments, **options):
        with pytest.raises(HintwiseError) as caught:
            await self.call(client, name, *arguments, **options)
        return caught.value

    @property
    def sent(self):
        return json.loads(self.requests[-1].content)

    def _answer(self, request):
        self.requests.append(request)
        assert len(self.requests) < 2000, "the client never gives up"
        return (self.script.pop(0) if len(self.script) > 1 else self.script[0])(request)

    def _sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now_s += seconds

    async def _async_sleep(self, seconds):
        self._sleep(seconds)


@pytest.fixture(params=["sync", "async"])
def service(request, monkeypatch):
    service = ScriptedService(request.param)
    monkeypatch.setattr(client_core, "monotonic", lambda: service.now_s)
    return service


@pytest.fixture(autouse=True)
def no_settings_of_the_caller(monkeypatch):
    for name in ("HINTWISE_URL", "HINTWISE_TOKEN", "HINTWISE_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def full_backoff(monkeypatch):
    """Waits draw the highest number of the range they ask for; the ranges are kept."""
    ranges = []
    monkeypatch.setattr(client_core.random, "uniform", lambda low, high: ranges.append((low, high)) or high)
    return ranges


# What is sent, and what comes back


async def test_act_parses_the_answer_and_ignores_unknown_fields(service):
    answer = await service.call(service.client(ACTED), "act", ["pole leans"], ACTIONS)
    assert (answer.policy_version, answer.results[0].label, answer.results[0].value) == (12, "push right", 17.2)
    assert str(service.requests[0].url) == "http://service/act"
    assert service.requests[0].method == "POST"
    assert service.requests[0].headers["content-type"] == "application/json"


async def test_every_other_call_parses_its_answer(service):
    hints = await service.call(service.client(GUIDED), "guidance", ["pole leans"], num_hints=1, seed=3)
    assert hints.results[0].hints[0].text == "push right"
    assert service.sent == {"observations": ["pole leans"], "seed": 3}
    rewards = await service.call(service.client(REWARDED), "reward", [{"hint": "h", "observation": "o"}], gamma=0.9)
    assert rewards.results[0].reward == 0.42
    weights = await service.call(service.client(weighed(5)), "weights")
    assert (weights.policy_version, weights.sha256) == (5, SHA256)
    info = await service.call(service.client(INFORMED), "info")
    assert (info.env_ids, info.limits.max_actions) == (["CartPole-v1"], 7)
    data = await service.call(service.client(lambda request: httpx.Response(200, content=DATA)), "download_weights", 5)
    assert data == DATA
    paths = [(request.method, request.url.path) for request in service.requests]
    assert paths == [
        ("POST", "/guidance"),
        ("POST", "/reward"),
        ("GET", "/weights"),
        ("GET", "/info"),
        ("GET", "/weights/5"),
    ]


async def test_only_given_fields_are_sent(service):
    client = service.client(ACTED)
    await service.call(client, "act", ["a"], ACTIONS, mode="sample", temperature=1.0)
    assert service.sent == {"observations": ["a"], "actions": ACTIONS}
    given_fields = {
        "env_id": "CartPole-v1",
        "task": "Keep it up.",
        "hints": ["push right"],
        "mode": "epsilon",
        "epsilon": 0.0,
        "temperature": 0,
        "seed": 0,
    }
    await service.call(client, "act", ["a"], ACTIONS, **given_fields)
    assert service.sent == {"observations": ["a"], "actions": ACTIONS, **given_fields}
    ActRequest.model_validate(service.sent)


async def test_reward_takes_items_as_models_and_as_mappings(service):
    item = {"hint": "h", "observation": "o", "actions": ACTIONS, "action": "push left", "terminated": True}
    for items in ([RewardItem(**item)], [item], (i for i in [item])):
        await service.call(service.client(REWARDED), "reward", items)
        assert service.sent == {"items": [item]}


async def test_numpy_observations_are_sent_as_numbers(service):
    raw = [
        np.array([0.5, -1.5], dtype=np.float32),
        np.float32(0.25),
        np.int64(3),
        {"image": np.zeros((1, 2), np.uint8)},
    ]
    await service.call(service.client(ACTED), "act", raw, env_id="X-v0", seed=np.arange(4))
    assert service.sent["observations"] == [[0.5, -1.5], 0.25, 3, {"image": [[0, 0]]}]
    assert service.sent["seed"] == [0, 1, 2, 3]
    await service.call(service.client(ACTED), "act", np.eye(2), env_id="X-v0")
    assert service.sent["observations"] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "bad", [math.nan, -math.inf, np.float32("nan"), np.array([1.0, np.inf]), {"image": [math.nan]}]
)
async def test_nan_is_refused_before_sending_and_the_observation_named(service, bad):
    error = await service.failure(service.client(ACTED), "act", [0.5, bad], env_id="X-v0")
    assert isinstance(error, InvalidRequest)
    assert [offence.field for offence in error.errors] == ["observations[1]"]
    assert "NaN" in error.errors[0].message
    assert service.requests == []


async def test_only_the_first_of_many_bad_observations_are_named(service):
    error = await service.failure(service.client(ACTED), "act", [math.nan] * 100, env_id="X-v0")
    assert [offence.field for offence in error.errors] == [f"observations[{i}]" for i in range(8)]


async def test_a_bad_text_is_named_whole_not_by_its_letters(service):
    error = await service.failure(service.client(ACTED), "act", ["a"], ACTIONS, task="half a pair: \ud800")
    assert [offence.field for offence in error.errors] == ["task"]


async def test_other_containers_are_sent_as_lists_and_objects(service):
    raw = [range(2), MappingProxyType({"mission": "go"}), (1, 2)]
    await service.call(service.client(ACTED), "act", raw, env_id="X-v0")
    assert service.sent["observations"] == [[0, 1], {"mission": "go"}, [1, 2]]


async def test_nan_in_a_one_shot_iterable_is_refused_too(service):
    error = await service.failure(service.client(ACTED), "act", iter([math.nan]), env_id="X-v0")
    assert isinstance(error, InvalidRequest)
    assert service.requests == []


async def test_nan_in_a_setting_names_the_setting(service):
    error = await service.failure(service.client(ACTED), "act", ["a"], ACTIONS, temperature=math.nan)
    assert [offence.field for offence in error.errors] == ["temperature"]


async def test_a_text_that_says_nan_is_sent(service):
    await service.call(service.client(ACTED), "act", ["the reading is NaN, not Infinity"], ACTIONS)
    assert len(service.requests) == 1


@pytest.mark.parametrize("bad", [object(), "half a pair: \ud800", np.longdouble(1)])
async def test_what_json_cannot_hold_is_refused_and_named(service, bad):
    error = await service.failure(service.client(ACTED), "act", ["fine", bad], ACTIONS)
    assert isinstance(error, InvalidRequest)
    assert [offence.field for offence in error.errors] == ["observations[1]"]
    assert service.requests == []


NUMBERS = st.floats() | st.integers(-(2**63), 2**63)
OBSERVATIONS = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2)
)


@settings(max_examples=60)
@given(st.lists(OBSERVATIONS, max_size=4))
def test_a_body_is_strict_json_or_refused(observations):
    try:
        wanted = json.loads(json.dumps(observations, allow_nan=False))
    except ValueError:
        with pytest.raises(InvalidRequest, match=r"observations\[\d+\]"):
            to_body(ActRequest, {"observations": observations})
    else:
        assert json.loads(to_body(ActRequest, {"observations": observations})) == {"observations": wanted}


# Failures


@pytest.mark.parametrize("title", sorted(BY_TITLE))
async def test_a_problem_becomes_the_class_of_its_title(service, title):
    kind = BY_TITLE[title]
    entries = [{"field": "observations[3]", "message": "too long", "extra": 1}]
    answer = problem(kind.status, title, headers={"Retry-After": "4"}, entries=entries)
    error = await service.failure(service.client(answer, retry_s=0), "info")
    assert type(error) is kind
    assert error.detail == "it went wrong"
    assert error.errors == (Offence("observations[3]", "too long"),)
    assert (error.retry_after_s, error.request_id) == (4.0, "req-1")


@pytest.mark.parametrize("status", sorted(BY_STATUS))
async def test_an_unknown_title_becomes_the_class_of_its_status(service, status):
    error = await service.failure(service.client(problem(status, "Teapot"), retry_s=0), "info")
    assert type(error) is BY_STATUS[status]
    assert error.detail == "it went wrong"


@pytest.mark.parametrize("status", [302, 404, 418, 502, 503])
async def test_html_from_a_proxy_still_gives_the_class_and_says_what_it_is(service, status):
    error = await service.failure(service.client(html(status), retry_s=0), "info")
    assert type(error) is BY_STATUS.get(status, HintwiseError)
    for part in ("http://service/info", str(status), "text/html", "proxy"):
        assert part in error.detail


@pytest.mark.parametrize("body", [b"", b"[]", b'{"title": "Not found"}', b"\xff"])
async def test_a_mangled_problem_gives_the_class_of_its_status(service, body):
    headers = {"Content-Type": "application/problem+json"}
    client = service.client(lambda request: httpx.Response(404, content=body, headers=headers))
    assert type(await service.failure(client, "info")) is NotFound


async def test_only_a_problem_report_is_believed(service):
    answer = problem(422, "Weights rejected", headers={"Content-Type": "application/json"})
    assert type(await service.failure(service.client(answer), "info")) is InvalidRequest
    answer = problem(422, "Weights rejected", headers={"Content-Type": "Application/Problem+JSON; charset=utf-8"})
    assert type(await service.failure(service.client(answer), "info")) is WeightsRejected


async def test_a_good_status_with_another_body_is_a_hintwise_error(service):
    error = await service.failure(service.client(html(200)), "act", ["a"], ACTIONS)
    assert type(error) is HintwiseError
    assert "ActResponse" in error.detail


async def test_a_refused_connection_says_where_why_and_what_to_do(service):
    error = await service.failure(service.client(REFUSED, retry_s=0), "info")
    assert type(error) is ServiceUnreachable
    assert error.detail.startswith("no service answers at http://service (waited 0 s): Connection refused; start one")
    assert "python -m service" in error.detail
    assert "--service-url" in error.detail
    assert isinstance(error.__cause__, httpx.ConnectError)


@pytest.mark.parametrize(
    ("kind", "becomes"),
    [
        (httpx.ReadTimeout, DeadlineExceeded),
        (httpx.WriteTimeout, DeadlineExceeded),
        (httpx.ConnectTimeout, ServiceUnreachable),
        (httpx.ReadError, ServiceUnreachable),
        (httpx.RemoteProtocolError, ServiceUnreachable),
        (httpx.DecodingError, ServiceUnreachable),
    ],
)
async def test_no_exception_of_httpx_reaches_the_caller(service, kind, becomes):
    error = await service.failure(service.client(fails(kind("")), retry_s=0), "info")
    assert type(error) is becomes
    assert kind.__name__ in error.detail or becomes is DeadlineExceeded


# Retries and deadlines


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


# Weights


async def test_a_large_body_goes_in_pieces_and_whole_again_when_it_is_retried(service):
    data = bytes(range(256)) * (3 * PIECE_BYTES // 256) + b"end"
    await service.call(service.client(RESET, weighed(6)), "put_weights", data, if_match=5)
    assert [request.read() if service.kind == "sync" else await request.aread() for request in service.requests] == [
        data,
        data,
    ]
    for request in service.requests:
        assert request.headers["content-length"] == str(len(data))
        assert request.headers["host"] == "service"
        assert "transfer-encoding" not in request.headers


def test_no_piece_is_longer_than_the_socket_takes_with_ease():
    """httpcore's time for one piece grows with the square of its length."""
    data = bytes(3 * PIECE_BYTES + 1)
    assert [len(piece) for piece in LargeBody(data)] == [PIECE_BYTES] * 3 + [1]


async def test_put_weights_names_the_version_and_the_digest(service):
    served = await service.call(service.client(weighed(6)), "put_weights", DATA, if_match=5)
    (request,) = service.requests
    assert served.policy_version == 6
    assert (request.method, request.url.path, request.content) == ("PUT", "/weights", DATA)
    assert request.headers["if-match"] == '"5"'
    digest = base64.b64encode(hashlib.sha256(DATA).digest()).decode()
    assert request.headers["content-digest"] == f"sha-256=:{digest}:"
    assert request.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("lost", [RESET, SILENT, STARTING])
async def test_a_push_whose_answer_was_lost_is_recovered(service, lost):
    served = await service.call(service.client(lost, CONFLICT, weighed(6)), "put_weights", DATA, if_match=5)
    assert (served.policy_version, served.sha256) == (6, SHA256)
    assert [request.method for request in service.requests] == ["PUT", "PUT", "GET"]


async def test_a_conflict_after_a_lost_push_with_other_weights_is_raised(service):
    error = await service.failure(service.client(RESET, CONFLICT, weighed(7, "00")), "put_weights", DATA, if_match=5)
    assert type(error) is VersionConflict
    assert error.request_id == "req-1"


async def test_a_conflict_on_the_first_attempt_is_raised_without_a_look(service):
    error = await service.failure(service.client(CONFLICT, weighed(6)), "put_weights", DATA, if_match=5)
    assert type(error) is VersionConflict
    assert len(service.requests) == 1


@pytest.mark.parametrize("title", ["Weights rejected", "Precondition required"])
async def test_refused_weights_are_raised(service, title):
    answer = problem(BY_TITLE[title].status, title)
    error = await service.failure(service.client(RESET, answer), "put_weights", DATA, if_match=5)
    assert type(error) is BY_TITLE[title]
    assert len(service.requests) == 2


async def test_the_look_after_a_conflict_shares_the_budget_of_the_call(service, full_backoff):
    client = service.client(RESET, CONFLICT, REFUSED, retry_s=2)
    assert type(await service.failure(client, "put_weights", DATA, if_match=5)) is ServiceUnreachable
    assert service.sleeps == [0.1, 0.2, 0.4, 0.8]  # the second belongs to the look


async def test_put_weights_from_names_the_version_and_the_path(service):
    path = Path("/srv/policy.safetensors")
    served = await service.call(service.client(weighed(6)), "put_weights_from", path, if_match=5)
    (request,) = service.requests
    assert served.policy_version == 6
    assert (request.method, request.url.path) == ("PUT", "/weights")
    assert json.loads(request.content) == {"path": "/srv/policy.safetensors"}
    assert request.headers["if-match"] == '"5"'
    assert request.headers["content-type"] == "application/json"
    assert "content-digest" not in request.headers


async def test_a_conflict_after_a_lost_push_by_path_is_raised_since_nothing_tells_whose_it_is(service):
    client = service.client(RESET, CONFLICT, weighed(6))
    assert type(await service.failure(client, "put_weights_from", "/srv/p", if_match=5)) is VersionConflict


@pytest.mark.parametrize(("if_match", "sent"), [(None, None), (5, '"5"')])
async def test_rollback_names_the_version(service, if_match, sent):
    served = await service.call(service.client(weighed(3)), "rollback", 3, if_match=if_match)
    (request,) = service.requests
    assert served.policy_version == 3
    assert (request.method, request.url.path) == ("POST", "/weights/rollback")
    assert json.loads(request.content) == {"policy_version": 3}
    assert request.headers.get("if-match") == sent


async def test_a_rollback_whose_answer_was_lost_is_recovered(service):
    client = service.client(RESET, CONFLICT, weighed(3))
    assert (await service.call(client, "rollback", 3, if_match=5)).policy_version == 3


async def test_a_conflict_after_a_lost_rollback_to_another_version_is_raised(service):
    client = service.client(RESET, CONFLICT, weighed(6))
    assert type(await service.failure(client, "rollback", 3, if_match=5)) is VersionConflict


async def test_a_conflict_of_a_first_rollback_is_raised_without_a_look(service):
    client = service.client(CONFLICT, weighed(3))
    assert type(await service.failure(client, "rollback", 3, if_match=5)) is VersionConflict
    assert len(service.requests) == 1


# Readiness


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


# Addresses and tokens


async def authorization(service, **settings):
    await service.call(service.client(INFORMED, **settings), "info")
    return service.requests[-1].headers.get("authorization")


async def test_the_token_comes_from_the_argument_the_variable_or_the_file(service, monkeypatch, tmp_path):
    assert await authorization(service) is None
    (tmp_path / "token").write_text("from-file\n")
    monkeypatch.setenv("HINTWISE_TOKEN_FILE", str(tmp_path / "token"))
    assert await authorization(service) == "Bearer from-file"
    monkeypatch.setenv("HINTWISE_TOKEN", "")  # what compose makes of an unset variable
    assert await authorization(service) == "Bearer from-file"
    monkeypatch.setenv("HINTWISE_TOKEN", "from-variable")
    assert await authorization(service) == "Bearer from-variable"
    assert await authorization(service, token=SECRET) == f"Bearer {SECRET}"
    assert await authorization(service, token="") is None


async def test_the_address_comes_from_the_argument_the_variable_or_the_default(service, monkeypatch):
    assert "'http://127.0.0.1:8000'" in repr(service.client(INFORMED, base_url=None))
    monkeypatch.setenv("HINTWISE_URL", "https://variable:1/prefix/")
    await service.call(service.client(INFORMED, base_url=None), "info")
    assert str(service.requests[-1].url) == "https://variable:1/prefix/info"
    await service.call(service.client(INFORMED, base_url="http://argument"), "info")
    assert str(service.requests[-1].url) == "http://argument/info"


@pytest.mark.parametrize(
    "url", ["service:8000", "ftp://host", "http://", "http://host?x=1", "http://host:port", "http://host#x", "/act"]
)
def test_an_unusable_address_is_refused_at_once(service, url):
    with pytest.raises(ValueError, match="address"):
        service.client(INFORMED, base_url=url)


@pytest.mark.parametrize(
    "settings", [{"timeout_s": 0}, {"timeout_s": math.inf}, {"retry_s": -1}, {"retry_s": math.nan}]
)
def test_unusable_times_are_refused_at_once(service, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        service.client(INFORMED, **settings)


async def test_a_token_never_shows(service):
    client = service.client(INFORMED, token=SECRET, retry_s=0)
    assert SECRET not in repr(client) + repr(service.requests)
    for answer in (REFUSED, SILENT, html(502), html(200), problem(401, "Not authorized")):
        error = await service.failure(service.client(answer, token=SECRET, retry_s=0), "info")
        assert service.requests[-1].headers["authorization"] == f"Bearer {SECRET}"
        assert SECRET not in f"{error} {error!r} {error.__cause__!r} {service.requests[-1].headers!r}"


@pytest.mark.parametrize("bad", [f"{SECRET}\nX-Evil: 1", f"{SECRET} ", f"{SECRET}é"])
@pytest.mark.parametrize("source", ["argument", "HINTWISE_TOKEN", "HINTWISE_TOKEN_FILE"])
def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(service, monkeypatch, tmp_path, source, bad):
    if source == "HINTWISE_TOKEN_FILE":
        bad = f"{bad.strip()} {bad.strip()}"
        (tmp_path / "token").write_text(bad)
    monkeypatch.setenv(source, str(tmp_path / "token") if source == "HINTWISE_TOKEN_FILE" else bad)
    with pytest.raises(ValueError, match="a token has none") as caught:
        service.client(INFORMED, token=bad if source == "argument" else None)
    assert SECRET not in str(caught.value)


def test_an_empty_token_file_is_refused(service, monkeypatch, tmp_path):
    (tmp_path / "token").write_text("\n")
    monkeypatch.setenv("HINTWISE_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="is empty"):
        service.client(INFORMED)


def test_a_secret_in_the_address_is_refused_without_showing_it(service):
    with pytest.raises(ValueError, match="give a token instead") as caught:
        service.client(INFORMED, base_url=f"http://user:{SECRET}@host")
    assert SECRET not in str(caught.value)


# The two clients, the schemas and the docs agree


async def test_a_client_is_closed_by_its_context(service):
    client = service.client(INFORMED)
    if service.kind == "sync":
        with client as entered:
            assert entered is client
    else:
        async with client as entered:
            assert entered is client
    with pytest.raises(RuntimeError, match="closed"):
        await service.call(client, "info")


def test_the_clients_sleep_for_real():
    assert Client()._sleep.__module__ == "time"
    assert AsyncClient()._sleep is asyncio.sleep


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_calls():
    assert public(Client) - {"close"} == public(AsyncClient) - {"aclose"}
    for name in public(Client) - {"close"}:
        signatures = [inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient)]
        sync, awaited = (
            [(p.name, p.default, p.kind) for p in signature.parameters.values()] for signature in signatures
        )
        assert sync == awaited, name
        if name != "stream_guidance":  # an iterator, and an asynchronous one
            assert signatures[0].return_annotation == signatures[1].return_annotation, name
    sync, awaited = (
        [(p.name, p.default, p.kind) for p in inspect.signature(kind.__init__).parameters.values()]
        for kind in (Client, AsyncClient)
    )
    assert [each for each in sync if each[0] != "while_waiting"] == awaited  # an event loop has other tasks meanwhile


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("act", ActRequest),
        ("guidance", GuidanceRequest),
        ("stream_guidance", GuidanceRequest),
        ("reward", RewardRequest),
    ],
)
def test_arguments_and_their_defaults_are_those_of_the_schema(name, schema):
    parameters = [p for p in inspect.signature(getattr(Client, name)).parameters.values() if p.name != "self"]
    for parameter in parameters:
        field = schema.model_fields[parameter.name]
        if field.is_required():
            assert parameter.default is inspect.Parameter.empty
        else:
            assert parameter.default == field.default, parameter.name


def test_importing_the_package_loads_no_torch():
    code = "import hintwise, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_guide_names_every_error_and_only_calls_that_exist():
    page = (ROOT / "docs" / "client.md").read_text()
    for kind in {*BY_TITLE.values(), errors.ServiceUnreachable}:
        assert re.search(rf"^\| `{kind.__name__}` +\| {kind.status} ", page, re.MULTILINE), kind.__name__
    for text in (page, sys.modules[Client.__module__].__doc__):
        called = set(re.findall(r"\bclient\.(\w+)\(", text))
        assert called
        assert called <= public(Client) | public(AsyncClient)
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        compile(block, "docs/client.md", "exec")
