"""Every failure is a problem (RFC 9457), and every answer carries its id and version."""

import asyncio
import json
import re

import httpx
import pytest

from service.act import act
from service.inference_endpoints import KINDS
from service.request_context import RequestContext

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENDPOINTS = ["/act", "/guidance", "/reward"]
SMALL = {"observations": ["x"], "actions": ["go", "wait"]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"push left",
        b'{"observations": ["x"], "actions": ["a", "b"],}',
        b'{"observations": ["\\ud800"], "actions": ["a", "b"]}',
        b'{"observations": ["\xff"], "actions": ["a", "b"]}',
        b'{"observations": ["x"], "actions": ["a", "b"]} trailing',
        b"[" * 100_000,
        b'{"observations": [' + b"1" * 10_000 + b'], "env_id": "CartPole-v1"}',
        b"\x80\x04\x95",
    ],
    ids=lambda body: repr(body[:40]),
)
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_a_body_that_is_not_json_is_400(service, path, body):
    refusal = await service.refused(path, body, status=400)
    assert "not JSON" in refusal.detail


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"x"', b"NaN"])
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_json_that_is_no_object_is_422(service, path, body):
    refusal = await service.refused(path, body)
    assert refusal.fields


async def test_an_empty_object_names_what_is_missing(service):
    assert set((await service.refused("/act", {})).fields) == {"observations"}
    assert set((await service.refused("/guidance", {})).fields) == {"observations"}
    assert set((await service.refused("/reward", {})).fields) == {"items"}


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
)
@pytest.mark.parametrize("path", ENDPOINTS)
async def test_another_content_type_is_415(service, path, content_type):
    refusal = await service.refused(path, SMALL, status=415, headers={"content-type": content_type})
    assert content_type in refusal.detail


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", None])
async def test_json_however_it_is_announced_is_taken(service, content_type):
    headers = {"content-type": content_type} if content_type else {}
    response = await service.http.post("/act", content=json.dumps(SMALL), headers=headers)
    assert response.status_code == 200


async def test_a_body_over_the_limit_is_413_whether_its_length_is_told_or_not(start):
    async with start(max_body_bytes=2_000) as service:
        body = json.dumps({**SMALL, "task": "x" * 2_000}).encode()

        async def chunks():
            for start in range(0, len(body), 100):
                yield body[start : start + 100]

        for content in (body, chunks()):
            response = await service.http.post("/act", content=content)
            assert response.status_code == 413
            assert "2000" in response.json()["detail"]


async def test_a_10_mb_body_is_legal_and_one_over_16_mb_is_not(service):
    refusal = await service.refused("/act", {**SMALL, "task": "x" * 10 * 2**20})
    assert set(refusal.fields) == {"observations[0]"}
    await service.refused("/act", {**SMALL, "task": "x" * 17 * 2**20}, status=413)


async def test_a_body_is_read_no_further_than_the_limit(service):
    num_read, limit = 0, service.engine.settings.max_body_bytes

    async def endless():
        nonlocal num_read
        while True:
            num_read += 2**16
            yield b" " * 2**16

    response = await service.http.post("/act", content=endless(), headers={"content-length": str(2**40)})
    assert (response.status_code, num_read) == (413, 0)
    response = await service.http.post("/act", content=endless())
    assert response.status_code == 413
    assert num_read <= limit + 2 * 2**16


@pytest.mark.parametrize("path", ["/", "/actions", "/weights/1/2", "/act/x"])
async def test_an_unknown_path_is_404(service, path):
    refusal = await service.refused(path, status=404, method="GET")
    assert path in refusal.detail


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/act", {"POST"}),
        ("PUT", "/guidance", {"POST"}),
        ("DELETE", "/reward", {"POST"}),
        ("POST", "/weights", {"GET", "PUT"}),
        ("DELETE", "/weights", {"GET", "PUT"}),
        ("POST", "/weights/1", {"GET"}),
        ("PUT", "/weights/rollback", {"POST"}),
        ("GET", "/weights/rollback", {"POST"}),
        ("POST", "/info", {"GET"}),
        ("POST", "/readyz", {"GET"}),
    ],
)
async def test_another_method_is_405_and_told_which_are_allowed(service, method, path, allowed):
    refusal = await service.refused(path, status=405, method=method)
    assert {word.strip() for word in refusal.response.headers["allow"].split(",")} == allowed


