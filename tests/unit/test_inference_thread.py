"""The inference thread, once it is told to stop."""

import asyncio
import threading

import pytest

from hintwise.errors import Unavailable
from service.inference_thread import InferenceThread

PATIENCE_S = 30


async def test_a_job_that_waits_when_the_thread_stops_is_told_so():
    thread, release, begun = InferenceThread(), threading.Event(), threading.Event()
    first = asyncio.create_task(thread.run(lambda: (begun.set(), release.wait(PATIENCE_S))))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    waiting = asyncio.create_task(thread.run(lambda: None))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(asyncio.to_thread(thread.stop))
    with pytest.raises(Unavailable, match="stopping"):
        await asyncio.wait_for(waiting, PATIENCE_S)
    release.set()
    await asyncio.gather(first, stopping)


async def test_a_turn_that_raises_against_its_promise_does_not_end_the_thread():
    thread = InferenceThread()
    thread.start(lambda: 1 / 0)
    assert await asyncio.wait_for(thread.run(lambda: "done"), PATIENCE_S) == "done"
    await asyncio.to_thread(thread.stop)


async def test_stopping_twice_or_before_any_job_ends_at_once():
    thread = InferenceThread()
    await asyncio.wait_for(asyncio.to_thread(thread.stop), PATIENCE_S)
    await asyncio.wait_for(asyncio.to_thread(thread.stop), PATIENCE_S)


async def test_a_job_for_a_thread_that_has_stopped_is_told_so():
    thread = InferenceThread()
    thread.stop()
    with pytest.raises(Unavailable, match="stopping"):
        await thread.run(lambda: None)
