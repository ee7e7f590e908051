"""The batcher, with a forward pass that runs in steps: others pass between two of them."""

import asyncio
import threading
from typing import NamedTuple

import pytest

from hintwise.errors import InferenceFailed, Unavailable
from service.batcher import Batcher
from service.inference_thread import InferenceThread

POISON = -13
NUM_STEPS = 4
PATIENCE_S = 30


class Item(NamedTuple):
    number: int
    num_rows: int = 1
    num_tokens: int = 2


class SteppedForward:
    """Multiplies by ten in steps; the first waits until it may go on, and every step is noted."""

    def __init__(self):
        self.noted, self.closed = [], 0
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def __call__(self, items):
        try:
            for step in range(NUM_STEPS):
                self.noted.append(("step", step))
                self.begun.set()
                assert self.may_go_on.wait(PATIENCE_S)
                if step == 2 and any(item.number == POISON for item in items):
                    raise RuntimeError("CUDA error")
                if step < NUM_STEPS - 1:
                    yield
            return [item.number * 10 for item in items]
        finally:
            self.closed += 1


@pytest.fixture
async def running():
    forward, thread, observed = SteppedForward(), InferenceThread(), []
    batcher = Batcher(
        forward, thread, max_batch_tokens=100, max_queue_items=100, on_batch=lambda *seen: observed.append(seen)
    )

    def submit(*numbers):
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        return asyncio.create_task(batcher.submit([Item(number) for number in numbers], deadline=deadline))

    yield submit, forward, thread, batcher, observed
    forward.may_go_on.set()
    batcher.stop()
    await asyncio.to_thread(thread.stop)


async def begun(forward):
    """Returns once the first step runs."""
    assert await asyncio.to_thread(forward.begun.wait, PATIENCE_S)


async def test_other_work_passes_after_the_step_in_hand(running):
    submit, forward, thread, _, observed = running
    submitted = submit(1, 2)
    await begun(forward)
    other = asyncio.create_task(thread.run(lambda: forward.noted.append(("other", 0))))
    await asyncio.sleep(0)  # it is in line now
    forward.may_go_on.set()
    assert await submitted == [10, 20]
    await other
    assert forward.noted == [("step", 0), ("other", 0), ("step", 1), ("step", 2), ("step", 3)]
    assert [(rows, tokens) for rows, tokens, _ in observed] == [(2, 4)]  # one batch, however many steps


async def test_a_second_batch_waits_for_the_first_to_end(running):
    submit, forward, _, _, observed = running
    first = submit(1)
    await begun(forward)
    second = submit(2)
    await asyncio.sleep(0)
    forward.may_go_on.set()
    assert await asyncio.gather(first, second) == [[10], [20]]
    assert forward.noted == [("step", step) for step in range(NUM_STEPS)] * 2
    assert len(observed) == 2


async def test_a_failure_in_a_later_step_fails_its_request_alone_and_names_the_item(running):
    submit, forward, *_ = running
    first = submit(5)
    await begun(forward)
    healthy, poisoned = submit(1, 2), submit(3, POISON, 4)
    await asyncio.sleep(0)
    forward.may_go_on.set()
    assert await first == [50]
    assert await healthy == [10, 20]
    with pytest.raises(InferenceFailed, match="CUDA error") as caught:
        await poisoned
    assert [offence.field for offence in caught.value.errors] == ["item 1"]


@pytest.mark.parametrize("when", ["within a step", "between two steps"])
async def test_stopping_fails_a_batch_that_is_half_done(running, when):
    submit, forward, thread, batcher, _ = running
    submitted = submit(1)
    await begun(forward)
    if when == "within a step":
        batcher.stop()
        forward.may_go_on.set()
    else:
        held, release = threading.Event(), threading.Event()
        thread.start(lambda: (held.set(), release.wait(PATIENCE_S)))
        forward.may_go_on.set()
        assert await asyncio.to_thread(held.wait, PATIENCE_S)  # the first step has ended, the second is in line
        batcher.stop()
        release.set()
    async with asyncio.timeout(PATIENCE_S / 2):
        with pytest.raises(Unavailable, match="stopping"):
            await submitted
    await thread.run(lambda: None)
    assert forward.noted == [("step", 0)]
    assert forward.closed == 1
