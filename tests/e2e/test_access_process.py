"""Access tokens and logs of a real process: it listens to others, traffic stays on loopback."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager

import httpx
import pytest

from service.access_tokens import digest_of
from service.new_token import new_token
from tests.e2e.forked import ROOT, Forked
from tests.e2e.processes import CARTPOLE, run, run_worker, stop

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("HINTWISE_")}
SHORT = (*CARTPOLE, "--num-envs", 4, "--num-steps", 32, "--minibatch-size", 64, "--total-steps", 128)
EVERYWHERE = "0.0.0.0"  # noqa: S104 (that others reach it is what is tested)
SMALL = {"observations": ["x"], "actions": ["go", "wait"]}
PATIENCE_S = 60

FAILING = """
import sys
from service import __main__
from service.inference_endpoints import KINDS
from service.policy_runner import PolicyRunner
act, decide = KINDS["/act"].answer, PolicyRunner.decide
async def unforeseen(engine, body, *, deadline):
    if body.seed == 13:
        try:
            {}[body.hints[0]]
        except KeyError as error:
            raise ValueError(body.observations[0] + body.task) from error
    return await act(engine, body, deadline=deadline)
def failing(self, items):
    if items[0].choice.seed == 14:
        raise RuntimeError("CUDA error")
    return decide(self, items)
KINDS["/act"], PolicyRunner.decide = KINDS["/act"]._replace(answer=unforeseen), failing
sys.argv = ["service", *sys.argv[1:]]
sys.exit(__main__.main())
"""
"""A service whose forward, or whose own code, fails on some seeds, the latter quoting what it was asked."""


def command(tmp_path, *flags, program=("-m", "service")):
    fixed = ("--weights-dir", str(tmp_path / "weights"), "--num-threads", "1")  # measured, it would be logged
    return [sys.executable, *program, *fixed, *map(str, flags)]


def failed_start(tmp_path, *flags):
    """Exit status and the one line of a start that must fail."""
    ended = run(command(tmp_path, *flags), env=ENVIRONMENT, timeout_s=120, start=subprocess.Popen)
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    return ended.returncode, line


@contextmanager
def running(tmp_path, *flags, program=("-m", "service")):
    """The port of a service and the file its stderr goes to."""
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        started = command(tmp_path, *flags, program=program)
        process = Forked(started, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=stderr)
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), log.read_text()
        yield int(line.rsplit(":", 1)[1]), log
    finally:
        stop(process)


@pytest.fixture
def tokens(tmp_path):
    """A tokens file, and a token of each scope."""
    file = tmp_path / "tokens"
    return file, {name: new_token(name, [name], file, None, replace=False) for name in ("infer", "guide", "admin")}


# Starting


def test_an_address_that_others_reach_needs_tokens(tmp_path):
    status, line = failed_start(tmp_path, "--host", EVERYWHERE)
    assert status == 2
    for said in (EVERYWHERE, "--tokens-file", "HINTWISE_TOKENS_FILE", "service.new_token", "127.0.0.1"):
        assert said in line


def test_a_tokens_file_with_a_bad_line_stops_the_start_before_the_models_load(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"good:infer:{digest_of(b'x')}\nsEcReT\n")
    status, line = failed_start(tmp_path, "--host", EVERYWHERE, "--tokens-file", file, "--model", "./nope")
    assert status == 1
    assert f"{file}, line 2: expected" in line
    assert "sEcReT" not in line


def test_with_tokens_it_listens_to_others_and_asks_each_for_its_token(tmp_path, tokens):
    file, of = tokens
    with running(tmp_path, "--host", EVERYWHERE, "--tokens-file", file) as (port, log):
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/readyz").status_code == 200
        for headers, status in (({}, 401), (bearer("x"), 401), (bearer(of["guide"]), 403), (bearer(of["infer"]), 200)):
            assert httpx.post(f"{url}/act", json=SMALL, headers=headers).status_code == status
        large = httpx.post(f"{url}/act", content=b"x" * (17 * 2**20))
        assert (large.status_code, large.headers["content-type"]) == (401, "application/problem+json")
        for path in ("/act/", "//act", "/act%0A", "/livez/../act", "/./act", "http://other/act"):
            assert raw(port, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n")[0].split()[1] == "401"
    assert all(token not in log.read_text() for token in of.values())


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def raw(port, head):
    """The lines of the answer's head to a request that is sent as it stands."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(head.encode("latin-1") + b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    return answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")


