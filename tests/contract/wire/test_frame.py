"""The opening paragraph of the wire: encoding, unknown fields, the headers of every answer, time limits, problems."""

import json
import threading

import httpx
import pytest

from hintwise import AsyncClient
from hintwise.errors import DeadlineExceeded, InvalidRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = ["push left", "push right"]
SMALL = {"observations": ["x"], "actions": ACTIONS}
ITEM = {"hint": "push left", "observation": "x", "actions": ACTIONS, "action": "push left"}


async def test_json_utf_8(client):
    """JSON, UTF-8."""
    words = ["déjà vu", "東へ", "🎈 up"]
    answer = await client.act(["größer"], words, mode="greedy")
    assert answer.results[0].label in words
    assert client.wire.response.headers["content-type"] == "application/json"
    assert answer.results[0].label.encode("utf-8") in client.wire.response.content
    assert words[1].encode("utf-8") in client.wire.request.content


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/act", {**SMALL, "observation": "x"}, "observation"),
        ("POST", "/guidance", {"observations": ["x"], "hints": ["y"]}, "hints"),
        ("POST", "/reward", {"items": [ITEM], "discount": 0.9}, "discount"),
        ("POST", "/reward", {"items": [ITEM, {**ITEM, "reward": 1}]}, "items[1].reward"),
        ("PUT", "/weights", {"path": "/x", "digest": ""}, "digest"),
        ("POST", "/weights/rollback", {"policy_version": 1, "force": True}, "force"),
    ],
)
async def test_requests_forbid_unknown_fields(service, method, path, body, field):
    """Requests forbid unknown fields"""
    headers = {"content-type": "application/json", "if-match": '"1"'}
    refusal = await service.refused(path, body, method=method, headers=headers)
    assert refusal.fields == {field: "unknown field"}


class Newer(httpx.AsyncBaseTransport):
    """A service of a later version, whose every object has a field more."""

    def __init__(self, transport):
        self._transport = transport

    async def handle_async_request(self, request):
        response = await self._transport.handle_async_request(request)
        body = json.loads(await response.aread(), object_hook=lambda known: {**known, "newer": {"than": "you"}})
        return httpx.Response(response.status_code, headers={"content-type": "application/json"}, json=body)


async def test_clients_ignore_unknown_fields_in_answers(service):
    """clients ignore unknown fields in answers"""
    async with AsyncClient("http://service", transport=Newer(service.http._transport), retry_s=0) as client:
        assert (await client.act(["x"], ACTIONS)).results[0].label in ACTIONS
        assert (await client.guidance(["x"], max_new_tokens=1)).model == "embedded-language"
        assert (await client.reward([ITEM])).scorer == "alignment"
        assert (await client.weights()).policy_version == 1
        assert (await client.info()).api_version == 1


EVERY_KIND = [
    ("GET", "/livez", 200),
    ("GET", "/readyz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/docs", 200),
    ("GET", "/info", 200),
    ("GET", "/weights", 200),
    ("GET", "/weights/1", 200),
    ("GET", "/weights/99", 404),
    ("GET", "/nothing", 404),
    ("HEAD", "/act", 405),
    ("OPTIONS", "/act", 405),
    ("PUT", "/weights", 428),
    ("POST", "/act", 400),
    ("POST", "/weights/rollback", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), EVERY_KIND)
async def test_every_answer_carries_its_id_and_the_version(service, method, path, status):
    """Every answer carries `X-Request-Id`, and `X-Policy-Version` once a policy is loaded."""
    response = await service.http.request(method, path, headers={"x-request-id": "mine-1"})
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert response.headers.get_list("x-policy-version") == ["1"]


@pytest.mark.parametrize("path", ["/act", "/guidance", "/reward", "stream"])
async def test_answers_of_the_models_carry_both_too(client, path):
    """Every answer carries `X-Request-Id`, and `X-Policy-Version` once a policy is loaded."""
    if path == "/act":
        await client.act(["x"], ACTIONS)
    elif path == "/guidance":
        await client.guidance(["x"], max_new_tokens=1)
    elif path == "/reward":
        await client.reward([ITEM])
    else:
        assert [event async for event in client.stream_guidance(["x"], max_new_tokens=1)]
    assert client.wire.response.headers["x-request-id"]
    assert client.wire.response.headers["x-policy-version"] == "1"


