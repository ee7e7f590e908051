"""A service that is told to stop while it is asked: what can be finished is, the rest is told so, exit status 0."""

import os
import signal

import pytest

from tests.e2e.connection import ENDLESS, PATIENCE_S, Connection, events_in, metric, until
from tests.e2e.processes import kill, start_service


@pytest.fixture
def stopping(tmp_path):
    """Starts services of one's own; none outlives the test."""
    started = []

    def start(*flags):
        process, url = start_service(tmp_path / "weights", *flags)
        started.append(process)
        return process, url

    yield start
    for process in started:
        kill(process)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_is_finished_before_the_service_stops(stopping, signal_number):
    process, url = stopping()
    with Connection(url) as connection:
        body = {"observations": ["x"] * 8, "max_new_tokens": 128, "temperature": 100, "stream": True}
        connection.send_json("/guidance", body)
        connection.read_head()
        chunks = connection.chunks()
        first = next(chunks)
        os.kill(process.pid, signal_number)
        events = events_in(first + b"".join(chunks))
        assert connection.reader.read() == b""
    assert [name for name, _ in events if name != "token"] == ["done"]
    assert process.wait(PATIENCE_S) == 0


def test_a_stream_that_cannot_be_finished_ends_with_an_error_event(stopping):
    process, url = stopping("--shutdown-timeout-s", "1")
    with Connection(url) as connection:
        connection.send_json("/guidance", ENDLESS)
        connection.read_head()
        chunks = connection.chunks()
        first = next(chunks)
        process.send_signal(signal.SIGTERM)
        *tokens, (name, problem) = events_in(first + b"".join(chunks))
    assert {each for each, _ in tokens} == {"token"}
    assert (name, problem["status"], problem["title"]) == ("error", 503, "Unavailable")
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("body", [{**ENDLESS, "stream": False}, None], ids=["it is written", "its body never ends"])
def test_what_cannot_be_finished_is_told_so(stopping, body):
    process, url = stopping("--shutdown-timeout-s", "1")
    with Connection(url) as connection:
        if body:
            connection.send_json("/guidance", body)
            until(lambda: metric(url, 'hintwise_queue_tokens{kind="guidance"}') > 0, "it does not wait")
        else:
            connection.send_head("POST", "/act", content_length=100, expect="100-continue")
            assert connection.read_head()[0] == 100  # its handler waits for the body
        process.send_signal(signal.SIGTERM)
        status, problem, headers = connection.read_answer()
    assert (status, problem["title"], headers["content-type"]) == (503, "Unavailable", "application/problem+json")
    assert headers["x-request-id"]
    assert process.wait(PATIENCE_S) == 0