@pytest.mark.parametrize("request_id", ["a", "0f1e2d3c", "trace:span.1_2-3", "x" * 128])
async def test_a_harmless_request_id_is_echoed(service, request_id):
    response = await service.http.get("/livez", headers={"x-request-id": request_id})
    assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize(
    "request_id",
    [b"", b"x" * 129, b"a b", b"a\r\nset-cookie: x=1", b"a\n", b"<script>", b"\xff\xfe", b'"', b"a;b", b"\x1b[31m"],
)
async def test_any_other_request_id_is_replaced(service, request_id):
    response = await service.http.get("/livez", headers=[(b"x-request-id", request_id)])
    assert re.fullmatch(r"[0-9a-f]{16}", response.headers["x-request-id"])
    assert "set-cookie" not in response.headers


async def test_each_answer_has_an_id_of_its_own(service):
    ids = {(await service.http.get("/livez")).headers["x-request-id"] for _ in range(8)}
    assert len(ids) == 8


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/info", "/weights", "/weights/1", "/docs", "/nope"])
async def test_every_answer_names_the_policy_version(service, path):
    assert (await service.http.get(path)).headers["x-policy-version"] == "1"


async def test_an_answer_of_act_names_its_own_version_even_when_a_swap_overtakes_it(fresh, monkeypatch):
    async def overtaken(engine, *args, **kwargs):
        content = await act(engine, *args, **kwargs)
        await fresh.put_noise()
        return content

    kind = KINDS["/act"]._replace(answer=overtaken)
    monkeypatch.setitem(KINDS, "/act", kind)
    response = await fresh.http.post("/act", json=SMALL)
    assert response.headers["x-policy-version"] == str(response.json()["policy_version"]) == "1"
    assert (await fresh.http.get("/livez")).headers["x-policy-version"] == "2"


@pytest.fixture
def failing_on_long_prompts(fresh, monkeypatch):
    """A policy whose forward raises on prompts of more than 300 tokens."""
    policy = fresh.engine.policy.policy
    forward = policy.forward

    def failing(batch, *args, **kwargs):
        if batch.rows.input_ids.shape[1] > 300:
            raise RuntimeError("CUDA error")
        return forward(batch, *args, **kwargs)

    monkeypatch.setattr(policy, "forward", failing)
    return "pole " * 400


@pytest.mark.parametrize("place", [0, 1, 30])  # the last travels in the second batch of its request
async def test_a_failing_forward_is_500_and_names_the_item(fresh, failing_on_long_prompts, place):
    observations = ["x"] * 40
    observations[place] = failing_on_long_prompts
    refusal = await fresh.refused("/act", {**SMALL, "observations": observations}, status=500)
    assert "CUDA error" in refusal.text
    assert set(refusal.fields) == {f"observations[{place}]"}


async def test_a_failing_item_fails_no_other_request(fresh, failing_on_long_prompts, happens):
    queue, asked = fresh.engine.act_queue, []
    async with fresh.blocked_thread():
        for text in ("x", failing_on_long_prompts, "y"):
            before = queue.queued_tokens
            asked.append(asyncio.create_task(fresh.http.post("/act", json={**SMALL, "observations": [text]})))
            await happens(lambda before=before: queue.queued_tokens > before)
    assert [response.status_code for response in await asyncio.gather(*asked)] == [200, 500, 200]


async def test_scores_that_are_not_finite_are_500_and_name_the_item(fresh, monkeypatch):
    policy = fresh.engine.policy.policy
    forward = policy.forward

    def overflowing(batch, *args, **kwargs):
        output = forward(batch, *args, **kwargs)
        output.values[batch.rows.read_columns[:, 0] > 300] = float("inf")  # of long prompts
        return output

    monkeypatch.setattr(policy, "forward", overflowing)
    refusal = await fresh.refused("/act", {**SMALL, "observations": ["x", "pole " * 400, "y"]}, status=500)
    assert "finite" in refusal.detail
    assert set(refusal.fields) == {"observations[1]"}


async def test_an_unforeseen_failure_is_a_problem_that_tells_nothing_of_the_inside(fresh, monkeypatch):
    monkeypatch.setattr("service.routes.weights_info", lambda engine: {}["secret"])
    refusal = await fresh.refused("/weights", status=500, method="GET")
    assert "secret" not in refusal.text
    assert refusal.response.headers["x-request-id"]


async def test_a_failure_after_the_answer_began_breaks_it_off(service):
    async def half(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("the file is gone")

    sent = []

    async def send(message):
        sent.append(message["type"])

    app = RequestContext(half, metrics=service.engine.metrics, policy_version=lambda: 1)
    with pytest.raises(OSError, match="the file is gone"):
        await app({"type": "http", "method": "GET", "path": "/weights/1", "headers": []}, None, send)
    assert sent == ["http.response.start"]


async def test_problems_are_utf8_json_with_a_type(service):
    refusal = await service.refused("/act", {**SMALL, "actions": ["é", "é"]})
    assert "é" in refusal.text
    assert refusal.response.json()["type"] == "about:blank"
    assert isinstance(refusal.response, httpx.Response)
