"""`python -m service` as a process on a real socket: starting, callers who leave, stopping, what cannot start."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from hintwise import Client
from hintwise.digests import content_digest, sha256_of
from tests.e2e.connection import ENDLESS, PATIENCE_S, until
from tests.e2e.forked import ROOT, Forked
from tests.e2e.service_process import ENVIRONMENT, Process

SMALL = {"observations": ["x"], "actions": ["push left", "push right"]}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One process for the tests that leave it as they found it, started as users start it."""
    process = Process(tmp_path_factory.mktemp("service") / "shared", start=subprocess.Popen)
    yield process
    try:
        process.stop()
    finally:
        process.kill()


def request_bytes(method, path, body, **headers):
    """Returns the head of an HTTP request for `body`, and the body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: service", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def hang_up(connection):
    """Closes a connection at once, as a process that dies does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


# Listening


def test_it_prints_one_line_with_its_address_and_answers_there(service):
    assert re.fullmatch(r"listening on http://127\.0\.0\.1:\d+\n", service.first_line)
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    response = httpx.post(f"{service.url}/act", json=SMALL)
    assert response.status_code == 200
    assert response.headers["x-policy-version"] == "1"
    assert response.headers["x-request-id"]
    assert "server" not in response.headers


def test_a_refused_body_still_gets_its_answer_over_the_socket(service):
    response = httpx.post(f"{service.url}/act", content=b"x" * (17 * 2**20))
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


# Callers who leave


@pytest.mark.parametrize(
    "sent",
    [b"what is this?\r\n\r\n", b"GET /livez HTTP/1.1\r\nbroken header\r\n\r\n", b"GET / HTTP/1.1\r\nX: \x01\r\n\r\n"],
    ids=["no HTTP", "a header without a colon", "a control character"],
)
def test_bytes_that_are_no_http_get_a_problem_and_the_connection_is_closed(service, sent):
    connection = service.connect()
    connection.sendall(sent)
    head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
    connection.close()
    assert head.startswith(b"HTTP/1.1 400 ")
    for header in (b"content-type: application/problem+json", b"x-request-id: ", b"x-policy-version: 1"):
        assert header in head.lower()
    assert json.loads(body)["title"] == "Malformed request"


def test_a_caller_who_hangs_up_while_queued_is_skipped(service):
    """A large request keeps the model busy; small ones queue behind it, and the first to do so leaves."""
    observations, batches = "hintwise_act_observations_total", 'hintwise_batch_tokens_count{kind="act"}'
    before = service.metric(observations), service.metric(batches)
    phrases = [f"{chr(97 + n % 26)}{chr(97 + n // 26)}" + "x" * 800 for n in range(128)]
    busy = threading.Thread(
        target=httpx.post,
        args=(f"{service.url}/act",),
        kwargs={"json": {"observations": ["x"], "actions": phrases}, "timeout": PATIENCE_S},
    )
    busy.start()
    body, answered = json.dumps(SMALL).encode(), 0

    def waits():
        return 0 < service.metric('hintwise_queue_tokens{kind="act"}') < 1_000

    queued = False
    while not queued:
        small = service.connect()
        small.sendall(request_bytes("POST", "/act", body) + body)
        while not queued and not select.select([small], [], [], 0)[0]:
            # One that waits for a moment, before the large one has come, is answered in that of the second look.
            queued = waits() and not select.select([small], [], [], 0.3)[0] and waits()
        if not queued:  # it came before the large one and has its answer
            answered += 1
            small.close()
    hang_up(small)
    until(lambda: service.metric('hintwise_queue_tokens{kind="act"}') == 0, "the caller's request stays queued")
    assert service.metric(batches) == before[1] + answered, "the model was not busy for long enough"
    busy.join()
    assert service.metric(observations) == before[0] + answered + 1
    assert service.metric(batches) == before[1] + answered + 1


