"""The thread that flushes: what is asked of it happens, once for many, and it outlives failures."""

import threading

from service.weight_flush import Flusher

PATIENCE_S = 30


class Disk:
    """Counts flushes; holds each while `go_on` is clear."""

    def __init__(self):
        self.num_flushes, self.failures, self.fails = 0, 0, False
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        self.go_on.set()
        self.flusher = Flusher(self.flush, on_failure=self.count)

    def flush(self):
        self.num_flushes += 1
        self.begun.release()
        assert self.go_on.wait(PATIENCE_S)
        if self.fails:
            raise OSError(5, "Input/output error")

    def count(self):
        self.failures += 1


def test_what_is_requested_is_done_before_the_end():
    disk = Disk()
    disk.flusher.request()
    assert disk.flusher.stop(PATIENCE_S)
    assert disk.num_flushes == 1


def test_requests_during_a_flush_are_one_more_flush():
    disk = Disk()
    disk.go_on.clear()
    disk.flusher.request()
    assert disk.begun.acquire(timeout=PATIENCE_S)
    for _ in range(5):
        disk.flusher.request()
    disk.go_on.set()
    assert disk.flusher.stop(PATIENCE_S)
    assert disk.num_flushes == 2


def test_a_failure_is_counted_and_the_next_request_is_served():
    disk = Disk()
    disk.fails = True
    disk.flusher.request()
    assert disk.begun.acquire(timeout=PATIENCE_S)
    disk.flusher.request()
    assert disk.begun.acquire(timeout=PATIENCE_S)
    assert disk.flusher.stop(PATIENCE_S)
    assert disk.failures == 2


def test_the_end_waits_no_longer_than_its_limit():
    disk = Disk()
    disk.go_on.clear()
    disk.flusher.request()
    assert not disk.flusher.stop(0.01)
    disk.go_on.set()
    assert disk.flusher.stop(PATIENCE_S)


def test_nothing_requested_ends_at_once():
    disk = Disk()
    assert disk.flusher.stop(PATIENCE_S)
    assert disk.num_flushes == 0
