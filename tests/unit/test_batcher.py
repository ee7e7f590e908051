"""The batcher, with a forward pass that remembers its batches and stops where a test wants it to."""

import asyncio
import itertools
import threading
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from hintwise.errors import DeadlineExceeded, InferenceFailed, Overloaded, Unavailable
from service.batcher import MAX_RETRY_AFTER_S, Batcher
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


# Batches


async def test_each_caller_gets_its_own_results(start):
    running = await start()
    requests = [running.submit(3 * i, 3 * i + 1, 3 * i + 2) for i in range(10)]
    assert await asyncio.gather(*requests) == [[30 * i, 30 * i + 10, 30 * i + 20] for i in range(10)]


async def test_every_batch_runs_on_the_one_thread(start):
    running = await start()
    await asyncio.gather(*(running.submit(i) for i in range(20)))
    assert len(running.forward.threads) == 1
    assert threading.current_thread().name not in running.forward.threads


async def test_a_lone_request_waits_for_nothing(start):
    running = await start()
    assert await running.submit(1) == [10]
    assert running.forward.batches == [[1]]


async def test_requests_that_arrive_during_a_batch_form_the_next_one(start):
    running = await start()
    first = await running.occupied(0)
    rest = [running.submit(i) for i in (1, 2, 3)]
    await running.waiting(3)
    running.release()
    await asyncio.gather(first, *rest)
    assert running.forward.batches == [[0], [1, 2, 3]]
    assert running.batcher.queued_tokens == 0


async def test_padded_tokens_never_exceed_the_limit(start):
    running = await start(max_batch_tokens=8)
    first = await running.occupied(0)
    rest = [running.submit(1, num_tokens=1), running.submit(2, num_tokens=1), running.submit(3, num_tokens=4)]
    await running.waiting(6 / 2)
    running.release()
    await asyncio.gather(first, *rest)
    assert running.forward.batches == [[0], [1, 2], [3]]  # 1 + 1 + 4 = 6 tokens, but 3 rows x 4 = 12 once padded


async def test_rows_count_towards_the_limit(start):
    running = await start(max_batch_tokens=8)
    first = await running.occupied(0)
    rest = [running.submit(1, num_rows=3), running.submit(2, num_rows=1), running.submit(3, num_rows=1)]
    await running.waiting(10 / 2)
    running.release()
    await asyncio.gather(first, *rest)
    assert running.forward.batches == [[0], [1, 2], [3]]


async def test_an_item_above_the_limit_runs_alone_and_does_not_stall_the_queue(start):
    running = await start(max_batch_tokens=8)
    first = await running.occupied(0)
    rest = [running.submit(1), running.submit(2, num_tokens=99), running.submit(3)]
    await running.waiting(103 / 2)
    running.release()
    assert await asyncio.gather(first, *rest) == [[0], [10], [20], [30]]
    assert running.forward.batches == [[0], [1], [2], [3]]


async def test_a_request_above_the_limit_is_cut_into_batches_that_fit(start):
    running = await start(max_batch_tokens=8)
    assert await running.submit(*range(10)) == [10 * i for i in range(10)]
    assert running.forward.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_a_request_is_sorted_by_length_before_it_is_cut_and_answered_in_its_own_order(start):
    running = await start(max_batch_tokens=8)
    items = [Item(number, num_tokens=length) for number, length in enumerate((1, 4, 1, 4, 2, 1, 1))]
    results = await running.batcher.submit(items, deadline=FOREVER_S + 1e9)
    assert results == [10 * number for number in range(7)]
    assert running.forward.batches == [[0, 2, 5, 6], [4, 1], [3]]
    padded = [tokens for _, tokens, _ in running.observed]
    assert padded == [4, 8, 4]  # in the order of the request it would be [0, 1], [2, 3], [4, 5, 6]: 8, 8 and 6


async def test_a_request_that_fits_one_batch_keeps_its_order(start):
    running = await start(max_batch_tokens=8)
    items = [Item(1, num_tokens=4), Item(2, num_tokens=1)]
    assert await running.batcher.submit(items, deadline=FOREVER_S + 1e9) == [10, 20]
    assert running.forward.batches == [[1, 2]]


async def test_an_item_that_fails_is_named_by_its_place_before_the_sorting(start):
    running = await start(max_batch_tokens=8)
    items = [Item(1, num_tokens=4), Item(2, num_tokens=4), Item(POISON, num_tokens=3), Item(3, num_tokens=1)]
    with pytest.raises(InferenceFailed) as failure:
        await running.batcher.submit(items, deadline=FOREVER_S + 1e9)
    assert [offence.field for offence in failure.value.errors] == ["item 2"]


async def test_a_small_request_passes_between_the_parts_of_a_large_one(start):
    running = await start(max_batch_tokens=8)
    large = await running.occupied(*range(24))
    small = running.submit(100)
    await running.waiting(21)
    running.release()
    await asyncio.gather(large, small)
    [place] = [i for i, batch in enumerate(running.forward.batches) if 100 in batch]
    assert place <= 2, running.forward.batches  # at most one more part of the large one goes first


