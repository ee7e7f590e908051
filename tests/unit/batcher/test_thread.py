"""The thread that batches share with other jobs, and how both are stopped."""

import asyncio
import threading

import pytest

from hintwise.errors import DeadlineExceeded, Unavailable
from tests.unit.batcher.running import PATIENCE_S

# The thread


async def test_an_exclusive_job_waits_for_the_batch_in_hand_and_precedes_the_next(start):
    running = await start()
    first = await running.occupied(0)
    second = running.submit(1)
    await running.waiting(1)
    job = asyncio.create_task(running.thread.run(lambda: list(running.forward.batches)))
    await asyncio.sleep(0)
    assert not job.done()
    running.release()
    assert await job == [[0]]
    await asyncio.gather(first, second)
    assert running.forward.batches == [[0], [1]]


async def test_a_job_that_fails_fails_its_caller_alone(start):
    running = await start()
    with pytest.raises(ZeroDivisionError):
        await running.thread.run(lambda: 1 / 0)
    assert await running.submit(1) == [10]


async def test_a_job_whose_deadline_passes_in_line_never_runs(start):
    running, ran = await start(), []
    first = await running.occupied(0)
    with pytest.raises(DeadlineExceeded, match="nothing was changed"):
        await running.thread.run(lambda: ran.append(1), deadline=asyncio.get_running_loop().time() + 0.01)
    running.release()
    await first
    await running.thread.run(lambda: None)
    assert ran == []


async def test_a_job_in_hand_at_its_deadline_is_waited_for(start):
    running, begun, go_on = await start(), threading.Event(), threading.Event()

    def job():
        begun.set()
        assert go_on.wait(PATIENCE_S)
        return "done"

    deadline = asyncio.get_running_loop().time() + 0.2
    waiting = asyncio.create_task(running.thread.run(job, deadline=deadline))
    await asyncio.to_thread(begun.wait, PATIENCE_S)
    await asyncio.wait({waiting}, timeout=0.3)
    go_on.set()
    assert await waiting == "done"


async def test_a_job_in_line_whose_caller_is_cancelled_never_runs(start):
    running, ran = await start(), []
    first = await running.occupied(0)
    waiting = asyncio.create_task(running.thread.run(lambda: ran.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    running.release()
    await first
    await running.thread.run(lambda: None)
    assert ran == []


# Stopping


async def test_stopping_releases_who_waits_and_still_answers_the_batch_in_hand(start):
    running = await start()
    first = await running.occupied(0)
    waiting = [running.submit(1), running.submit(*range(20))]
    await running.waiting(21)
    running.batcher.stop()
    for caller in waiting:
        with pytest.raises(Unavailable, match="stopping"):
            await caller
    assert running.batcher.queued_tokens == 0
    running.release()
    assert await first == [0]
    assert running.forward.batches == [[0]]


async def test_stopping_fails_a_large_request_that_is_half_done(start):
    running = await start()
    large = await running.occupied(*range(12))
    await running.waiting(8)
    running.batcher.stop()
    with pytest.raises(Unavailable):
        await large
    running.release()


async def test_a_stopped_batcher_refuses_at_once(start):
    running = await start()
    await running.submit(0)
    running.batcher.stop()
    late = running.submit(1)
    await asyncio.wait({late}, timeout=5)
    assert late.done(), "waits for a batcher that has stopped"
    with pytest.raises(Unavailable, match="stopping"):
        await late


async def test_stopping_the_thread_ends_the_job_in_hand_and_drops_those_that_wait(start):
    running = await start()
    first = await running.occupied(0)
    dropped = asyncio.create_task(running.thread.run(lambda: 1))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(asyncio.to_thread(running.thread.stop))
    with pytest.raises(Unavailable, match="stopping"):
        await asyncio.wait_for(dropped, PATIENCE_S)
    assert await asyncio.wait({stopping}, timeout=0.05) == (set(), {stopping})  # it waits for the batch in hand
    running.release()
    await stopping
    assert running.forward.ended == running.forward.batches == [[0]]
    assert await first == [0]
