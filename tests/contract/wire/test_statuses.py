"""`Statuses`: each one of the paragraph is provoked, and what the queue promises.

503 while starting has no row: a service listens only once it is ready, so nobody can meet it. 502 is
for guidance sources that are other services; a model in this process is none, so a source stands in for one.
"""

import asyncio
import hashlib
import json
import re

import httpx
import pytest
import pytest_asyncio

from hintwise.errors import BY_STATUS, DeadlineExceeded, GuidanceUnavailable, InferenceFailed, Overloaded

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = {"observations": ["x"], "actions": ["go", "wait"]}
FULL = {"observations": ["x"] * 1024, "actions": ["go", "wait"]}
LONG = "pole " * 400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory, serving):
    """A service that knows one token, which may do next to nothing."""
    directory = tmp_path_factory.mktemp("guarded")
    (directory / "tokens").write_text(f"guide:guide:{hashlib.sha256(b'secret').hexdigest()}\n")
    (directory / "tokens").chmod(0o600)
    async with serving(directory / "weights", tokens_file=directory / "tokens") as running:
        yield running


@pytest.fixture
def failing_on_long_prompts(fresh, monkeypatch):
    """The policy's forward fails whenever a long prompt is in the batch."""
    policy = fresh.engine.policy.policy
    forward = policy.forward

    def failing(batch, *args, **kwargs):
        if batch.rows.input_ids.shape[1] > 300:
            raise RuntimeError("CUDA error")
        return forward(batch, *args, **kwargs)

    monkeypatch.setattr(policy, "forward", failing)


@pytest.fixture
def broken_source(monkeypatch):
    """A guidance source that cannot be reached."""

    async def unreachable(*arguments):
        raise GuidanceUnavailable("the guidance source does not answer")

    monkeypatch.setattr("service.guidance._written_hints", unreachable)


async def fill(service, happens, path, body, queue, count):
    """Starts requests that wait, one behind another."""
    waiting = []
    for _ in range(count):
        before = queue.queued_tokens
        waiting.append(asyncio.create_task(service.http.post(path, json=body)))
        await happens(lambda before=before: queue.queued_tokens > before)
    return waiting