async def test_large_requests_take_turns(start):
    running = await start(max_batch_tokens=8)
    first = await running.occupied(0)
    large = [running.submit(*range(100, 112)), running.submit(*range(200, 212))]
    await running.waiting(24)
    running.release()
    await asyncio.gather(first, *large)
    owners = [batch[0] // 100 for batch in running.forward.batches[1:]]
    assert owners == [1, 2, 1, 2, 1, 2]


async def test_a_stream_of_small_requests_never_starves_a_large_one(start):
    running = await start(max_batch_tokens=8)
    large = await running.occupied(*range(12))
    small = [running.submit(*[100] * 4), running.submit(*[100] * 4)]  # each fills a batch
    await running.waiting(16)
    for _ in range(6):
        small.append(running.submit(*[100] * 4))
        await asyncio.sleep(0)
        await running.finish_batch()
    running.release()
    assert await large == [10 * i for i in range(12)]
    await asyncio.gather(*small)
    places = [i for i, batch in enumerate(running.forward.batches) if 100 not in batch]
    assert places[-1] < len(running.forward.batches) - 1, running.forward.batches


async def test_each_batch_is_measured(start):
    running = await start(max_batch_tokens=8)
    await running.submit(1, 2, num_rows=2, num_tokens=2)
    [(num_rows, num_tokens, seconds)] = running.observed
    assert (num_rows, num_tokens) == (4, 8)
    assert seconds >= 0


# Back-pressure


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


# Failures


async def test_a_failing_request_fails_alone(start):
    running = await start()
    first = await running.occupied(0)
    good, poisoned, fine = running.submit(1), running.submit(POISON), running.submit(2)
    await running.waiting(3)
    running.release()
    with pytest.raises(InferenceFailed, match="CUDA error"):
        await poisoned
    assert await asyncio.gather(first, good, fine) == [[0], [10], [20]]
    assert [batch for batch in running.forward.batches if POISON not in batch] == [[0], [1], [2]]
    assert running.forward.batches[1] == [1, POISON, 2]
    assert await running.submit(3) == [30]


@pytest.mark.parametrize("place", [0, 1, 37, 63])
async def test_one_failing_request_among_64_is_found_by_halving(start, place):
    running = await start(max_batch_tokens=1_000)
    first = await running.occupied(0)
    asked = [running.submit(POISON if i == place else i) for i in range(64)]
    await running.waiting(64)
    running.release()
    answers = await asyncio.gather(first, *asked, return_exceptions=True)
    assert isinstance(answers[1 + place], InferenceFailed)
    assert [answers[1 + i] for i in range(64) if i != place] == [[i * 10] for i in range(64) if i != place]
    failed = [batch for batch in running.forward.batches if POISON in batch]
    assert [len(batch) for batch in failed] == [64, 32, 16, 8, 4, 2, 1, 1]  # the last to see whether it fails alone
    assert len(running.forward.batches) == 1 + len(failed) + 6


async def test_an_error_made_for_the_caller_is_passed_on_as_it_is(start):
    def forward(items):
        raise InferenceFailed("the scores are not finite")

    running = await start(forward)
    with pytest.raises(InferenceFailed, match=r"^the scores are not finite"):
        await running.submit(1)


async def test_a_failing_part_fails_its_whole_request(start):
    running = await start(max_batch_tokens=4)
    with pytest.raises(InferenceFailed):
        await running.submit(*range(10), POISON, *range(10))
    assert await running.submit(1) == [10]
    assert running.batcher.queued_tokens == 0


async def test_the_item_that_fails_is_named_as_the_caller_knows_it(start):
    running = await start(max_batch_tokens=8)
    for place in range(10):
        items = [Item(POISON if i == place else i) for i in range(10)]
        with pytest.raises(InferenceFailed) as failure:
            await running.batcher.submit(items, deadline=FOREVER_S + 1e9, place_of="observations[{}]".format)
        assert [offence.field for offence in failure.value.errors] == [f"observations[{place}]"]


async def test_no_item_is_blamed_where_each_goes_well_alone(start):
    def too_many(items):
        if len(items) > 1:
            raise RuntimeError("out of memory")
        return [item.number * 10 for item in items]

    running = await start(too_many)
    with pytest.raises(InferenceFailed, match="out of memory") as failure:
        await running.submit(1, 2, 3)
    assert list(failure.value.errors) == []


@pytest.mark.parametrize("wrong", [lambda items: items[:-1], lambda items: [*items, 1], lambda items: []])
async def test_a_wrong_number_of_results_fails_the_request_instead_of_hanging_it(start, wrong):
    running = await start(wrong)
    with pytest.raises(InferenceFailed, match="results for 2 items"):
        await running.submit(1, 2)


async def test_a_caller_who_left_before_its_batch_failed_harms_nobody(start):
    running, unhandled = await start(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unhandled.append(context))
    gone = await running.occupied(POISON)
    gone.cancel()
    await asyncio.wait({gone})
    running.release()
    assert await running.submit(1) == [10]
    assert unhandled == []


async def test_a_caller_who_left_is_not_computed_again_when_its_batch_failed(start):
    running = await start()
    first = await running.occupied(0)
    poisoned, gone = running.submit(POISON), running.submit(1)
    await running.waiting(2)
    await running.finish_batch()
    gone.cancel()
    await asyncio.wait({gone})
    running.release()
    with pytest.raises(InferenceFailed):
        await poisoned
    assert await asyncio.gather(first, running.submit(2)) == [[0], [20]]
    assert running.forward.batches[1] == [POISON, 1]
    assert [1] not in running.forward.batches


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
