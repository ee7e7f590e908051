"""`python -m service` as a process on a real socket: starting, stopping, callers who leave, swaps under load."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from hintwise import Client
from hintwise.action_batch import collate
from hintwise.digests import content_digest, sha256_of
from hintwise.policy import Policy
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder
from service.__main__ import main
from tests.e2e.connection import ENDLESS
from tests.e2e.forked import ROOT, Forked

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("HINTWISE_")}
ACTIONS = ["push left", "push right"]
SMALL = {"observations": ["x"], "actions": ACTIONS}
NUM_SWAPS, NUM_CLIENTS = 200, 8
PATIENCE_S = 60
"""After which a test gives up waiting for what it waits for."""


class Process:
    """A service of one's own; `stop` must find it healthy to the end."""

    def __init__(self, directory, *flags, start=Forked):
        directory.mkdir(exist_ok=True)
        self.weights_dir = directory / "weights"
        self.log = directory / "stderr"
        with self.log.open("wb") as log:
            self.popen = start(
                [sys.executable, "-m", "service", "--port", "0", "--weights-dir", str(self.weights_dir), *flags],
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.first_line = self.popen.stdout.readline()
        assert self.first_line.startswith("listening on "), self.log.read_text()
        self.url = self.first_line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def metric(self, series):
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{series} ")), 0.0)

    def stop(self, signal_number=signal.SIGTERM):
        """Ends the process in order, and checks what it left on stdout and stderr."""
        self.popen.send_signal(signal_number)
        assert self.popen.wait(PATIENCE_S) == 0
        assert self.popen.stdout.read() == ""
        assert "Traceback" not in self.log.read_text(), self.log.read_text()

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self.popen.stdout.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """One process for the tests that leave it as they found it, started as users start it."""
    process = Process(tmp_path_factory.mktemp("service") / "shared", start=subprocess.Popen)
    yield process
    try:
        process.stop()
    finally:
        process.kill()


@pytest.fixture
def own_service(tmp_path):
    process = Process(tmp_path)
    yield process
    process.kill()


def until(condition, message):
    """Returns once `condition` holds; a process without an event for it can only be asked."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, message
        time.sleep(0.005)


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


# Logging

FAILURE = """
import logging, sys
import structlog
from service import logs
logs.configure(log_format=sys.argv[1], log_level="info")
def handle(observation):
    raise RuntimeError("unforeseen")
try:
    handle("SECRET " + "observation")
except RuntimeError as error:
    structlog.get_logger("service").error("ours", exc_info=error)
    logging.getLogger("uvicorn.error").error("uvicorn's", exc_info=error)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_logged_trace_holds_no_observation(log_format):
    ended = subprocess.run([sys.executable, "-c", FAILURE, log_format], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr.count("RuntimeError") == 2
    assert "SECRET observation" not in ended.stderr
    assert len(ended.stderr.splitlines()) < 30


# Refusing to start


def outcome(capsys, monkeypatch, *flags):
    """Returns exit status, stdout and stderr of `main`, for what it decides before it loads or binds anything."""
    monkeypatch.setattr(sys, "argv", ["service", *flags])
    for name in [name for name in os.environ if name.startswith("HINTWISE_")]:
        monkeypatch.delenv(name)
    try:
        status = main()
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])  # noqa: S104 (refused)
def test_an_open_address_is_refused_with_what_to_do(capsys, monkeypatch, host):
    status, printed, complaint = outcome(capsys, monkeypatch, "--host", host)
    assert (status, printed) == (2, "")
    assert complaint.count("\n") == 1
    assert "127.0.0.1" in complaint
    assert host in complaint


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--no-such-flag"], "--no-such-flag"),
        (["--port", "70000"], "--port"),
        (["--port", "http"], "--port"),
        (["--max-batch-tokens", "0"], "--max-batch-tokens"),
        (["--max-queue-observations", "100"], "--max-queue-observations"),
        (["--readout", "guess"], "--readout"),
        (["--readout", "head", "--head-actions", "a,b", "--alpha", "1"], "alpha"),
        (["--log-level", "loud"], "--log-level"),
    ],
)
def test_a_wrong_flag_is_named(capsys, monkeypatch, flags, named):
    status, printed, complaint = outcome(capsys, monkeypatch, *flags)
    assert (status, printed) == (2, "")
    assert named in complaint.splitlines()[-1]
    assert "Traceback" not in complaint


@pytest.mark.parametrize("source", ["openai:http://127.0.0.1:1", "scripted", "file:hints.json"])
def test_a_guidance_source_of_a_later_version_is_refused_with_the_choices(capsys, monkeypatch, source):
    status, printed, complaint = outcome(capsys, monkeypatch, "--guidance", source)
    assert (status, printed) == (2, "")
    assert complaint.count("\n") == 1
    for part in ("--guidance", source, "'embedded'", "a directory", "a hub id"):
        assert part in complaint