async def test_weights_are_sent_whole_whatever_range_is_asked_for(service):
    """A failure is `application/problem+json`: a Range that no file has would be answered as plain text."""
    whole = (await service.http.get("/weights/1")).content
    for part in ("bytes=0-9", f"bytes={len(whole)}-", "bytes=x", "bytes=9-3"):
        response = await service.http.get("/weights/1", headers={"range": part})
        assert (response.status_code, response.content) == (200, whole)
        assert "accept-ranges" not in response.headers


async def test_the_default_time_limit_and_its_maximum(service, client):
    """`X-Request-Timeout-Ms` (default 30,000, maximum in `/info`)"""
    limits = (await client.info()).limits
    assert limits.default_request_timeout_ms == 30_000
    longest = limits.max_request_timeout_ms
    assert (await service.http.post("/act", json=SMALL, headers=time_limit(longest))).status_code == 200
    for path, body in (("/act", SMALL), ("/guidance", {"observations": ["x"]}), ("/reward", {"items": [ITEM]})):
        refusal = await service.refused(path, body, headers=time_limit(longest + 1))
        assert set(refusal.fields) == {"X-Request-Timeout-Ms"}
        assert str(longest) in refusal.text


async def test_the_time_limit_covers_the_queue(service, calling):
    """it covers queue and compute"""
    async with service.blocked_thread(), calling(service, timeout_s=0.05) as client:
        with pytest.raises(DeadlineExceeded):
            await client.act(["x"], ACTIONS)
    assert client.wire.request.headers["x-request-timeout-ms"] == "50"
    assert client.wire.response.status_code == 504


async def test_the_time_limit_covers_the_compute(service, calling, monkeypatch):
    """it covers queue and compute"""
    may_end, policy = threading.Event(), service.engine.policy.policy
    forward = policy.forward
    monkeypatch.setattr(policy, "forward", lambda *args, **kwargs: may_end.wait(60) and forward(*args, **kwargs))
    try:
        async with calling(service, timeout_s=0.2) as client:
            with pytest.raises(DeadlineExceeded):
                await client.act(["never asked before"], ACTIONS)  # an answer that was kept needs no compute
    finally:
        may_end.set()
    assert client.wire.response.status_code == 504


async def test_a_failure_is_a_problem(client):
    """`application/problem+json` (RFC 9457): `type, title, status, detail`, and `errors` with one entry per field"""
    with pytest.raises(InvalidRequest) as raised:
        await client.act(["x"], ACTIONS, mode="guess", temperature=-1)
    response = client.wire.response
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail", "errors"}
    assert (problem["status"], problem["type"]) == (response.status_code, "about:blank")
    assert [entry["field"] for entry in problem["errors"]] == ["mode", "temperature"]
    assert [tuple(entry.values()) for entry in problem["errors"]] == [tuple(each) for each in raised.value.errors]
    assert raised.value.request_id == response.headers["x-request-id"]


LONG = "20 " * 3_000
BAD_ITEMS = {
    "schema": (
        "/reward",
        {"items": [{**ITEM, "hint": 3}, ITEM, {**ITEM, "hint": 4}]},
        ["items[0].hint", "items[2].hint"],
    ),
    "raw": (
        "/act",
        {"observations": [[0, 0], "x", [0]], "env_id": "CartPole-v1"},
        ["observations[0]", "observations[2]"],
    ),
    "not text": ("/guidance", {"observations": [3, "x", 4]}, ["observations[0]", "observations[2]"]),
    "prompt": ("/act", {**SMALL, "observations": [LONG, "x", LONG]}, ["observations[0]", "observations[2]"]),
    "written hint": ("/guidance", {"observations": [LONG, "x", LONG]}, ["observations[0]", "observations[2]"]),
    "ranked hint": (
        "/guidance",
        {"observations": [LONG, "x", LONG], "mode": "ranked", "candidates": ["go"]},
        ["observations[0]", "observations[2]"],
    ),
    "item": (
        "/reward",
        {"items": [{**ITEM, "action": "fly"}, ITEM, {**ITEM, "actions": None}]},
        ["items[0].action", "items[2].actions"],
    ),
    "item's prompt": (
        "/reward",
        {"items": [{**ITEM, "observation": LONG}, ITEM, {**ITEM, "observation": LONG + "1"}]},
        ["items[0]", "items[2]"],
    ),
}


@pytest.mark.parametrize("kind", BAD_ITEMS)
async def test_every_offending_item_has_an_entry(service, kind):
    """`errors` with one entry per offending field or item"""
    path, body, fields = BAD_ITEMS[kind]
    assert list((await service.refused(path, body)).fields) == fields


def time_limit(ms):
    return {"x-request-timeout-ms": str(ms)}
