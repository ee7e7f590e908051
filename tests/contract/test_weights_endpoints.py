"""`GET` and `PUT /weights`, line by line of DESIGN section 2: what is told, and what a push changes."""

import asyncio
import re

import pytest
import torch
from safetensors.torch import save

from hintwise.digests import sha256_of
from tests.contract.conftest import TEXTS, answers, files_in

pytestmark = pytest.mark.asyncio(loop_scope="module")


# Looking


async def test_get_tells_the_version_that_serves(service):
    info = (await service.http.get("/weights")).json()
    assert set(info) == {
        "policy_version",
        "sha256",
        "num_parameters",
        "architecture",
        "tokenizer_sha256",
        "retained_versions",
        "created_at",
        "durable",
    }
    assert (info["policy_version"], info["retained_versions"], info["durable"]) == (1, [1], True)
    assert info["architecture"].startswith("gpt2")
    assert re.fullmatch(r"[0-9a-f]{64}", info["tokenizer_sha256"])
    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)$", info["created_at"])
    tensors = await service.tensors()
    settings = {"alpha", "beta", "value_scale", "q_scale"}
    assert info["num_parameters"] == sum(t.numel() for name, t in tensors.items() if name not in settings)


async def test_the_digest_told_is_that_of_the_bytes_downloaded(service):
    info = (await service.http.get("/weights")).json()
    response = await service.http.get("/weights/1")
    assert response.headers["content-type"] == "application/octet-stream"
    assert sha256_of(response.content) == info["sha256"]


async def test_phrase_settings_travel_with_the_weights(start):
    async with start(alpha=0.5, beta=3.0) as service:
        tensors = await service.tensors()
    assert (tensors["alpha"].item(), tensors["beta"].item()) == (0.5, 3.0)


@pytest.mark.parametrize("version", ["2", "0", "-1", "x", "1.0", "1" * 40, "²", "..%2Fversions.json"])
async def test_a_version_that_is_not_kept_is_404(service, version):
    refusal = await service.refused(f"/weights/{version}", status=404, method="GET")
    if version == "2":
        assert "kept are [1]" in refusal.detail


# Pushing


async def test_a_push_serves_the_next_version(fresh):
    before = await answers(fresh)
    data = await fresh.put_noise()
    info = (await fresh.http.get("/weights")).json()
    assert (info["policy_version"], info["retained_versions"]) == (2, [1, 2])
    assert info["sha256"] == sha256_of(data)
    assert (await fresh.http.get("/weights/2")).content == data
    assert await answers(fresh) != before
    response = await fresh.http.post("/act", json={"observations": ["x"], "actions": ["go", "wait"]})
    assert response.json()["policy_version"] == 2
    assert response.headers["x-policy-version"] == "2"


async def test_put_answers_with_what_get_then_says(fresh):
    response = await fresh.put(save(await fresh.tensors()))
    assert response.status_code == 200
    assert response.json() | {"durable": True} == await fresh.durable()
    assert response.headers["x-policy-version"] == "2"


async def test_the_same_weights_answer_the_same_again(fresh):
    original, before = (await fresh.http.get("/weights/1")).content, await answers(fresh)
    await fresh.put_noise()
    assert (await fresh.put(original)).status_code == 200
    assert await answers(fresh) == before
    assert (await fresh.http.get("/weights")).json()["policy_version"] == 3


async def test_pushed_settings_are_obeyed(fresh):
    plain = await fresh.act(TEXTS, mode="greedy")
    await fresh.put_noise(0.0, beta=torch.tensor(2.0), value_scale=torch.tensor(5.0))
    for result, before in zip(await fresh.act(TEXTS, mode="greedy"), plain, strict=True):
        assert result["scores"] == pytest.approx([2 * score for score in before["scores"]], abs=1e-4)


async def test_retention_keeps_8_versions(fresh, happens):
    for seed in range(10):
        await fresh.put_noise(seed=seed)
    info = (await fresh.http.get("/weights")).json()
    assert info["retained_versions"] == list(range(4, 12))
    assert (await fresh.http.get("/weights/4")).status_code == 200
    refusal = await fresh.refused("/weights/3", status=404, method="GET")
    assert "4, 5, 6, 7, 8, 9, 10, 11" in refusal.detail
    await fresh.durable()  # the record no longer names the older ones; only then their files go
    await happens(lambda: sum(name.endswith(".safetensors") for name in files_in(fresh)) == 8)


async def test_of_two_pushes_onto_one_version_one_wins(fresh, noisy):
    state = await fresh.tensors()
    pushed = [save(noisy(state, 0.01, seed)) for seed in range(4)]
    responses = await asyncio.gather(*(fresh.put(data) for data in pushed))
    assert sorted(response.status_code for response in responses) == [200, 409, 409, 409]
    won = next(data for data, response in zip(pushed, responses, strict=True) if response.status_code == 200)
    assert (await fresh.http.get("/weights/2")).content == won
    assert (await fresh.http.get("/weights")).json()["retained_versions"] == [1, 2]


async def test_until_the_swap_the_old_version_is_the_one_that_is_told(fresh, happens):
    data = save(await fresh.tensors())
    async with fresh.blocked_thread() as jobs:
        pushing = asyncio.create_task(fresh.put(data))
        await happens(lambda: len(jobs) == 1)  # verified and kept; the swap waits for the model thread
        response = await fresh.http.get("/weights")
        assert response.json()["policy_version"] == 1
        assert response.headers["x-policy-version"] == "1"
    assert (await pushing).json()["policy_version"] == 2


async def test_the_version_that_serves_is_told_even_where_only_one_is_retained(start, happens):
    async with start(max_retained_versions=1) as service:
        data = save(await service.tensors())
        async with service.blocked_thread() as jobs:
            pushing = asyncio.create_task(service.put(data))
            await happens(lambda: len(jobs) == 1)
            response = await service.http.get("/weights")
            assert response.status_code == 200, response.text
            assert response.json()["policy_version"] == 1
        assert (await pushing).json()["retained_versions"] == [2]


async def test_answers_come_from_one_version_each_while_it_is_swapped(fresh, happens):
    """The request travels in several batches, and the swap falls between them."""
    texts = [f"cart {n % 41} speed {n // 41}" for n in range(1000)]
    data = save({**await fresh.tensors(), "beta": torch.tensor(50.0)})
    async with fresh.blocked_thread() as jobs:
        acting = asyncio.create_task(fresh.act(texts, mode="greedy"))
        await happens(lambda: fresh.engine.act_queue.queued_tokens > fresh.engine.settings.max_batch_tokens)
        pushing = asyncio.create_task(fresh.put(data))
        await happens(lambda: len(jobs) == 1)  # the swap is in line after the first batch
    assert (await pushing).status_code == 200
    results = await acting
    swapped = await fresh.act(texts, mode="greedy")
    for result, expected in zip(results, swapped, strict=True):
        assert result["scores"] == pytest.approx(expected["scores"], rel=1e-4)
    assert await fresh.metric("hintwise_act_recomputed_observations_total") > 0
