"""A change of weights that runs out of time: it happened and is recorded, or it did not and left nothing."""

import asyncio
import threading

import pytest
import pytest_asyncio
from safetensors.torch import save

from hintwise.digests import content_digest, sha256_of
from service import weight_record, weight_swap
from service.weight_store import WeightStore

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = {"x-request-timeout-ms": "50"}


def serving_and_recorded(service):
    return service.engine.policy.policy_version, service.engine.serving.policy_version, service.engine.store.current


@pytest_asyncio.fixture(loop_scope="module")
async def unchanged(fresh):
    """Checks that what ran out of time left the service as it was, and that the next push goes well."""
    before, files = serving_and_recorded(fresh), sorted(fresh.engine.settings.weights_dir.iterdir())
    tensors = await fresh.tensors()
    yield fresh
    assert serving_and_recorded(fresh) == before
    assert sorted(fresh.engine.settings.weights_dir.iterdir()) == files
    assert (await fresh.put(save(tensors))).json()["policy_version"] == 2


async def send(service, chunks, data, **headers):
    sent = {"if-match": '"1"', "content-digest": content_digest(sha256_of(data)), **SHORT, **headers}
    return await service.http.put("/weights", content=chunks, headers=sent)


async def test_a_body_that_stops_half_way_is_504(unchanged):
    data = save(await unchanged.tensors())

    async def stalls():
        yield data[:1000]
        await asyncio.Event().wait()

    response = await send(unchanged, stalls(), data)
    assert response.status_code == 504
    assert "nothing was changed" in response.json()["detail"]
    assert await unchanged.metric("hintwise_rejected_swaps_total") == 1


async def test_a_rollback_whose_body_stops_half_way_is_504(unchanged):
    async def stalls():
        yield b'{"policy'
        await asyncio.Event().wait()

    response = await unchanged.http.post("/weights/rollback", content=stalls(), headers=SHORT)
    assert response.status_code == 504


async def test_a_swap_still_in_line_at_the_deadline_never_happens(unchanged, happens):
    data = await changed(unchanged)
    async with unchanged.blocked_thread() as jobs:
        response = await send(unchanged, data, data, **{"x-request-timeout-ms": "2000"})
        assert len(jobs) == 1  # it was verified, and waited for the model thread
        assert response.status_code == 504
        assert "the model thread was busy" in response.json()["detail"]
    await unchanged.engine.thread.run(lambda: None)  # whatever was in line has had its turn


async def test_a_rollback_still_in_line_at_the_deadline_never_happens(fresh):
    await fresh.put_noise()
    before = serving_and_recorded(fresh)
    async with fresh.blocked_thread() as jobs:
        headers = {"x-request-timeout-ms": "2000"}
        response = await fresh.http.post("/weights/rollback", json={"policy_version": 1}, headers=headers)
        assert (response.status_code, len(jobs)) == (504, 1)
    await fresh.engine.thread.run(lambda: None)
    assert serving_and_recorded(fresh) == before


async def test_a_swap_in_hand_at_the_deadline_is_finished_and_told(fresh, monkeypatch):
    """The record is being written when time runs out: who is told 504 may rely on nothing having changed."""
    data, begun, go_on, add = await changed(fresh), threading.Event(), threading.Event(), WeightStore.add

    def slow(self, part, sha256):
        begun.set()
        assert go_on.wait(60)
        return add(self, part, sha256)

    monkeypatch.setattr(WeightStore, "add", slow)
    pushing = asyncio.create_task(send(fresh, data, data, **{"x-request-timeout-ms": "2000"}))
    await asyncio.to_thread(begun.wait, 60)
    await asyncio.wait({pushing}, timeout=2.5)  # beyond the deadline
    assert not pushing.done()
    go_on.set()
    response = await pushing
    assert (response.status_code, response.json()["policy_version"]) == (200, 2)
    assert serving_and_recorded(fresh)[:2] == (2, 2)
    assert fresh.engine.store.current.policy_version == 2


async def test_a_push_that_waits_for_another_one_ends_at_its_deadline(fresh, happens):
    data = await changed(fresh)
    async with fresh.blocked_thread() as jobs:
        first = asyncio.create_task(fresh.put(data))
        await happens(lambda: len(jobs) == 1)
        response = await send(fresh, data, data)
        assert (response.status_code, len(jobs)) == (504, 1)
    assert (await first).json()["policy_version"] == 2


async def test_time_that_runs_out_while_the_weights_are_verified_is_504(unchanged, monkeypatch):
    go_on = threading.Event()
    verify, data = weight_swap.verify, await changed(unchanged)

    def slow(path, runner):
        assert go_on.wait(60)
        return verify(path, runner)

    with monkeypatch.context() as patched:
        patched.setattr(weight_swap, "verify", slow)
        response = await send(unchanged, data, data)
        assert response.status_code == 504
        go_on.set()


async def test_a_caller_cancelled_while_the_swap_is_in_hand_leaves_it_whole(fresh, monkeypatch):
    """As uvicorn does to the requests that are left when it stops."""
    data, begun, go_on, add = await changed(fresh), threading.Event(), threading.Event(), WeightStore.add

    def slow(self, part, sha256):
        begun.set()
        assert go_on.wait(60)
        return add(self, part, sha256)

    monkeypatch.setattr(WeightStore, "add", slow)
    pushing = asyncio.create_task(fresh.put(data))
    await asyncio.to_thread(begun.wait, 60)
    pushing.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert serving_and_recorded(fresh)[:2] == (2, 2)
    assert fresh.engine.store.current.policy_version == 2
    assert (await fresh.http.get("/weights/2")).content == data


async def test_a_record_that_cannot_be_written_leaves_the_old_weights(unchanged, monkeypatch):
    """The disk fills between the weights and the record."""
    data = await changed(unchanged)
    before = await unchanged.act(["cart 3"], mode="greedy")

    def full(directory, record):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(weight_record, "write_unflushed", full)
        response = await send(unchanged, data, data, **{"x-request-timeout-ms": "30000"})
        assert response.status_code == 500
    assert await unchanged.act(["cart 3"], mode="greedy") == before


@pytest.mark.parametrize("timeout_ms", ["0", "-1", "x", "600001"])
async def test_a_malformed_time_limit_is_named(service, timeout_ms):
    response = await send(service, b"x", b"x", **{"x-request-timeout-ms": timeout_ms})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "X-Request-Timeout-Ms"


async def changed(service):
    state = await service.tensors()
    return save({name: tensor + 0.01 if tensor.dim() else tensor for name, tensor in state.items()})
