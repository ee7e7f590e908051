"""One batch, from its forward pass to its callers; where it fails, the request to blame fails alone.

Everything here is a generator that yields wherever the forward does: between two steps of a
long one the inference thread serves whoever else is in line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Generic, Protocol, TypeAlias, TypeVar

from hintwise.errors import HintwiseError, InferenceFailed


class Sized(Protocol):
    """An item that knows what it adds to a batch."""

    @property
    def num_rows(self) -> int: ...

    @property
    def num_tokens(self) -> int:
        """Tokens in its longest row."""
        ...


T = TypeVar("T")
Item = TypeVar("Item", bound=Sized)
Result = TypeVar("Result")
Steps: TypeAlias = Generator[None, None, T]
"""Work that lets others pass whenever it yields, and returns what it made."""
Forward: TypeAlias = Callable[[Sequence[Item]], Sequence[Result] | Steps[Sequence[Result]]]
"""Maps n items to n results, in order: at once, or in steps."""


@dataclass(eq=False)
class Entry(Generic[Item, Result]):
    """Items of one request that travel in one batch."""

    items: Sequence[Item]
    places: Sequence[int]  # of each in the request
    num_rows: int
    num_tokens: int  # in the longest row
    future: asyncio.Future[Sequence[Result]] = field(default_factory=asyncio.Future)

    @property
    def padded_tokens(self) -> int:
        return self.num_rows * self.num_tokens


Batch: TypeAlias = Sequence[Entry[Item, Result]]


class ItemFailed(InferenceFailed):
    """The forward fails on one item, number `index` of its request."""

    def __init__(self, detail: str, index: int) -> None:
        super().__init__(detail)
        self.index = index


def run_batch(
    forward: Forward[Item, Result], batch: Batch[Item, Result], measure: Callable[[Batch[Item, Result], float], None]
) -> Steps[None]:
    """Runs one forward pass and hands each caller its results or the failure.

    Args:
        forward: What to run.
        batch: At least one part of a request.
        measure: Told the batch and its seconds on the thread, when it went well.
    """
    items = [item for entry in batch for item in entry.items]
    try:
        results, seconds = yield from _results(forward, items)
    except Exception as error:  # noqa: BLE001 (the queue outlives any failure of the model)
        yield from _isolate(forward, batch, error, measure)
        return
    measure(batch, seconds)
    on_event_loop(batch, lambda: _deliver(batch, results))


def on_event_loop(batch: Batch[Item, Result], deliver: Callable[[], None]) -> None:
    """Runs `deliver` where the callers of a batch wait; they may be gone, and their loop with them."""
    with suppress(RuntimeError):  # the loop is closed
        batch[0].future.get_loop().call_soon_threadsafe(deliver)


def fail(entries: Iterable[Entry[Item, Result]], error: Exception) -> None:
    """Raises `error` in every caller that still waits."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)


def in_order(entries: Batch[Item, Result], results: Iterable[Sequence[Result]]) -> list[Result]:
    """Returns the results of all parts of a request, in the order of its items."""
    placed = [
        pair for entry, part in zip(entries, results, strict=True) for pair in zip(entry.places, part, strict=True)
    ]
    placed.sort(key=itemgetter(0))
    return [result for _, result in placed]


def _results(forward: Forward[Item, Result], items: Sequence[Item]) -> Steps[tuple[Sequence[Result], float]]:
    """Returns the forward's results, and the seconds it was on the thread."""
    started, busy_s = time.perf_counter(), 0.0
    outcome = forward(items)
    while isinstance(outcome, Generator):
        try:
            next(outcome)
        except StopIteration as finished:
            outcome = finished.value
            break
        busy_s += time.perf_counter() - started
        yield
        started = time.perf_counter()
    if len(outcome) != len(items):
        raise RuntimeError(f"{len(outcome)} results for {len(items)} items")
    return outcome, busy_s + time.perf_counter() - started


def _isolate(
    forward: Forward[Item, Result],
    batch: Batch[Item, Result],
    error: Exception,
    measure: Callable[[Batch[Item, Result], float], None],
) -> Steps[None]:
    """Halves a failed batch until what fails stands alone: every other request is answered."""
    if len(batch) > 1:
        for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
            if wanted := [entry for entry in half if not entry.future.done()]:
                yield from run_batch(forward, wanted, measure)
        return
    detail = error.detail if isinstance(error, HintwiseError) else f"the forward failed: {error}"
    index = yield from _failing_item(forward, batch[0].items)
    told = InferenceFailed(detail) if index is None else ItemFailed(detail, batch[0].places[index])
    on_event_loop(batch, lambda: fail(batch, told))


def _failing_item(forward: Forward[Item, Result], items: Sequence[Item]) -> Steps[int | None]:
    """Returns the index of an item the forward fails on alone, found by halving; None where each goes well."""
    start, stop = 0, len(items)
    while stop - start > 1:
        middle = (start + stop) // 2
        first_half_fails = yield from _fails(forward, items[start:middle])
        start, stop = (start, middle) if first_half_fails else (middle, stop)
    fails = yield from _fails(forward, items[start:stop])
    return start if fails else None


def _fails(forward: Forward[Item, Result], items: Sequence[Item]) -> Steps[bool]:
    try:
        yield from _results(forward, items)
    except Exception:  # noqa: BLE001 (whatever it is, it has been reported once)
        return True
    return False


def _deliver(batch: Batch[Item, Result], results: Sequence[Result]) -> None:
    """Hands each caller that still waits its share of the results."""
    start = 0
    for entry in batch:
        if not entry.future.done():
            entry.future.set_result(results[start : start + len(entry.items)])
        start += len(entry.items)
