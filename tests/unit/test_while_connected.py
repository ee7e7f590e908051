"""`while_connected`: the work ends with its caller, and with nobody else's end mistaken for that."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from service.bodies import while_connected

PATIENCE_S = 5


class Caller:
    """A request whose sender leaves when told to."""

    def __init__(self):
        self.leaves, self.watched = asyncio.Event(), 0

    async def receive(self):
        self.watched += 1
        try:
            await self.leaves.wait()
        finally:
            self.watched -= 1
        return {"type": "http.disconnect"}


@pytest.fixture
async def caller():
    return Caller()


class Work:
    """Work that waits, and notes how it was ended."""

    def __init__(self):
        self.goes_on, self.cancelled = asyncio.Event(), False

    async def __call__(self):
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_work_that_ends_is_returned_and_nobody_watches_any_longer(caller):
    work = Work()
    asked = asyncio.create_task(while_connected(caller, work()))
    await settled()
    assert caller.watched == 1
    work.goes_on.set()
    assert await asyncio.wait_for(asked, PATIENCE_S) == "done"
    await settled()
    assert caller.watched == 0


async def test_a_caller_who_leaves_cancels_the_work_and_not_the_task_around_it(caller):
    work = Work()

    async def handler():
        with pytest.raises(ClientDisconnect):
            await while_connected(caller, work())
        await asyncio.sleep(0)  # a cancellation that was left behind would come out here
        return asyncio.current_task().cancelling()

    asked = asyncio.create_task(handler())
    await settled()
    caller.leaves.set()
    assert await asyncio.wait_for(asked, PATIENCE_S) == 0
    assert work.cancelled


async def test_a_cancellation_from_outside_stays_one_though_the_caller_leaves_as_well(caller):
    work = Work()
    asked = asyncio.create_task(while_connected(caller, work()))
    await settled()
    asked.cancel()
    caller.leaves.set()
    await asyncio.wait([asked], timeout=PATIENCE_S)
    assert asked.cancelled()
    assert work.cancelled


async def test_a_deadline_that_passes_as_the_caller_leaves_is_a_deadline(caller):
    async def handler():
        async with asyncio.timeout(0.01):
            await while_connected(caller, asyncio.sleep(PATIENCE_S))

    with pytest.raises(TimeoutError):
        await handler()


async def test_a_failure_is_raised_though_the_caller_leaves_in_the_same_moment(caller):
    fails = asyncio.Event()

    async def work():
        await fails.wait()
        raise ValueError("quotes an observation")

    asked = asyncio.create_task(while_connected(caller, work()))
    await settled()
    fails.set()
    caller.leaves.set()
    with pytest.raises(ValueError, match="quotes"):
        await asked