async def leave(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


PLAIN = {
    "400 not JSON": ("POST", "/act", {"content": b"{"}, None),
    "404": ("GET", "/nothing", {}, None),
    "404 a version that is not kept": ("GET", "/weights/7", {}, None),
    "405": ("GET", "/act", {}, None),
    "409": ("PUT", "/weights", {"content": b"", "headers": {"if-match": '"7"'}}, "If-Match"),
    "413 too large": ("POST", "/act", {"content": b" " * (17 * 2**20)}, None),
    "415": ("POST", "/act", {"content": b"x", "headers": {"content-type": "text/plain"}}, None),
    "422 invalid (names the field)": ("POST", "/act", {"json": {**SMALL, "mode": "guess"}}, "mode"),
    "422 invalid (names the item)": ("POST", "/act", {"json": {**SMALL, "observations": ["x", 3]}}, "observations[1]"),
    "428": ("PUT", "/weights", {"content": b""}, "If-Match"),
}


def check_problem(response, status, field=None):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"] == BY_STATUS[status].title or status in (404, 500)
    assert field is None or [entry["field"] for entry in problem["errors"]] == [field]


@pytest.mark.parametrize("named", PLAIN)
async def test_statuses_that_a_single_request_provokes(service, named):
    """400 not JSON, ..., 404, 405, 409, 413 too large, 415, 422 invalid (names the field or item), 428"""
    method, path, request, field = PLAIN[named]
    check_problem(await service.http.request(method, path, **request), int(named[:3]), field)


async def test_401_and_403(guarded):
    """401/403"""
    for headers, status in (({}, 401), ({"authorization": "Bearer secret"}, 403)):
        check_problem(await guarded.http.post("/act", json=SMALL, headers=headers), status)


async def test_429_is_answered_while_the_model_is_busy(service, calling, happens):
    """429 queue full (answered within milliseconds, `Retry-After` in whole seconds)"""
    queue = service.engine.act_queue
    async with service.blocked_thread():
        count = service.engine.settings.max_queue_observations // 1024
        waiting = await fill(service, happens, "/act", FULL, queue, count)
        async with calling(service) as client:
            with pytest.raises(Overloaded) as raised:  # and the thread has run nothing since
                await client.act(**SMALL)
        assert queue.queued_tokens > 0
        await leave(waiting)
    check_problem(client.wire.response, 429)
    assert re.fullmatch(r"[1-9]\d*", client.wire.response.headers["retry-after"])
    assert raised.value.retry_after_s == int(client.wire.response.headers["retry-after"])


async def test_500_names_the_item(fresh, calling, failing_on_long_prompts):
    """500 the forward failed (names the item)"""
    async with calling(fresh) as client:
        with pytest.raises(InferenceFailed) as raised:
            await client.act(["x", "y", LONG], ["go", "wait"])
    check_problem(client.wire.response, 500, "observations[2]")
    assert "CUDA error" in str(raised.value)


async def test_502(service, calling, broken_source):
    """502 the guidance source failed"""
    async with calling(service) as client:
        with pytest.raises(GuidanceUnavailable):
            await client.guidance(["x"])
    check_problem(client.wire.response, 502)


async def test_503_when_draining(fresh):
    """503 starting or draining"""
    for queue in (fresh.engine.act_queue, fresh.engine.guidance_queue, fresh.engine.reward_queue):
        queue.stop()
    item = {"hint": "go", "observation": "x", "actions": ["go"], "action": "go"}
    for path, body in (("/act", SMALL), ("/guidance", {"observations": ["x"]}), ("/reward", {"items": [item]})):
        check_problem(await fresh.http.post(path, json=body), 503)


async def test_504_when_the_deadline_passed(service, calling):
    """504 deadline passed"""
    async with service.blocked_thread(), calling(service, timeout_s=0.05) as client:
        with pytest.raises(DeadlineExceeded):
            await client.act(["x"], ["go", "wait"])
    check_problem(client.wire.response, 504)


async def test_every_status_of_the_paragraph_is_provoked_here():
    """Statuses: 400, 401/403, 404, 405, 409, 413, 415, 422, 428, 429, 500, 502, 503, 504"""
    single = {int(named[:3]) for named in PLAIN}
    assert single | {401, 403, 429, 500, 502, 503, 504} == set(BY_STATUS)


async def test_a_failing_item_fails_its_own_request_alone(fresh, happens, failing_on_long_prompts):
    """A failing item fails its own request; other requests in the batch are unharmed."""
    alone = (await fresh.act(["x"], mode="greedy"))[0]["scores"]
    bodies = [{"observations": [text], "actions": ["push left", "push right"]} for text in ("x", LONG, "x", "x")]
    queue, asked = fresh.engine.act_queue, []
    async with fresh.blocked_thread():
        for body in bodies:
            asked += await fill(fresh, happens, "/act", body, queue, 1)
    responses = await asyncio.gather(*asked)
    assert [response.status_code for response in responses] == [200, 500, 200, 200]
    for response in responses[2:]:
        assert response.json()["results"][0]["scores"] == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "queue"),
    [
        ("/act", FULL, "act_queue"),
        ("/guidance", {"observations": ["x"] * 256, "num_hints": 4, "max_new_tokens": 1}, "guidance_queue"),
        (
            "/reward",
            {"items": [{"hint": str(n), "observation": "x", "actions": ["go"], "action": "go"} for n in range(1023)]},
            "reward_queue",
        ),
    ],
)
async def test_the_queue_admits_four_full_requests(service, happens, path, body, queue):
    """By default the queue admits at least four full requests of 1,024"""
    async with service.blocked_thread():
        waiting = await fill(service, happens, path, body, getattr(service.engine, queue), 4)
    assert [response.status_code for response in await asyncio.gather(*waiting)] == [200] * 4


async def test_an_idle_service_refuses_no_legal_request_for_its_size(start):
    """a single legal request is never refused for its size by an idle service"""
    actions = [f"go {n}" for n in range(256)]
    items = [{"hint": f"{n}", "observation": "x", "actions": actions[:2], "action": "go 0"} for n in range(1024)]
    largest = [
        ("/act", {**FULL, "actions": actions}),
        ("/act", {"observations": ["x"], "actions": [f"{n} " + "é" * 990 for n in range(20)]}),
        ("/guidance", {"observations": ["x"] * 256, "num_hints": 8, "max_new_tokens": 1}),
        ("/guidance", {"observations": ["x"] * 256, "mode": "ranked", "candidates": actions, "num_hints": 8}),
        ("/reward", {"items": items}),
    ]
    async with start(max_batch_tokens=2_048, max_queue_observations=4_096) as service:
        for path, body in largest:
            response = await service.http.post(path, json=body, headers={"x-request-timeout-ms": "600000"})
            assert response.status_code == 200, response.text


async def test_a_legal_body_stays_under_the_byte_limit_that_info_tells(service, client):
    """413 too large: the limit is in `/info`, and a body of exactly that many bytes is read"""
    limit = (await client.info()).limits.max_body_bytes
    body = json.dumps(SMALL).encode()
    padded = body + b" " * (limit - len(body))
    assert (await service.http.post("/act", content=padded)).status_code == 200
    response: httpx.Response = await service.http.post("/act", content=padded + b" ")
    check_problem(response, 413)