# The worker


def test_a_worker_with_a_token_trains_and_one_without_says_which_variable_to_set(tmp_path, tokens, monkeypatch):
    file, of = tokens
    for name in [name for name in os.environ if name.startswith("HINTWISE_")]:
        monkeypatch.delenv(name)
    new_token("worker", ["infer", "admin"], file, tmp_path / "worker.token", replace=False)
    with running(tmp_path, "--tokens-file", file) as (port, _):
        asked = ("train", *SHORT, "--service-url", f"http://127.0.0.1:{port}", "--run-dir", tmp_path / "run")
        ended = run_worker(*asked)
        [line] = ended.stderr.splitlines()
        assert ended.returncode == 1
        assert "HINTWISE_TOKEN, or the file HINTWISE_TOKEN_FILE" in line
        monkeypatch.setenv("HINTWISE_TOKEN", of["infer"])
        ended = run_worker(*asked)
        assert ended.returncode == 1
        assert "needs the scope admin; this token has infer" in ended.stderr.splitlines()[-1]
        monkeypatch.delenv("HINTWISE_TOKEN")
        monkeypatch.setenv("HINTWISE_TOKEN_FILE", str(tmp_path / "worker.token"))
        ended = run_worker(*asked)
        assert ended.returncode == 0, ended.stderr
        assert (tmp_path / "worker.token").read_text().strip() not in ended.stderr + ended.stdout


# Logs

MARKERS = {"observations": ["mArK-1"], "task": "mArK-2", "hints": ["mArK-3"], "actions": ["go", "mArK-4"]}
TOLD = ["mArK-1", "mArK-2", "mArK-3"]
ITEM = {"hint": "mArK-1", "observation": "mArK-2", "actions": ["go"], "action": "go", "task": "mArK-3"}


def ask_everything(port):
    """Sends marked texts through every kind of success and failure; returns the statuses."""
    url = f"http://127.0.0.1:{port}"
    asked = [
        ("/act", MARKERS),
        ("/act", {**MARKERS, "seed": 13}),  # fails in its own code, which quotes what it was asked
        ("/act", {**MARKERS, "seed": 14}),  # the forward fails
        ("/act", {**MARKERS, "mArK-5": 1}),
        ("/act", {**MARKERS, "mode": "mArK-6"}),
        ("/act", {**MARKERS, "observations": ["mArK-1 " * 2_000]}),  # longer than the model's context
        ("/act%0A", {**MARKERS, "seed": 13}),
        ("/guidance", {"observations": ["mArK-1"], "task": "mArK-2", "max_new_tokens": 2}),
        ("/guidance", {"observations": ["mArK-1"], "task": ["mArK-2"] * 2}),
        ("/reward", {"items": [ITEM]}),
        ("/reward", {"items": [{**ITEM, "action": "mArK-4"}]}),
        ("/mArK-7", {}),
    ]
    statuses = [httpx.post(url + path, json=body, headers=bearer("mArK-8")).status_code for path, body in asked]
    assert httpx.post(f"{url}/act", content=b'{"observations": ["mArK-1"').status_code == 400
    return statuses


def test_no_log_line_holds_a_text_of_a_caller(tmp_path):
    flags = ("--log-format", "json", "--log-level", "debug")
    with running(tmp_path, *flags, program=("-c", FAILING)) as (port, log):
        statuses = ask_everything(port)
    assert statuses == [200, 500, 500, 422, 422, 422, 500, 200, 422, 200, 422, 404]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [*statuses, 400]
    assert [line["event"] for line in lines].count("unforeseen failure") == 2
    assert {line["endpoint"] for line in requests} == {"/act", "/guidance", "/reward", "other"}
    for line in lines:
        assert re.fullmatch(r"[0-9a-f]{16}", line["request_id"])
        assert line["policy_version"] == 1
    failure = next(line["exception"] for line in lines if "exception" in line)
    assert failure.index("KeyError") < failure.index("which led to") < failure.index("ValueError")
    assert any("CUDA error" in line.get("detail", "") for line in lines)
    assert {line["event"] for line in lines} == {"request", "request failed", "unforeseen failure"}  # no hint either
    assert "mArK" not in log.read_text()


