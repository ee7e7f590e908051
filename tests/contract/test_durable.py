"""A version serves before it is on disk: `durable` tells when it is, and nothing else waits for that."""

import asyncio
import threading

import pytest
from safetensors.torch import save

from service import engine, weight_record

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def disk(monkeypatch):
    """A disk that takes nothing until `disk.set()`, and refuses whatever `disk.refused` names."""

    class Disk(threading.Event):
        refused = ""
        reached = threading.Event()

    slow, sync = Disk(), weight_record.sync

    def wait(path):
        slow.reached.set()
        assert slow.wait(60)
        if slow.refused and slow.refused in path.name:
            raise OSError(5, "Input/output error")
        sync(path)

    yield lambda: monkeypatch.setattr(weight_record, "sync", wait) or slow
    slow.set()


async def durable(service):
    return (await service.http.get("/weights")).json()["durable"]


async def changed(service, seed, noisy):
    response = await service.put(save(noisy(await service.tensors(), 0.02, seed)))
    assert response.status_code == 200
    return response.json()


async def test_a_push_is_answered_before_it_is_durable(fresh, disk, noisy):
    assert await durable(fresh)
    slow = disk()
    info = await changed(fresh, 1, noisy)
    assert (info["policy_version"], info["durable"]) == (2, False)
    assert not await durable(fresh)
    assert (await fresh.ask("/act", {"observations": ["x"], "actions": ["go"]}))["policy_version"] == 2
    slow.set()
    assert (await fresh.durable())["policy_version"] == 2


async def test_a_rollback_is_answered_before_it_is_durable(fresh, disk, noisy):
    await changed(fresh, 1, noisy)
    await fresh.durable()
    slow = disk()
    answer = (await fresh.http.post("/weights/rollback", json={"policy_version": 1})).json()
    assert (answer["policy_version"], answer["durable"]) == (1, False)
    slow.set()
    assert (await fresh.durable())["policy_version"] == 1


async def test_pushes_during_a_flush_wait_for_nothing_and_the_newest_becomes_durable(fresh, disk, noisy, tmp_path):
    slow = disk()
    await changed(fresh, 1, noisy)
    assert await asyncio.to_thread(slow.reached.wait, 60)
    for seed in (2, 3):
        assert not (await changed(fresh, seed, noisy))["durable"]
    slow.set()
    assert (await fresh.durable())["policy_version"] == 4
    flushed = weight_record.Record.model_validate_json((tmp_path / "weights/versions.json").read_bytes())
    assert (flushed.current, [version.policy_version for version in flushed.versions]) == (4, [1, 2, 3, 4])


@pytest.mark.parametrize("refused", ["policy-000002.safetensors", "versions.part"])
async def test_a_disk_that_refuses_is_counted_and_serving_goes_on(fresh, disk, noisy, happens, refused):
    slow = disk()
    slow.refused = refused
    slow.set()
    await changed(fresh, 1, noisy)
    failures = fresh.engine.metrics.flush_failures
    await happens(lambda: failures._value.get() == 1)
    assert await fresh.metric("hintwise_flush_failures_total") == 1
    assert not await durable(fresh)
    assert (await fresh.ask("/act", {"observations": ["x"], "actions": ["go"]}))["policy_version"] == 2
    slow.refused = ""
    await changed(fresh, 2, noisy)
    assert (await fresh.durable())["policy_version"] == 3


async def test_a_service_that_stops_waits_for_the_disk(start, disk, noisy):
    async with start() as service:
        slow = disk()
        await changed(service, 1, noisy)
        assert await asyncio.to_thread(slow.reached.wait, 60)
        asyncio.get_running_loop().call_later(0.05, slow.set)
    assert service.engine.store.durable


async def test_a_disk_that_never_answers_does_not_keep_a_service_from_stopping(start, disk, noisy, monkeypatch):
    monkeypatch.setattr(engine, "FLUSH_LIMIT_S", 0.05)
    async with start() as service:
        slow = disk()
        await changed(service, 1, noisy)
        assert await asyncio.to_thread(slow.reached.wait, 60)
    assert not service.engine.store.durable
    slow.set()
    assert service.engine.flusher.stop(60)
    service.engine.store.close()
