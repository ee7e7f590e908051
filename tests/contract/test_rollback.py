"""`POST /weights/rollback`: a retained version serves again, and nothing else changes."""

import asyncio

import pytest
from safetensors.torch import save

from hintwise.digests import sha256_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = [f"cart {n} speed {n + 7} pole 20 turn {40 - n}" for n in range(6)]


async def answers(service):
    """Returns what tells weights apart."""
    return [(result["scores"], result["value"]) for result in await service.act(TEXTS, mode="greedy")]


async def info(service):
    """Returns what is told of the weights that serve, once nothing of it changes any more."""
    return await service.durable()


async def roll_back(service, policy_version, **headers):
    return await service.http.post("/weights/rollback", json={"policy_version": policy_version}, headers=headers)


async def test_a_retained_version_serves_again_under_its_own_number(fresh):
    await fresh.put_noise(seed=1)
    second, wanted = await info(fresh), await answers(fresh)
    await fresh.put_noise(seed=2)
    response = await roll_back(fresh, 2)
    assert response.status_code == 200, response.text
    assert response.json() | {"durable": True} == {**second, "retained_versions": [1, 2, 3]} == await info(fresh)
    assert response.headers["x-policy-version"] == "2"
    assert await answers(fresh) == wanted
    assert (await fresh.ask("/act", {"observations": ["x"], "actions": ["go"]}))["policy_version"] == 2
    assert await fresh.metric("hintwise_rollbacks_total") == 1
    assert await fresh.metric("hintwise_policy_version") == 2


async def test_the_next_push_gets_the_highest_number_ever_and_one(fresh):
    await fresh.put_noise(seed=1)
    await fresh.put_noise(seed=2)
    await roll_back(fresh, 1)
    refused = await fresh.put(save(await fresh.tensors()), if_match='"3"')
    assert refused.status_code == 409  # what a push replaces is what serves
    await fresh.put_noise(seed=3)
    assert (await info(fresh))["policy_version"] == 4
    assert (await info(fresh))["retained_versions"] == [1, 2, 3, 4]


async def test_the_kept_files_are_unharmed_by_swaps_there_and_back(fresh):
    pushed = {1: (await fresh.http.get("/weights/1")).content}
    pushed |= {version: await fresh.put_noise(seed=version) for version in (2, 3)}
    for version in (1, 3, 2):
        await roll_back(fresh, version)
    for version, data in pushed.items():
        assert (await fresh.http.get(f"/weights/{version}")).content == data


async def test_the_version_that_serves_stays_and_nothing_changes(fresh):
    await fresh.put_noise(seed=1)
    before = await info(fresh)
    response = await roll_back(fresh, 2)
    assert (response.status_code, response.json()) == (200, before)
    assert await fresh.metric("hintwise_rollbacks_total") == 0


@pytest.mark.parametrize("version", [0, -1, 3, 2**60])
async def test_a_version_that_is_not_kept_is_404_with_those_that_are(fresh, version):
    await fresh.put_noise(seed=1)
    before = await info(fresh)
    refusal = await fresh.refused("/weights/rollback", {"policy_version": version}, 404)
    assert "kept are [1, 2]" in refusal.detail
    assert await info(fresh) == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "policy_version"),
        ({"policy_version": "1"}, "policy_version"),
        ({"policy_version": 1.5}, "policy_version"),
        ({"policy_version": None}, "policy_version"),
        ({"policy_version": True}, "policy_version"),
        ({"policy_version": 1, "version": 1}, "version"),
    ],
)
async def test_a_body_that_is_not_valid_names_its_field(service, body, field):
    assert set((await service.refused("/weights/rollback", body)).fields) == {field}


async def test_what_is_not_json_is_400_or_415(service):
    await service.refused("/weights/rollback", b"{", 400)
    await service.refused("/weights/rollback", b"{}", 415, headers={"content-type": "text/plain"})


async def test_if_match_is_honoured_when_sent(fresh):
    await fresh.put_noise(seed=1)
    response = await roll_back(fresh, 1, **{"if-match": '"1"'})
    assert response.status_code == 409
    assert "current is 2" in response.text
    assert (await roll_back(fresh, 2, **{"if-match": '"1"'})).status_code == 409  # also where nothing would change
    assert (await info(fresh))["policy_version"] == 2
    assert (await roll_back(fresh, 1, **{"if-match": '"2"'})).status_code == 200
    assert "If-Match" in (await roll_back(fresh, 2, **{"if-match": "2"})).text


