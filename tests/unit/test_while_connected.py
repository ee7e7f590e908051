"""`while_connected`, where work ends at the very moment that its caller is cancelled."""

import asyncio
import gc

from service.bodies import while_connected


class Connected:
    """A request whose sender stays."""

    async def receive(self):
        await asyncio.Event().wait()


async def test_a_failure_that_comes_together_with_a_cancellation_is_not_logged_by_asyncio():
    reported, fails = [], asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["message"]))

    async def work():
        await fails.wait()
        raise ValueError("quotes an observation")

    asked = asyncio.create_task(while_connected(Connected(), work()))
    await asyncio.sleep(0.01)  # until it waits
    fails.set()
    await asyncio.sleep(0)  # the work has failed, and nobody was told yet
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()
    del asked
    gc.collect()
    assert reported == []
