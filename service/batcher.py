"""Groups concurrent requests into one forward pass.

    handler ──submit──▶ queue ──take──▶ inference thread ──results──▶ handler

A batch forms while the previous one runs: an idle service adds no delay, a busy one fills its
batches, and there is no timer to tune (as in text-embeddings-inference, core/src/infer.rs).
A request larger than one batch is cut into several, so that others pass between them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from hintwise.errors import DeadlineExceeded, HintwiseError, InferenceFailed, Overloaded, Unavailable
from service.inference_thread import InferenceThread

MAX_RETRY_AFTER_S = 30.0


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
    future: asyncio.Future[Sequence[Result]] = field(default_factory=asyncio.Future)

    def __post_init__(self) -> None:
        self.num_rows = sum(item.num_rows for item in self.items)
        self.num_tokens = max(item.num_tokens for item in self.items)

    @property
    def padded_tokens(self) -> int:
        return self.num_rows * self.num_tokens


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
        self._queue: deque[Entry[Item, Result]] = deque()
        self._arrived = asyncio.Event()
        self._tokens_per_s = 0.0

    @property
    def queued_items(self) -> int:
        """Items that wait for a batch."""
        return sum(len(entry.items) for entry in self._queue)

    @property
    def queued_tokens(self) -> int:
        """Padded tokens that wait for a batch."""
        return sum(entry.padded_tokens for entry in self._queue)

    async def submit(self, items: Sequence[Item], *, deadline: float) -> list[Result]:
        """Returns one result per item once batches have carried them all.

        When the caller is cancelled, what still waits is taken out of the queue.

        Args:
            items: At least one.
            deadline: Event-loop time by which the results must be there.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: The results were not there in time.
            InferenceFailed: The forward pass raised.
            Unavailable: The batcher stopped first.
        """
        if self._queue and self.queued_items + len(items) > self._max_queue_items:
            raise Overloaded(
                f"{self.queued_items} items are waiting and the limit is {self._max_queue_items}; retry later",
                retry_after_s=self._seconds_to_drain(),
            )
        entries = [Entry[Item, Result](chunk) for chunk in self._split(items)]
        self._queue.extend(entries)
        self._arrived.set()
        try:
            async with asyncio.timeout_at(deadline):
                results = await asyncio.gather(*(entry.future for entry in entries))
        except TimeoutError as error:
            raise DeadlineExceeded(
                "the request's time ran out before its batch was done; raise X-Request-Timeout-Ms or send less"
            ) from error
        finally:
            self._forget(entries)
        return [result for chunk in results for result in chunk]

    async def run(self) -> None:
        """Serves batches until cancelled, then fails whatever still waits."""
        try:
            while True:
                await self._arrived.wait()
                if batch := self._take():
                    await self._serve(batch)
        finally:
            _fail(self._queue, Unavailable("the service is stopping"))

    def _split(self, items: Sequence[Item]) -> Iterable[Sequence[Item]]:
        """Yields runs of items that fit one batch each."""
        start = rows = longest = 0
        for i, item in enumerate(items):
            rows, longest = rows + item.num_rows, max(longest, item.num_tokens)
            if i > start and rows * longest > self._max_batch_tokens:
                yield items[start:i]
                start, rows, longest = i, item.num_rows, item.num_tokens
        yield items[start:]

    def _take(self) -> list[Entry[Item, Result]]:
        """Pops the longest prefix of the queue that fits the token limit."""
        batch: list[Entry[Item, Result]] = []
        rows = longest = 0
        while self._queue:
            entry = self._queue[0]
            rows, longest = rows + entry.num_rows, max(longest, entry.num_tokens)
            if batch and rows * longest > self._max_batch_tokens:
                return batch
            batch.append(self._queue.popleft())
        self._arrived.clear()
        return batch

    async def _serve(self, batch: Sequence[Entry[Item, Result]]) -> None:
        """Runs one forward pass and hands each caller its results or the failure."""
        started = asyncio.get_running_loop().time()
        items = [item for entry in batch for item in entry.items]
        try:
            results = await self._thread.run(lambda: self._forward(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except asyncio.CancelledError:
            _fail(batch, Unavailable("the service is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 (the queue outlives any failure of the model)
            await self._serve_each(batch, error)
            return
        self._measure(batch, asyncio.get_running_loop().time() - started)
        start = 0
        for entry in batch:
            if not entry.future.done():
                entry.future.set_result(results[start : start + len(entry.items)])
            start += len(entry.items)

    async def _serve_each(self, batch: Sequence[Entry[Item, Result]], error: Exception) -> None:
        """Gives every request of a failed batch a forward pass of its own, so that one fails alone."""
        if len(batch) == 1:
            _fail(batch, error if isinstance(error, HintwiseError) else InferenceFailed(f"the forward failed: {error}"))
            return
        for entry in batch:
            if not entry.future.done():
                await self._serve([entry])

    def _measure(self, batch: Sequence[Entry[Item, Result]], seconds: float) -> None:
        rows = sum(entry.num_rows for entry in batch)
        tokens = rows * max(entry.num_tokens for entry in batch)
        recent = tokens / max(seconds, 1e-6)
        self._tokens_per_s += 0.1 * (recent - self._tokens_per_s) if self._tokens_per_s else recent
        self._on_batch(rows, tokens, seconds)

    def _seconds_to_drain(self) -> float:
        """Returns how long the queue needs at the speed measured so far, in whole seconds from 1."""
        seconds = self.queued_tokens / self._tokens_per_s if self._tokens_per_s else 1.0
        return float(math.ceil(min(max(seconds, 1.0), MAX_RETRY_AFTER_S)))

    def _forget(self, entries: Iterable[Entry[Item, Result]]) -> None:
        """Takes entries whose caller no longer waits out of the queue."""
        for entry in entries:
            if not entry.future.done() or entry.future.cancelled():
                entry.future.cancel()
                if entry in self._queue:
                    self._queue.remove(entry)


def _fail(entries: Iterable[Entry[Item, Result]], error: Exception) -> None:
    """Raises `error` in every caller that still waits."""
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