async def test_a_restart_serves_what_was_rolled_back_to(start):
    async with start() as service:
        await service.put_noise(seed=1)
        wanted = await answers(service)
        await service.put_noise(seed=2)
        await roll_back(service, 2)
    async with start() as service:
        assert (await info(service))["policy_version"] == 2
        assert await answers(service) == wanted
        await service.put_noise(seed=3)
        assert (await info(service))["policy_version"] == 4


@pytest.mark.parametrize("damage", ["flipped", "gone"])
async def test_a_damaged_file_is_refused_and_the_present_version_serves_on(fresh, damage):
    await fresh.put_noise(seed=1)
    path, before, answered = fresh.engine.store.path_of(1), await info(fresh), await answers(fresh)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refusal = await fresh.refused("/weights/rollback", {"policy_version": 1})
    assert "version 1 is damaged" in refusal.detail
    assert await info(fresh) == before
    assert await answers(fresh) == answered


async def test_a_kept_file_must_still_fit(fresh, monkeypatch):
    """As after a change of the checks: a digest tells that the bytes are the same, not that they are good."""
    state = await fresh.tensors()
    state["value_head.weight"][0, 3] = float("nan")
    with monkeypatch.context() as patched:
        patched.setattr("hintwise.weights.check_fits", lambda state, reference: None)
        assert (await fresh.put(save(state))).status_code == 200
    await roll_back(fresh, 1)
    refusal = await fresh.refused("/weights/rollback", {"policy_version": 2})
    assert set(refusal.fields) == {"value_head.weight"}


async def test_the_version_that_serves_is_kept_however_old(start, happens):
    async with start(max_retained_versions=3) as service:
        for seed in range(2):
            await service.put_noise(seed=seed)
        await roll_back(service, 1)
        data = save(await service.tensors())
        refused = await service.put(data[:-1])
        assert refused.status_code == 422
        async with service.blocked_thread() as jobs:
            pushing = asyncio.create_task(service.put(data))
            await happens(lambda: len(jobs) == 1)
            assert (await info(service))["policy_version"] == 1
            assert sha256_of((await service.http.get("/weights/1")).content) == (await info(service))["sha256"]
        assert (await pushing).json()["retained_versions"] == [2, 3, 4]  # it serves no more, and is the oldest
        await service.refused("/weights/1", method="GET", status=404)


async def test_pushes_and_rollbacks_take_turns(fresh):
    """Of changes that all replace version 3 one wins, whatever it is, and what is told is what serves."""
    await fresh.put_noise(seed=1)
    await fresh.put_noise(seed=2)
    data = save(await fresh.tensors())
    changes = [roll_back(fresh, n, **{"if-match": '"3"'}) for n in (1, 2)] + [fresh.put(data) for _ in range(2)]
    responses = await asyncio.gather(*changes)
    assert sorted(response.status_code for response in responses) == [200, 409, 409, 409]
    won = next(response.json() for response in responses if response.status_code == 200)
    assert won | {"durable": True} == await info(fresh)
    assert fresh.engine.store.current.policy_version == fresh.engine.policy.policy_version == won["policy_version"]


async def test_answers_come_from_one_version_each_while_it_is_rolled_back(fresh, happens):
    """The request travels in several batches, and the rollback to a lower number falls between them."""
    texts = [f"cart {n % 41} speed {n // 41}" for n in range(1000)]
    await fresh.put_noise(seed=1)
    async with fresh.blocked_thread() as jobs:
        acting = asyncio.create_task(
            fresh.ask("/act", {"observations": texts, "actions": ["push left", "push right"], "mode": "greedy"})
        )
        await happens(lambda: fresh.engine.act_queue.queued_tokens > fresh.engine.settings.max_batch_tokens)
        rolling = asyncio.create_task(roll_back(fresh, 1))
        await happens(lambda: len(jobs) == 1)  # the swap is in line after the first batch
    assert (await rolling).status_code == 200
    answer = await acting
    assert answer["policy_version"] == 1
    again = await fresh.act(texts, mode="greedy")
    for result, expected in zip(answer["results"], again, strict=True):
        assert result["scores"] == pytest.approx(expected["scores"], rel=1e-4)
    assert await fresh.metric("hintwise_act_recomputed_observations_total") > 0