def test_texts_are_logged_when_the_operator_asks(tmp_path):
    flags = ("--log-format", "json", "--log-level", "debug", "--log-texts")
    with running(tmp_path, *flags, program=("-c", FAILING)) as (port, log):
        ask_everything(port)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    asked = [line for line in lines if line["event"] == "asked"]
    assert all(text in json.dumps(asked[0]) for text in TOLD)
    assert any(line.get("items") for line in asked)
    [answered] = [line for line in lines if line["event"] == "answered"]
    assert "text" in answered["results"][0]["hints"][0]
    assert any("ValueError: mArK-1mArK-2" in line.get("exception", "") for line in lines)
    assert "mArK-8" not in log.read_text()  # a token never is


ENTRY = "2026-01-01T00:00:00Z [error    ] forged"
FORGED = {
    "path": "POST /act%0A HTTP/1.1\r\nHost: x\r\n",
    "path-terminal": f"POST /weights/%1b[31m%0a{ENTRY.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\n",
    "path-unicode": "GET /%E2%80%A8%C2%85%0D%0Aforged HTTP/1.1\r\nHost: x\r\n",
    "method": "GET\x0bX /livez HTTP/1.1\r\nHost: x\r\n",
    "method-escape": "\x1b[31mGET /livez HTTP/1.1\r\nHost: x\r\n",
    "request-id": f"POST /act HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\x1b[31m\x0b{ENTRY}\r\n",
    "request-id-folded": f"POST /act HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\n {ENTRY}\r\n",
    "request-id-break": f"POST /act HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\n{ENTRY}\r\n",
    "timeout": f"POST /act HTTP/1.1\r\nHost: x\r\nX-Request-Timeout-Ms: \x1b[31m\x85{ENTRY}\r\n",
    "type": f"POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: \x1b[31m\x85{ENTRY}\r\n",
    "if-match": f"PUT /weights HTTP/1.1\r\nHost: x\r\nIf-Match: \x1b[31m\x85{ENTRY}\r\n",
    "digest": f'PUT /weights HTTP/1.1\r\nHost: x\r\nIf-Match: "1"\r\nContent-Digest: \x1b[31m\x85{ENTRY}\r\n',
    "token": f"GET /info HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \x1b[31m\x85{ENTRY}\r\n",
}
HEADERS = {"date", "content-length", "content-type", "x-request-id", "x-policy-version", "allow", "connection"}


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_caller_can_forge_a_log_line_or_a_header(tmp_path, log_format):
    flags = ("--log-format", log_format, "--log-level", "debug")
    body = json.dumps({**SMALL, "seed": 13, "hints": [f"\x1b[31m\n{ENTRY}"], "task": ""})
    with running(tmp_path, *flags, program=("-c", FAILING)) as (port, log):
        for name, head in FORGED.items():
            status, *headers = raw(port, head + "Content-Length: 0\r\n")
            assert re.fullmatch(r"HTTP/1\.1 [2-5]\d\d [\w ]+", status), name
            assert {header.partition(":")[0].lower() for header in headers} <= HEADERS, name
            assert all(header.isascii() and header.isprintable() for header in headers), name
        for path in ("/act", "/act%0A"):
            answer = httpx.post(f"http://127.0.0.1:{port}{path}", content=body)
            assert answer.status_code == 500
    text = log.read_text()
    assert text.isascii() or log_format == "console"
    assert "forged" not in text
    lines = text.split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    if log_format == "json":
        assert all(json.loads(line)["event"] for line in lines)
    else:  # an event, or the frames of a trace, set in from the margin
        assert all(re.match(r"\d{4}-\d\d-\d\dT|    ", line) for line in lines)
        assert "/act\\n" in text


LOGGED = """
import logging, sys
import structlog
from service import logs
logs.configure(log_format=sys.argv[1], log_level="info", log_texts=True)
evil = "a\\x1b[31m\\u2028\\x85\\x00\\r\\nforged"
structlog.get_logger("service").info("event", path=evil, nested=[evil])
logging.getLogger("uvicorn.error").warning(evil)
try:
    raise RuntimeError(evil)
except RuntimeError:
    structlog.get_logger("service").exception("failed")
    logging.getLogger("uvicorn.error").exception(evil)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_one_event_is_one_line_whatever_it_quotes(log_format):
    ended = subprocess.run([sys.executable, "-c", LOGGED, log_format], cwd=ROOT, capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stderr.decode().split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    events = [line for line in lines if not line.startswith("    ")]
    assert len(events) == 4
    assert not any(line.startswith("forged") for line in lines)
    assert "RuntimeError" in "".join(lines)
