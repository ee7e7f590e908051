"""A batch that fails: who is told of it, which item is named, and that nobody else is harmed."""

import asyncio

import pytest

from hintwise.errors import InferenceFailed
from tests.unit.batcher.running import FOREVER_S, POISON, Item


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
