"""Groups concurrent requests into one forward pass.

    event loop          handler ──submit──▶ queue            ┌──results──▶ handler
                                              │              │
    inference thread                        take ──▶ forward ┘   then the next job in line

A batch is taken at the moment the model is free, by the thread that runs it: an idle service
adds no delay, a busy one fills its batches, and there is no timer to tune (as in
text-embeddings-inference, core/src/infer.rs). After each batch the thread serves whatever else
is in line first: another kind of work, a weight swap. A forward that runs in steps, as the
writing of hints does, gives way after every step. A request larger than one batch is sorted
by length and cut into several, so that others pass between them.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple

from hintwise.errors import DeadlineExceeded, InferenceFailed, Offence, Overloaded, Unavailable
from service.batch_run import (
    Batch,
    Entry,
    Forward,
    Item,
    ItemFailed,
    Result,
    Steps,
    fail,
    in_order,
    on_event_loop,
    run_batch,
)
from service.inference_thread import STOPPING, InferenceThread

MAX_RETRY_AFTER_S = 30.0
TOO_LATE = "the request's time ran out before its batch was done; raise X-Request-Timeout-Ms or send less"


class Underway(NamedTuple, Generic[Item, Result]):
    """A batch whose forward rests between two steps."""

    batch: Batch[Item, Result]
    steps: Steps[None]


class Batcher(Generic[Item, Result]):
    """Runs `forward` on batches of at most `max_batch_tokens` padded tokens.

    Args:
        forward: Maps n items to n results, in order. Called on the inference thread. One that is a
            generator lets others pass whenever it yields; its own queue waits until it has ended.
        thread: The thread that owns the models.
        max_batch_tokens: Limit on rows x longest row, padding included. An item above the
            limit runs alone; bound its size before `submit`.
        max_queue_items: Items that may wait. Only an empty queue takes a request beyond it.
        on_batch: Told the rows, padded tokens and seconds of every batch.
    """

    def __init__(
        self,
        forward: Forward[Item, Result],
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
        self._num_waiting = 0  # items in the queue
        self._lock = threading.Lock()  # guards the queue, what is under way and the flags; held for microseconds
        self._underway: Underway[Item, Result] | None = None
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
        loop = asyncio.get_running_loop()
        if deadline <= loop.time():
            raise DeadlineExceeded(TOO_LATE)
        entries = self._parts(items)
        waiting = deque(entries)
        self._enqueue(waiting, len(items))
        too_late = loop.call_at(deadline, lambda: fail(entries, DeadlineExceeded(TOO_LATE)))
        try:
            if len(entries) == 1:  # nearly always; gathering futures would cost more than all else here
                return list(await entries[0].future)
            return in_order(entries, await asyncio.gather(*(entry.future for entry in entries)))
        except ItemFailed as error:
            blamed = Offence(place_of(error.index), "the model fails on this item")
            raise InferenceFailed(error.detail, errors=[blamed]) from error
        finally:
            too_late.cancel()
            self._forget(waiting, entries)

    def stop(self) -> None:
        """Fails whatever still waits, and everything submitted from now on. Call it on the event loop."""
        with self._lock:
            self._stopped = True
            waiting = [*self._waiting(), *(self._underway.batch if self._underway else ())]
            for request in self._queue:
                request.clear()
            self._queue.clear()
            self._num_waiting = 0
            self._underway = None
        fail(waiting, Unavailable(STOPPING))

    def _enqueue(self, entries: deque[Entry[Item, Result]], num_items: int) -> None:
        with self._lock:
            if self._stopped:
                raise Unavailable(STOPPING)
            waiting = self._num_waiting
            if waiting and waiting + num_items > self._max_queue_items:
                raise Overloaded(
                    f"{waiting} items are waiting and the limit is {self._max_queue_items}; retry later",
                    retry_after_s=self._seconds_to_drain(),
                )
            self._queue.append(entries)
            self._num_waiting += num_items
            self._get_in_line()

    def _get_in_line(self) -> None:
        """Asks the inference thread for one turn, unless one is on its way. Needs the lock."""
        if (self._queue or self._underway) and not self._in_line:
            self._in_line = True
            self._thread.start(self._take_turn)

    def _parts(self, items: Sequence[Item]) -> list[Entry[Item, Result]]:
        """Returns the items in runs that fit one batch each.

        Where one run is not enough they are sorted by length first: a long item among short ones pads them all.
        """
        rows, tokens = [item.num_rows for item in items], [item.num_tokens for item in items]
        if sum(rows) * max(tokens) <= self._max_batch_tokens:
            return [Entry(items, range(len(items)), sum(rows), max(tokens))]
        order = sorted(range(len(items)), key=tokens.__getitem__)
        runs: list[list[int]] = [[]]
        num_rows = 0
        for i in order:
            num_rows += rows[i]
            if runs[-1] and num_rows * tokens[i] > self._max_batch_tokens:
                runs.append([])
                num_rows = rows[i]
            runs[-1].append(i)
        return [Entry([items[i] for i in run], run, sum(rows[i] for i in run), tokens[run[-1]]) for run in runs]

    def _take_turn(self) -> None:
        """Runs one batch, or one step of it, on the inference thread, then gets in line again."""
        with self._lock:
            underway, self._underway = self._underway or self._begin(), None
        rests = False
        try:
            if underway:
                next(underway.steps)
                rests = True
        except StopIteration:
            pass
        finally:  # whatever happened, the queue goes on
            with self._lock:
                self._in_line = False
                if rests and underway and not self._drop_if_stopped(underway):
                    self._underway = underway
                self._get_in_line()

    def _begin(self) -> Underway[Item, Result] | None:
        """Takes the next batch; nothing of it has run yet. Needs the lock."""
        batch = self._take()
        return Underway(batch, run_batch(self._forward, batch, self._measure)) if batch else None

    def _drop_if_stopped(self, underway: Underway[Item, Result]) -> bool:
        """Returns whether the batcher has stopped; a batch that is not done then never will be. Needs the lock."""
        if self._stopped:
            on_event_loop(underway.batch, lambda: fail(underway.batch, Unavailable(STOPPING)))
        return self._stopped

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
            self._num_waiting -= len(entry.items)
            if request:
                self._queue.append(request)
        return batch

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
                self._num_waiting -= sum(len(entry.items) for entry in waiting)
                waiting.clear()
        for entry in entries:
            entry.future.cancel()