def test_a_sender_of_weights_who_hangs_up_leaves_no_trace(service):
    data = httpx.get(f"{service.url}/weights/1").content
    headers = {"if_match": '"1"', "content_digest": content_digest(sha256_of(data))}
    connection = service.connect()
    connection.sendall(request_bytes("PUT", "/weights", data, **headers) + data[: len(data) // 2])
    until(lambda: list(service.weights_dir.glob("*.part")), "the push is not received")
    hang_up(connection)
    until(lambda: not list(service.weights_dir.glob("*.part")), "a part is left")
    assert httpx.get(f"{service.url}/weights").json()["policy_version"] == 1
    assert "Traceback" not in service.log.read_text()


def test_a_caller_who_sends_half_a_body_and_leaves_harms_nobody(service):
    body = json.dumps(SMALL).encode()
    connection = service.connect()
    connection.sendall(request_bytes("POST", "/act", body) + body[:10])
    hang_up(connection)
    assert httpx.post(f"{service.url}/act", json=SMALL).status_code == 200


def test_a_reader_who_hangs_up_within_a_stream_stops_the_writing(service):
    """The request is some hundred batches; only those before the reader left are written."""
    kind, left = '{kind="guidance"}', 'hintwise_requests_total{endpoint="/guidance",status="499"}'
    before = service.metric(left)
    body = json.dumps(ENDLESS).encode()
    connection = service.connect()
    connection.sendall(request_bytes("POST", "/guidance", body) + body)
    answer = b""
    while b"event: token" not in answer:
        answer += connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert service.metric(f"hintwise_queue_tokens{kind}") > 0
    hang_up(connection)
    until(lambda: service.metric(left) == before + 1, "the reader who left is not noticed")
    assert service.metric(f"hintwise_queue_tokens{kind}") == 0
    num_batches = service.metric(f"hintwise_batch_tokens_count{kind}")
    alone = {"observations": ["x"], "max_new_tokens": 2}
    assert httpx.post(f"{service.url}/guidance", json=alone, timeout=PATIENCE_S).status_code == 200
    assert service.metric(f"hintwise_batch_tokens_count{kind}") <= num_batches + 2  # the one in hand, and this


def test_the_client_reads_a_stream_over_the_socket(service):
    with Client(service.url) as client:
        *tokens, answer = client.stream_guidance(["x", "y"], max_new_tokens=8, seed=3)
        [first, second] = [result.hints[0] for result in client.guidance(["x", "y"], max_new_tokens=8, seed=3).results]
    assert [hint.text for result in answer.results for hint in result.hints] == [first.text, second.text]
    for observation, hint in enumerate((first, second)):
        assert "".join(token.text for token in tokens if token.observation == observation) == hint.text


# Stopping


def test_sigterm_finishes_the_request_in_flight_and_exits_0(own_service):
    body = json.dumps(SMALL).encode()
    connection = own_service.connect()
    connection.sendall(request_bytes("POST", "/act", body, expect="100-continue"))
    assert connection.recv(1_000).startswith(b"HTTP/1.1 100 ")  # its handler waits for the body
    own_service.popen.send_signal(signal.SIGTERM)
    until(lambda: not can_connect(own_service), "it still listens")
    connection.sendall(body)
    answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    connection.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"policy_version":1' in answer
    own_service.stop()


def can_connect(service):
    try:
        service.connect().close()
    except OSError:
        return False
    return True


PARENT = """
import os, subprocess, sys, time
alive, when, *flags = sys.argv[1:]
printed = subprocess.PIPE if when == "listening" else subprocess.DEVNULL
child = subprocess.Popen([sys.executable, "-m", "service", *flags], stdout=printed, pass_fds=[int(alive)])
print(child.pid, flush=True)
if when == "listening":
    child.stdout.readline()
while not os.path.exists(flags[1]):  # its weights directory: it runs, but does not listen yet
    time.sleep(0.001)
os._exit(0)
"""


@pytest.mark.parametrize("when", ["listening", "starting"])
def test_exit_with_parent_ends_with_the_parent(tmp_path, when):
    alive, held = os.pipe()  # the service holds the writing end, so the pipe ends with it
    flags = ["--weights-dir", str(tmp_path / "weights"), "--exit-with-parent"]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(held), when, *flags],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[held],
        text=True,
    )
    os.close(held)
    try:
        child = int(parent.stdout.readline())
        assert parent.wait(PATIENCE_S) == 0
        ended = bool(select.select([alive], [], [], PATIENCE_S / 2)[0])
        if not ended:
            os.kill(child, signal.SIGKILL)
        assert ended, "the service outlived its parent"
    finally:
        parent.kill()  # it would wait for ever for a service that could not start
        parent.wait()
        parent.stdout.close()
        os.close(alive)


# Refusing to start


@pytest.fixture(scope="module")
def failed_starts(tmp_path_factory, service):
    """Processes that cannot start, side by side."""
    directory = tmp_path_factory.mktemp("failed")
    flags = {
        "an open address": ["--host", "0.0.0.0"],  # noqa: S104 (refused)
        "an unknown model": ["--model", "./nope"],
        "a taken port": ["--port", str(service.port)],
        "a directory in use": ["--weights-dir", str(service.weights_dir)],
    }
    running = {
        name: Forked(
            [sys.executable, "-m", "service", "--weights-dir", str(directory / name), *each],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name, each in flags.items()
    }
    return {name: (*process.communicate(timeout=120), process.returncode) for name, process in running.items()}


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("an open address", 2, ["0.0.0.0", "127.0.0.1"]),  # noqa: S104 (refused)
        ("an unknown model", 1, ["./nope", "embedded"]),
        ("a taken port", 1, ["in use", "--port"]),
        ("a directory in use", 1, ["another service", "--weights-dir"]),
    ],
)
def test_what_cannot_start_says_so_in_one_line(failed_starts, name, status, said):
    printed, complaint, returned = failed_starts[name]
    assert returned == status
    assert printed == ""
    [line] = complaint.splitlines()
    assert all(word in line for word in said)
