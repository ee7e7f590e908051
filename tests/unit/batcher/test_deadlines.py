"""Requests that nobody waits for any more: their deadline has passed, or their caller has left."""

import asyncio

import pytest

from hintwise.errors import DeadlineExceeded

# Deadlines


async def test_a_deadline_that_passes_in_the_queue_saves_the_compute(start, clock):
    running = await start()
    first = await running.occupied(0)
    late = running.submit(1, deadline=asyncio.get_running_loop().time() + 60)
    await running.waiting(1)
    clock(61)
    with pytest.raises(DeadlineExceeded):
        await late
    assert running.batcher.queued_tokens == 0
    running.release()
    assert await asyncio.gather(first, running.submit(2)) == [[0], [20]]
    assert running.forward.batches == [[0], [2]]


async def test_a_deadline_that_passes_during_compute_is_kept(start, clock):
    running = await start()
    late = await running.occupied(1, deadline=asyncio.get_running_loop().time() + 60)
    clock(61)
    with pytest.raises(DeadlineExceeded):
        await late
    running.release()
    assert await running.submit(2) == [20]


async def test_a_deadline_takes_every_part_of_a_large_request_out_of_the_queue(start, clock):
    running = await start()
    late = await running.occupied(*range(12), deadline=asyncio.get_running_loop().time() + 60)
    clock(61)
    with pytest.raises(DeadlineExceeded):
        await late
    running.release()
    await running.submit(100)
    assert running.forward.batches == [[0, 1, 2, 3], [100]]


async def test_a_deadline_already_past_computes_nothing(start, monkeypatch):
    running, turns = await start(), []
    monkeypatch.setattr(running.thread, "start", turns.append)
    with pytest.raises(DeadlineExceeded):
        await running.submit(1, deadline=asyncio.get_running_loop().time() - 1)
    assert turns == []


# Callers who leave


async def test_a_caller_who_left_is_never_computed(start):
    running = await start()
    first = await running.occupied(0)
    gone, stays = running.submit(1), running.submit(2)
    await running.waiting(2)
    gone.cancel()
    await running.waiting(1)
    running.release()
    assert await asyncio.gather(first, stays) == [[0], [20]]
    assert running.forward.batches == [[0], [2]]


async def test_a_caller_who_left_during_compute_harms_nobody(start):
    running = await start()
    first = await running.occupied(0)
    gone, stays = running.submit(1), running.submit(2)
    await running.waiting(2)
    await running.finish_batch()
    gone.cancel()
    await asyncio.wait({gone})
    running.release()
    assert await asyncio.gather(first, stays) == [[0], [20]]
    assert running.forward.batches == [[0], [1, 2]]
    assert await running.submit(3) == [30]
