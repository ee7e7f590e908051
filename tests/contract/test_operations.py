"""Probes, metrics, documents, deadlines and back-pressure."""

import asyncio
import json
import re

import pytest
import torch

from hintwise.describers import DESCRIBED_ENV_IDS
from hintwise.fields import MAX_ACTIONS, MAX_OBSERVATIONS
from hintwise.prompts import PROMPT_TEMPLATE_VERSION
from service import routes

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACTIONS = ["push left", "push right"]
FULL = {"observations": ["cart 20 speed 21"] * MAX_OBSERVATIONS, "actions": ACTIONS}
SMALL = {"observations": ["x"], "actions": ACTIONS}


async def finish(tasks):
    """Cancels what still waits; a request that nobody awaits any more costs no compute."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Probes and documents


async def test_livez_answers_even_with_a_stuck_model_thread(service):
    async with service.blocked_thread():
        response = await service.http.get("/livez")
    assert response.status_code == 200


async def test_readyz_passes_through_the_model_thread(service, monkeypatch):
    assert (await service.http.get("/readyz")).status_code == 200
    monkeypatch.setattr(routes, "READY_TIMEOUT_S", 0.01)
    async with service.blocked_thread():
        refusal = await service.refused("/readyz", status=503, method="GET")
    assert "model thread" in refusal.detail
    assert re.fullmatch(r"[1-9]\d*", refusal.response.headers["retry-after"])
    monkeypatch.undo()
    assert (await service.http.get("/readyz")).status_code == 200


async def test_metrics_have_the_promised_names_and_count(fresh):
    series = (await fresh.http.get("/metrics")).text
    for name in ("hintwise_act_observations_total", "hintwise_queue_tokens", "hintwise_swaps_total"):
        assert re.search(rf"^{name}(\{{.*\}})? ", series, re.MULTILINE), name
    await fresh.act(["x"] * 5)
    await fresh.refused("/act", {})
    await fresh.put_noise()
    assert await fresh.metric("hintwise_act_observations_total") == 5
    assert await fresh.metric("hintwise_swaps_total") == 1
    assert await fresh.metric("hintwise_policy_version") == 2
    assert await fresh.metric('hintwise_requests_total{endpoint="/act",status="200"}') == 1
    assert await fresh.metric('hintwise_requests_total{endpoint="/act",status="422"}') == 1


async def test_metrics_show_what_waits(fresh, happens):
    async with fresh.blocked_thread():
        waiting = asyncio.create_task(fresh.http.post("/act", json=SMALL))
        await happens(lambda: fresh.engine.act_queue.queued_tokens > 0)
        assert await fresh.metric('hintwise_queue_tokens{kind="act"}') == fresh.engine.act_queue.queued_tokens
    await waiting
    assert await fresh.metric('hintwise_queue_tokens{kind="act"}') == 0


async def test_paths_of_strangers_make_no_series(service):
    await service.refused("/secret-path", status=404, method="GET")
    assert "secret-path" not in (await service.http.get("/metrics")).text


async def test_info_tells_models_limits_and_what_may_be_named(service):
    info = (await service.http.get("/info")).json()
    assert info["api_version"] == 1
    assert info["policy_version"] == 1
    assert info["readout"] == "phrase"
    assert info["prompt_template_version"] == PROMPT_TEMPLATE_VERSION
    assert info["device"] == "cpu"
    assert info["env_ids"] == list(DESCRIBED_ENV_IDS)
    assert {"alignment", "progress"} <= set(info["scorers"])
    for role in ("policy", "guidance", "scorer"):
        assert info[role]["name"] == ("embedded" if role == "policy" else "embedded-language")
        assert re.fullmatch(r"[0-9a-f]{64}", info[role]["sha256"])
        assert info[role]["max_prompt_tokens"] >= 1024
        assert info[role]["num_parameters"] > 0
        assert "gpt2" in info[role]["architecture"]
    assert (info["limits"]["max_observations"], info["limits"]["max_actions"]) == (1024, MAX_ACTIONS)
    assert (info["limits"]["default_request_timeout_ms"], info["limits"]["max_body_bytes"]) == (30_000, 16 * 2**20)
    assert info["limits"]["max_queue_observations"] >= 4 * 1024


async def test_docs_are_served(service):
    response = await service.http.get("/docs")
    assert response.status_code == 200
    assert "/openapi.json" in response.text


async def test_openapi_lists_every_endpoint_with_bodies_whose_references_resolve(service):
    document = (await service.http.get("/openapi.json")).json()
    methods = {(path, method) for path, item in document["paths"].items() for method in item}
    assert methods >= {
        ("/act", "post"),
        ("/guidance", "post"),
        ("/reward", "post"),
        ("/weights", "get"),
        ("/weights", "put"),
        ("/weights/{policy_version}", "get"),
        ("/livez", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/info", "get"),
    }
    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(document))
    assert len(references) > 10
    for reference in references:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    for path, schema in (("/act", "ActRequest"), ("/guidance", "GuidanceRequest"), ("/reward", "RewardRequest")):
        [media] = document["paths"][path]["post"]["requestBody"]["content"].items()
        assert media == ("application/json", {"schema": {"$ref": f"#/components/schemas/{schema}"}})
        assert document["components"]["schemas"][schema]["additionalProperties"] is False
    assert "application/octet-stream" in document["paths"]["/weights"]["put"]["requestBody"]["content"]
    named = {parameter["name"] for parameter in document["paths"]["/weights"]["put"]["parameters"]}
    assert named == {"If-Match", "Content-Digest"}


async def test_openapi_tells_that_every_failure_is_a_problem(service):
    document = (await service.http.get("/openapi.json")).json()
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["responses"]["default"]["content"] == problem
    stream = document["paths"]["/guidance"]["post"]["responses"]["200"]["content"]["text/event-stream"]
    assert stream["itemSchema"]["properties"]["event"] == {"enum": ["token", "done", "error"]}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert set(operation["responses"]) == {"200", "default"}


async def test_openapi_is_the_same_at_every_look(service):
    first, second = [(await service.http.get("/openapi.json")).json() for _ in range(2)]
    assert first == second


# Deadlines


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "600001", "soon", "", "9" * 30, "²"])
@pytest.mark.parametrize("path", ["/act", "/guidance", "/reward"])
async def test_a_bad_timeout_is_refused_by_name(service, path, value):
    headers = {"x-request-timeout-ms": value.encode("latin-1")}
    refusal = await service.refused(path, SMALL, headers=headers)
    assert set(refusal.fields) == {"X-Request-Timeout-Ms"}
    assert "600000" in refusal.text


async def test_the_longest_timeout_is_the_operators(start):
    async with start(max_request_timeout_ms=50) as service:
        await service.refused("/act", SMALL, headers={"x-request-timeout-ms": "51"})
        assert (await service.http.get("/info")).json()["limits"]["max_request_timeout_ms"] == 50


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/act", SMALL),
        ("/guidance", {"observations": ["x"]}),
        ("/reward", {"items": [{"hint": "go", "observation": "x", "actions": ["go"], "action": "go"}]}),
    ],
)
async def test_a_deadline_passes_while_the_model_thread_is_busy(service, path, body):
    async with service.blocked_thread():
        refused = service.refused(path, body, status=504, headers={"x-request-timeout-ms": "1"})
        refusal = await asyncio.wait_for(refused, 10)  # the default is 30 s
    assert "time ran out" in refusal.detail
    await service.ask(path, body)


async def test_the_default_timeout_is_the_operators(start):
    async with start(request_timeout_ms=1) as service, service.blocked_thread():
        await asyncio.wait_for(service.refused("/act", SMALL, status=504), 10)


async def test_a_request_whose_time_ran_out_in_the_queue_is_never_computed(fresh):
    async with fresh.blocked_thread():
        refused = fresh.refused("/act", SMALL, status=504, headers={"x-request-timeout-ms": "1"})
        await asyncio.wait_for(refused, 10)
        assert fresh.engine.act_queue.queued_tokens == 0
    await fresh.act(["x"])
    assert await fresh.metric('hintwise_batch_tokens_count{kind="act"}') == 1


# Back-pressure


async def fill(service, happens, queue, path, body, count):
    """Returns `count` equal requests that wait in the queue of a blocked model thread."""
    tasks, each = [], 0
    for _ in range(count):
        before = queue.queued_tokens
        tasks.append(asyncio.create_task(service.http.post(path, json=body)))
        await happens(lambda before=before: queue.queued_tokens > before)
        assert queue.queued_tokens - before == (each or queue.queued_tokens)
        each = queue.queued_tokens - before
    return tasks


async def test_the_default_queue_admits_four_full_requests_and_a_full_one_refuses(service, happens):
    limit = service.engine.settings.max_queue_observations
    assert limit >= 4 * MAX_OBSERVATIONS
    async with service.blocked_thread():
        queue = service.engine.act_queue
        admitted = await fill(service, happens, queue, "/act", FULL, limit // MAX_OBSERVATIONS)
        refusal = await service.refused("/act", FULL, status=429)
        assert re.fullmatch(r"[1-9]\d*", refusal.response.headers["retry-after"])
        assert str(limit) in refusal.detail
        await finish(admitted[4:])
    responses = await asyncio.gather(*admitted[:4])
    assert [response.status_code for response in responses] == [200] * 4
    assert await service.metric('hintwise_refused_total{kind="act"}') == 1


async def test_an_idle_service_takes_the_largest_request_of_each_kind(start):
    items = [{"hint": f"{n}", "observation": "x", "actions": ["go", "wait"], "action": "go"} for n in range(1024)]
    largest = {
        "/act": FULL,
        "/guidance": {"observations": ["x"] * 256, "num_hints": 8, "max_new_tokens": 1},
        "/reward": {"items": items},
    }
    async with start(max_batch_tokens=64, max_queue_observations=4_096) as service:
        for path, body in largest.items():
            await service.ask(path, body)


async def test_other_kinds_of_work_have_queues_of_their_own(service, happens):
    full, num_hints = {"observations": ["x"] * 256, "num_hints": 8}, 256 * 8
    async with service.blocked_thread():
        count = service.engine.settings.max_queue_observations // num_hints
        waiting = await fill(service, happens, service.engine.guidance_queue, "/guidance", full, count)
        await service.refused("/guidance", full, status=429)
        [acting] = await fill(service, happens, service.engine.act_queue, "/act", SMALL, 1)
        await finish(waiting)
    assert (await acting).status_code == 200


# Callers who leave


async def test_a_caller_who_hangs_up_is_taken_out_of_the_queue(fresh, happens):
    """An ASGI caller of our own, since httpx' never reports a disconnect before the answer."""
    hang_up, sent = asyncio.Event(), []
    messages = [{"type": "http.request", "body": json.dumps(SMALL).encode(), "more_body": False}]

    async def receive():
        if messages:
            return messages.pop()
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"x-request-timeout-ms", b"600000")]
    scope = {"type": "http", "method": "POST", "path": "/act", "headers": headers, "query_string": b""}
    app = fresh.http._transport.app
    async with fresh.blocked_thread():
        calling = asyncio.create_task(app(scope, receive, send))
        await happens(lambda: fresh.engine.act_queue.queued_tokens > 0)
        hang_up.set()
        await asyncio.wait_for(calling, 5)
        assert fresh.engine.act_queue.queued_tokens == 0
    await fresh.act(["x"])
    assert await fresh.metric("hintwise_act_observations_total") == 1
    assert await fresh.metric('hintwise_batch_tokens_count{kind="act"}') == 1
    assert all(message.get("status") != 200 for message in sent)


async def test_the_metrics_tell_how_many_threads_a_measuring_service_chose(start, monkeypatch):
    monkeypatch.setattr("service.engine.measured_num_threads", lambda runner: 3)
    async with start(num_threads="auto") as service:
        assert await service.metric("hintwise_num_threads") == 3


async def test_a_number_of_threads_that_was_given_is_taken_and_not_measured(start, monkeypatch):
    def measured(runner):
        raise AssertionError("measured")

    monkeypatch.setattr("service.engine.measured_num_threads", measured)
    before = torch.get_num_threads()
    try:
        async with start(num_threads=2) as service:
            assert torch.get_num_threads() == 2
            assert await service.metric("hintwise_num_threads") == 2
    finally:
        torch.set_num_threads(before)