def test_a_wrong_variable_is_named(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["service"])
    monkeypatch.setenv("HINTWISE_PORT", "70000")
    assert main() == 2
    assert "port" in capsys.readouterr().err


def test_help_names_every_setting_with_its_unit(capsys, monkeypatch):
    status, printed, _ = outcome(capsys, monkeypatch, "--help")
    assert status == 0
    text = " ".join(printed.split())
    for flag in ("host", "port", "model", "readout", "guidance", "scorer-model", "weights-dir", "max-batch-tokens"):
        assert f"--{flag}" in text
    for unit in ("milliseconds", "seconds", "bytes", "tokens"):
        assert unit in text
    assert text.startswith("usage: python -m service")


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


# Swaps under load


class Caller(threading.Thread):
    """Calls /act without pause with texts of its own, and keeps every answer."""

    def __init__(self, url, texts, seen):
        super().__init__()
        self.texts, self.answers, self.failures = texts, [], []
        self.over = threading.Event()
        self._url, self._seen = url, seen

    def run(self):
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while not self.over.is_set():
                response = client.post("/act", json={"observations": self.texts, "actions": ACTIONS})
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                answer = response.json()
                version = answer["policy_version"]
                assert response.headers["x-policy-version"] == str(version)
                self.answers.append((version, np.array([result["log_probs"] for result in answer["results"]])))
                self._seen(version)


class Newest:
    """The newest version that any caller met."""

    def __init__(self):
        self.version, self._changed = 0, threading.Condition()

    def __call__(self, version):
        with self._changed:
            self.version = max(self.version, version)
            self._changed.notify_all()

    def wait_for(self, version):
        with self._changed:
            assert self._changed.wait_for(lambda: self.version >= version, PATIENCE_S), f"nobody met {version}"


def noise(state, version):
    """Returns the weights pushed as `version`; only the trunk's numbers differ."""
    generator = torch.Generator().manual_seed(version)
    return {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) if tensor.dim() else tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
def recomputed(language_model, state, texts):
    """Returns what weights say about texts, offline."""
    policy = Policy(language_model)
    assert policy.load_state_dict(state, strict=False).missing_keys == ["trunk.lm_head.weight"]
    encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
    prompts = [encoder.encode(action_prompt(text)) for text in texts]
    return policy(collate(prompts, [encoder.phrases(tuple(ACTIONS))] * len(prompts))).log_probs.numpy()


@pytest.mark.slow
def test_200_swaps_while_8_clients_act_without_pause(own_service, fresh_embedded):
    url, newest = own_service.url, Newest()
    original = load(httpx.get(f"{url}/weights/1").content)
    sizes = [1, 2, 3, 4, 8, 8, 16, 200]  # the last travels in more than one batch
    assert len(sizes) == NUM_CLIENTS
    texts = [[f"cart {n % 41} speed {k} pole 20 turn {n // 41}" for n in range(size)] for k, size in enumerate(sizes)]
    callers = [Caller(url, each, newest) for each in texts]
    for caller in callers:
        caller.start()
    try:
        newest.wait_for(1)
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            for version in range(2, NUM_SWAPS + 2):
                data = save(noise(original, version))
                headers = {"if-match": f'"{version - 1}"', "content-digest": content_digest(sha256_of(data))}
                response = client.put("/weights", content=data, headers=headers)
                assert response.status_code == 200, response.text
                assert response.json()["policy_version"] == version
                if version % 2:  # every other version is pushed on the heels of the one before
                    newest.wait_for(version)
        newest.wait_for(NUM_SWAPS + 1)
    finally:
        for caller in callers:
            caller.over.set()
        for caller in callers:
            caller.join()
    assert [caller.failures for caller in callers] == [[]] * NUM_CLIENTS
    check_answers(fresh_embedded, original, callers)
    assert own_service.metric("hintwise_swaps_total") == NUM_SWAPS
    own_service.stop(signal.SIGINT)


def check_answers(language_model, original, callers):
    """Every answer's log-probs are those of the version it names, and of no other."""
    answers = defaultdict(list)
    for k, caller in enumerate(callers):
        for version, log_probs in caller.answers:
            answers[version].append((k, log_probs))
    assert len(answers) >= NUM_SWAPS / 2
    previous: np.ndarray | None = None
    for version in sorted(answers):
        state = original if version == 1 else noise(original, version)
        everything = recomputed(language_model, state, [text for caller in callers for text in caller.texts])
        parts = np.split(everything, np.cumsum([len(caller.texts) for caller in callers])[:-1])
        for k, log_probs in answers[version]:
            tolerance = 1e-5 * (1 + np.abs(parts[k]))
            assert (np.abs(log_probs - parts[k]) <= tolerance).all(), f"version {version}, caller {k}"
        if previous is not None:  # the weights differ enough for this to mean something
            assert (np.abs(previous - everything) > 1e-3).any()
        previous = everything
