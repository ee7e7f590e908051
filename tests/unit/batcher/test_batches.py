"""What forms a batch, whose turn it is, and that each caller gets its own results."""

import asyncio
import threading

import pytest

from hintwise.errors import InferenceFailed
from tests.unit.batcher.running import FOREVER_S, POISON, Item


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
