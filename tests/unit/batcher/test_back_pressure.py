"""A full queue refuses, says when to retry, and takes more once there is room."""

import asyncio
import itertools
from types import SimpleNamespace

import pytest

from hintwise.errors import Overloaded
from service.batcher import MAX_RETRY_AFTER_S


async def test_a_full_queue_refuses_and_says_when_to_retry(start):
    running = await start(max_queue_items=3)
    accepted = [await running.occupied(0), running.submit(1, 2)]
    await running.waiting(2)
    with pytest.raises(Overloaded, match="2 items are waiting and the limit is 3") as refusal:
        await running.submit(3, 4)
    assert 1 <= refusal.value.retry_after_s <= MAX_RETRY_AFTER_S
    assert refusal.value.retry_after_s == int(refusal.value.retry_after_s)
    accepted.append(running.submit(5))  # one more does fit
    await running.waiting(3)
    running.release()
    assert await asyncio.gather(*accepted) == [[0], [10, 20], [50]]


async def test_the_time_to_retry_follows_the_measured_speed(start, monkeypatch):
    running = await start(max_queue_items=3)
    monkeypatch.setattr("service.batch_run.time", SimpleNamespace(perf_counter=itertools.count(0, 8).__next__))
    await running.submit(0)  # 2 tokens in 8 s
    accepted = [await running.occupied(0), running.submit(1, 2, 3)]
    await running.waiting(3)
    with pytest.raises(Overloaded) as refusal:
        await running.submit(4)
    assert refusal.value.retry_after_s == 24
    running.release()
    await asyncio.gather(*accepted)


async def test_the_time_to_retry_is_bounded(start, monkeypatch):
    running = await start(max_queue_items=100)
    monkeypatch.setattr("service.batch_run.time", SimpleNamespace(perf_counter=itertools.count(0, 8).__next__))
    await running.submit(0)
    accepted = [await running.occupied(0), running.submit(*range(1, 101))]
    await running.waiting(100)
    with pytest.raises(Overloaded) as refusal:
        await running.submit(101)
    assert refusal.value.retry_after_s == MAX_RETRY_AFTER_S
    running.release()
    await asyncio.gather(*accepted)


async def test_what_has_left_the_queue_makes_room(start):
    """Taken by a batch, given up by its caller, late: each counts no longer."""
    running = await start(max_queue_items=3)
    first = await running.occupied(0)
    for _ in range(3):
        gone = running.submit(1, 2, 3)
        await running.waiting(3)
        gone.cancel()
        await running.waiting(0)
    taken = running.submit(1, 2, 3)
    await running.waiting(3)
    await running.finish_batch()
    fits = running.submit(4, 5, 6)
    await running.waiting(3)
    running.release()
    assert await asyncio.gather(first, taken, fits) == [[0], [10, 20, 30], [40, 50, 60]]


async def test_an_empty_queue_takes_a_request_of_any_size(start):
    running = await start(max_queue_items=3)
    occupied = await running.occupied(0)
    large = running.submit(*range(1, 21))
    await running.waiting(20)
    running.release()
    await asyncio.gather(occupied, large)
