"""Groups concurrent requests into one forward pass.

    event loop          handler ──submit──▶ queue            ┌──results──▶ handler
                                              │              │
    inference thread                        take ──▶ forward ┘   then the next job in line

A batch is taken at the moment the model is free, by the thread that runs it: an idle service
adds no delay, a busy one fills its batches, and there is no timer to tune (as in
text-embeddings-inference, core/src/infer.rs). After each batch the thread serves whatever else
is in line first: another kind of work, a weight swap. A request larger than one batch is cut
into several, so that others pass between them.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from hintwise.errors import DeadlineExceeded, HintwiseError, InferenceFailed, Offence, Overloaded, Unavailable
from service.inference_thread import InferenceThread

MAX_RETRY_AFTER_S = 30.0
TOO_LATE = "the request's time ran out before its batch was done; raise X-Request-Timeout-Ms or send less"


class Sized(Protocol):
    """An item that knows what it adds to a batch."""

    @property
    def num_rows(self) -> int: ...

    @property
    def num_tokens(self) -> int:
        """Tokens in its longest row."""
        ...


Item = TypeVar("Item", bound=Sized)
Result = TypeVar("Result")


@dataclass(eq=False)
class Entry(Generic[Item, Result]):
    """Items of one request that travel in one batch."""

    items: Sequence[Item]
    start: int  # place of the first of them in the request
    future: asyncio.Future[Sequence[Result]] = field(default_factory=asyncio.Future)

    def __post_init__(self) -> None:
        self.num_rows = sum(item.num_rows for item in self.items)
        self.num_tokens = max(item.num_tokens for item in self.items)

    @property
    def padded_tokens(self) -> int:
        return self.num_rows * self.num_tokens


class ItemFailed(InferenceFailed):
    """The forward fails on one item, number `index` of its request."""

    def __init__(self, detail: str, index: int) -> None:
        super().__init__(detail)
        self.index = index


class Batcher(Generic[Item, Result]):
    """Runs `forward` on batches of at most `max_batch_tokens` padded tokens.

    Args:
        forward: Maps n items to n results, in order. Called on the inference thread.
        thread: The thread that owns the models.
        max_batch_tokens: Limit on rows x longest row, padding included. An item above the
            limit runs alone; bound its size before `submit`.
        max_queue_items: Items that may wait. Only an empty queue takes a request beyond it.
        on_batch: Told the rows, padded tokens and seconds of every batch.
    """

    def __init__(
        self,
        forward: Callable[[Sequence[Item]], Sequence[Result]],
        thread: InferenceThread,
        *,
        max_batch_tokens: int,
        max_queue_items: int,
        on_batch: Callable[[int, int, float], None] = lambda rows, tokens, seconds: None,
    ) -> None:
        self._forward = forward
        self._thread = thread
        self._max_batch_tokens = max_batch_tokens
        self._max_queue_items = max_queue_items
        self._on_batch = on_batch
        self._queue: deque[deque[Entry[Item, Result]]] = deque()  # requests, each with its parts that wait
        self._lock = threading.Lock()  # guards the queue and the two flags; held for microseconds
        self._in_line = False  # a turn of ours waits on, or runs on, the inference thread
        self._stopped = False
        self._tokens_per_s = 0.0

    @property
    def queued_tokens(self) -> int:
        """Padded tokens that wait for a batch."""
        with self._lock:
            return self._waiting_tokens()

    async def submit(
        self, items: Sequence[Item], *, deadline: float, place_of: Callable[[int], str] = "item {}".format
    ) -> list[Result]:
        """Returns one result per item once batches have carried them all.

        When the caller is cancelled, what still waits is taken out of the queue.

        Args:
            items: At least one.
            deadline: Event-loop time by which the results must be there.
            place_of: Names item i as the caller knows it, for the error when it fails.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The results were not there in time.
            InferenceFailed: The forward pass raised; the offence names the item where one is to blame.
            Unavailable: The batcher stopped first.
        """
        if deadline <= asyncio.get_running_loop().time():
            raise DeadlineExceeded(TOO_LATE)
        entries = [Entry[Item, Result](items[start:stop], start) for start, stop in self._split(items)]
        waiting = deque(entries)
        self._enqueue(waiting, len(items))
        try:
            async with asyncio.timeout_at(deadline):
                results = await asyncio.gather(*(entry.future for entry in entries))
        except TimeoutError as error:
            raise DeadlineExceeded(TOO_LATE) from error
        except ItemFailed as error:
            blamed = Offence(place_of(error.index), "the model fails on this item")
            raise InferenceFailed(error.detail, errors=[blamed]) from error
        finally:
            self._forget(waiting, entries)
        return [result for chunk in results for result in chunk]

    def stop(self) -> None:
        """Fails whatever still waits, and everything submitted from now on. Call it on the event loop."""
        with self._lock:
            self._stopped = True
            waiting = self._waiting()
            for request in self._queue:
                request.clear()
            self._queue.clear()
        _fail(waiting, Unavailable("the service is stopping"))

    def _enqueue(self, entries: deque[Entry[Item, Result]], num_items: int) -> None:
        with self._lock:
            if self._stopped:
                raise Unavailable("the service is stopping")
            waiting = sum(len(entry.items) for entry in self._waiting())
            if waiting and waiting + num_items > self._max_queue_items:
                raise Overloaded(
                    f"{waiting} items are waiting and the limit is {self._max_queue_items}; retry later",
                    retry_after_s=self._seconds_to_drain(),
                )
            self._queue.append(entries)
            self._get_in_line()

    def _get_in_line(self) -> None:
        """Asks the inference thread for one turn, unless one is on its way. Needs the lock."""
        if self._queue and not self._in_line:
            self._in_line = True
            self._thread.start(self._take_turn)

    def _split(self, items: Sequence[Item]) -> Iterable[tuple[int, int]]:
        """Yields where runs of items that fit one batch each start and stop."""
        start = rows = longest = 0
        for i, item in enumerate(items):
            rows, longest = rows + item.num_rows, max(longest, item.num_tokens)
            if i > start and rows * longest > self._max_batch_tokens:
                yield start, i
                start, rows, longest = i, item.num_rows, item.num_tokens
        yield start, len(items)

    def _take_turn(self) -> None:
        """Runs one batch on the inference thread, then gets in line again."""
        with self._lock:
            batch = self._take()
        try:
            if batch:
                self._run_batch(batch)
        finally:  # whatever happened, the queue goes on
            with self._lock:
                self._in_line = False
                self._get_in_line()

    def _take(self) -> list[Entry[Item, Result]]:
        """Pops as many parts of requests as fit the token limit, one of each request in turn. Needs the lock."""
        batch: list[Entry[Item, Result]] = []
        rows = longest = 0
        while self._queue:
            entry = self._queue[0][0]
            rows, longest = rows + entry.num_rows, max(longest, entry.num_tokens)
            if batch and rows * longest > self._max_batch_tokens:
                break
            request = self._queue.popleft()
            batch.append(request.popleft())
            if request:
                self._queue.append(request)
        return batch

    def _run_batch(self, batch: Sequence[Entry[Item, Result]]) -> None:
        """Runs one forward pass and hands each caller its results or the failure."""
        started = time.perf_counter()
        items = [item for entry in batch for item in entry.items]
        try:
            results = self._forward(items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except Exception as error:  # noqa: BLE001 (the queue outlives any failure of the model)
            self._isolate(batch, error)
            return
        self._measure(batch, time.perf_counter() - started)
        _on_event_loop(batch, lambda: _deliver(batch, results))

    def _isolate(self, batch: Sequence[Entry[Item, Result]], error: Exception) -> None:
        """Halves a failed batch until what fails stands alone: every other request is answered."""
        if len(batch) > 1:
            for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
                if wanted := [entry for entry in half if not entry.future.done()]:
                    self._run_batch(wanted)
            return
        detail = error.detail if isinstance(error, HintwiseError) else f"the forward failed: {error}"
        index = self._failing_item(batch[0].items)
        told = InferenceFailed(detail) if index is None else ItemFailed(detail, batch[0].start + index)
        _on_event_loop(batch, lambda: _fail(batch, told))

    def _failing_item(self, items: Sequence[Item]) -> int | None:
        """Returns the index of an item the forward fails on alone, found by halving; None where each goes well."""
        start, stop = 0, len(items)
        while stop - start > 1:
            middle = (start + stop) // 2
            start, stop = (start, middle) if self._fails(items[start:middle]) else (middle, stop)
        return start if self._fails(items[start:stop]) else None

    def _fails(self, items: Sequence[Item]) -> bool:
        try:
            return len(self._forward(items)) != len(items)
        except Exception:  # noqa: BLE001 (whatever it is, it has been reported once)
            return True

    def _measure(self, batch: Sequence[Entry[Item, Result]], seconds: float) -> None:
        rows = sum(entry.num_rows for entry in batch)
        tokens = rows * max(entry.num_tokens for entry in batch)
        recent = tokens / max(seconds, 1e-6)
        self._tokens_per_s += 0.1 * (recent - self._tokens_per_s) if self._tokens_per_s else recent
        self._on_batch(rows, tokens, seconds)

    def _seconds_to_drain(self) -> float:
        """Returns how long the queue needs at the speed measured so far, in whole seconds from 1. Needs the lock."""
        seconds = self._waiting_tokens() / self._tokens_per_s if self._tokens_per_s else 1.0
        return float(math.ceil(min(max(seconds, 1.0), MAX_RETRY_AFTER_S)))

    def _waiting_tokens(self) -> int:
        return sum(entry.padded_tokens for entry in self._waiting())

    def _waiting(self) -> list[Entry[Item, Result]]:
        return [entry for request in self._queue for entry in request]

    def _forget(self, waiting: deque[Entry[Item, Result]], entries: Iterable[Entry[Item, Result]]) -> None:
        """Takes what still waits of a request out of the queue: it is answered, or nobody wants the answer."""
        with self._lock:
            if waiting:
                self._queue.remove(waiting)
                waiting.clear()
        for entry in entries:
            entry.future.cancel()


def _on_event_loop(batch: Sequence[Entry[Item, Result]], deliver: Callable[[], None]) -> None:
    """Runs `deliver` where the callers of a batch wait; they may be gone, and their loop with them."""
    with suppress(RuntimeError):  # the loop is closed
        batch[0].future.get_loop().call_soon_threadsafe(deliver)


def _deliver(batch: Iterable[Entry[Item, Result]], results: Sequence[Result]) -> None:
    """Hands each caller that still waits its share of the results."""
    start = 0
    for entry in batch:
        if not entry.future.done():
            entry.future.set_result(results[start : start + len(entry.items)])
        start += len(entry.items)


def _fail(entries: Iterable[Entry[Item, Result]], error: Exception) -> None:
    """Raises `error` in every caller that still waits."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
