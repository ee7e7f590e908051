"""A batcher that has started, and a clock that only a test moves."""

import asyncio

import pytest

from service.batcher import Batcher
from service.inference_thread import InferenceThread
from tests.unit.batcher.running import FOREVER_S, PATIENCE_S, Forward, Running


@pytest.fixture
async def clock(monkeypatch):
    """Moves the event loop's clock forward, so that no test waits for a deadline."""
    loop = asyncio.get_running_loop()
    real, passed = loop.time, 0.0

    def advance(seconds):
        nonlocal passed
        passed += seconds

    monkeypatch.setattr(loop, "time", lambda: real() + passed)
    return advance


@pytest.fixture
async def start(request):
    running = []
    patience_s = FOREVER_S if "clock" in request.fixturenames else PATIENCE_S

    async def started(forward=None, **limits):
        forward, thread, observed = forward or Forward(), InferenceThread(), []
        batcher = Batcher(
            forward,
            thread,
            on_batch=lambda *seen: observed.append(seen),
            **{"max_batch_tokens": 8, "max_queue_items": 1_000, **limits},
        )
        running.append(Running(batcher, forward, thread, observed, patience_s))
        return running[-1]

    yield started
    for each in running:
        if isinstance(each.forward, Forward):
            each.release()
        each.batcher.stop()
        await asyncio.to_thread(each.thread.stop)
