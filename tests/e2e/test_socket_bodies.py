"""Bodies over a real socket: in pieces, announced, endless, slow."""

import json
import select

import httpx
import pytest

from hintwise.digests import content_digest, sha256_of
from tests.e2e.connection import SMALL, Connection, is_ready
from tests.e2e.processes import running_service


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("socket") / "weights") as url:
        yield url


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_a_body_in_chunks_is_read_wherever_it_is_cut(url, piece):
    data = json.dumps(SMALL, ensure_ascii=False).encode()
    with Connection(url) as connection:
        connection.send_head("POST", "/act", transfer_encoding="chunked")
        for start in range(0, len(data), piece):
            connection.send_chunk(data[start : start + piece])
        connection.send_chunk(b"")
        status, answer, _ = connection.read_answer()
    assert (status, len(answer["results"])) == (200, 1)


def test_weights_in_chunks_are_taken(url):
    info = httpx.get(f"{url}/weights").json()
    data = httpx.get(f"{url}/weights/{info['policy_version']}").content
    with Connection(url) as connection:
        headers = {"if_match": f'"{info["policy_version"]}"', "content_digest": content_digest(sha256_of(data))}
        connection.send_head("PUT", "/weights", transfer_encoding="chunked", **headers)
        for start in range(0, len(data), 100_000):
            connection.send_chunk(data[start : start + 100_000])
        connection.send_chunk(b"")
        status, answer, _ = connection.read_answer()
    assert (status, answer["policy_version"], answer["sha256"]) == (200, info["policy_version"] + 1, sha256_of(data))


def test_a_chunk_that_is_none_is_a_problem(url):
    with Connection(url) as connection:
        connection.send_head("POST", "/act", transfer_encoding="chunked")
        connection.socket.sendall(b"size?\r\n{}\r\n")
        status, problem, headers = connection.read_answer()
        assert connection.reader.read() == b""
    assert (status, problem["status"], headers["content-type"]) == (400, 400, "application/problem+json")
    assert headers["x-request-id"]
    assert is_ready(url)


def test_who_asks_first_is_told_to_go_on(url):
    data = json.dumps(SMALL).encode()
    with Connection(url) as connection:
        connection.send_head("POST", "/act", content_length=len(data), expect="100-continue")
        assert connection.read_head() == (100, {})
        connection.socket.sendall(data)
        assert connection.read_answer()[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/act", {"content_length": 2**30}, 413),
        ("PUT", "/weights", {"content_length": 2**30}, 428),
        ("PUT", "/weights", {"content_length": 2**30, "if_match": '"9999"'}, 409),
        ("POST", "/act", {"content_length": 2**20, "content_type": "text/plain"}, 415),
    ],
)
def test_who_asks_first_is_refused_without_sending_the_body(url, method, path, headers, status):
    with Connection(url) as connection:
        connection.send_head(method, path, expect="100-continue", **headers)
        answered, problem, _ = connection.read_answer()
    assert (answered, problem["status"]) == (status, status)


def test_an_endless_body_is_refused_at_the_limit(url):
    sent = 0
    with Connection(url) as connection:
        connection.send_head("POST", "/act", transfer_encoding="chunked")
        while not select.select([connection.socket], [], [], 0)[0]:
            assert sent < 64 * 2**20, "it reads on and on"
            connection.send_chunk(b" " * 2**16)
            sent += 2**16
        status, problem, _ = connection.read_answer()
    assert (status, problem["title"]) == (413, "Body too large")
    assert is_ready(url)


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/act", {}),
        ("POST", "/guidance", {}),
        ("POST", "/reward", {}),
        ("PUT", "/weights", {"content_digest": content_digest(sha256_of(b"x"))}),
    ],
)
def test_a_body_that_comes_too_slowly_ends_at_the_deadline(url, method, path, headers):
    version = httpx.get(f"{url}/weights").json()["policy_version"]
    if method == "PUT":
        headers = {**headers, "if_match": f'"{version}"'}
    with Connection(url) as connection:
        lines = [f"{method} {path} HTTP/1.1", "Host: service", "X-Request-Timeout-Ms: 300", "Content-Length: 1000000"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while not select.select([connection.socket], [], [], 0.01)[0]:
            connection.socket.sendall(b" ")
        status, problem, _ = connection.read_answer()
    assert (status, problem["status"]) == (504, 504)
    assert httpx.get(f"{url}/weights").json()["policy_version"] == version
