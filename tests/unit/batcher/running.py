"""A batcher at work, with a forward pass that remembers its batches and stops where a test wants it to."""

import asyncio
import threading
from dataclasses import dataclass

from service.batcher import Batcher
from service.inference_thread import InferenceThread

FOREVER_S = 1e6
PATIENCE_S = 5
"""After which a caller who is lost fails."""
POISON = -13


@dataclass(frozen=True)
class Item:
    number: int
    num_rows: int = 1
    num_tokens: int = 2


class Forward:
    """Multiplies by ten. Every batch says on the event loop that it started; while held, it then waits."""

    def __init__(self):
        self.batches, self.ended, self.threads = [], [], set()
        self.loop = asyncio.get_running_loop()
        self.started = asyncio.Semaphore(0)
        self.held, self.permits = False, threading.Semaphore(0)

    def __call__(self, items):
        held = self.held
        self.batches.append([item.number for item in items])
        self.threads.add(threading.current_thread().name)
        self.loop.call_soon_threadsafe(self.started.release)
        assert not held or self.permits.acquire(timeout=30)
        self.ended.append(self.batches[-1])
        if POISON in self.batches[-1]:
            raise RuntimeError("CUDA error")
        return [item.number * 10 for item in items]


@dataclass
class Running:
    """A batcher at work."""

    batcher: Batcher
    forward: Forward
    thread: InferenceThread
    observed: list
    patience_s: float

    def submit(self, *numbers, num_rows=1, num_tokens=2, deadline=None):
        """Starts a request; a caller who is lost fails after a while, and never hangs."""
        items = [Item(number, num_rows, num_tokens) for number in numbers]
        deadline = asyncio.get_running_loop().time() + FOREVER_S if deadline is None else deadline
        return asyncio.create_task(asyncio.wait_for(self.batcher.submit(items, deadline=deadline), self.patience_s))

    async def occupied(self, *numbers, **request):
        """Returns a request whose batch the model is working on until `release`, or until `finish_batch`."""
        self.forward.held = True
        self.forward.started = asyncio.Semaphore(0)
        submitted = self.submit(*numbers, **request)
        await self.forward.started.acquire()
        return submitted

    async def finish_batch(self):
        """Lets one batch end, and returns once the next has started."""
        self.forward.permits.release()
        await self.forward.started.acquire()

    def release(self):
        """Lets the batch in hand end, and all that follow."""
        self.forward.held = False
        self.forward.permits.release()

    async def waiting(self, num_items):
        """Returns once so many items of two tokens each wait in the queue."""
        async with asyncio.timeout(PATIENCE_S):
            while self.batcher.queued_tokens != 2 * num_items:  # noqa: ASYNC110 (the batcher has no event for it)
                await asyncio.sleep(0)
