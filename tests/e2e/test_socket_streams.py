"""Answers over a real socket: callers who leave before them, hints that are read while they are written."""

import httpx
import pytest

from hintwise.digests import content_digest, sha256_of
from tests.e2e.connection import ENDLESS, PATIENCE_S, SMALL, Connection, events_in, is_ready, metric, until
from tests.e2e.processes import running_service


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("socket") / "weights") as url:
        yield url


# Callers who leave


def test_who_hangs_up_while_hints_are_written_stops_the_writing(url):
    """Without a stream nothing is sent meanwhile: the closed connection alone tells."""
    kind, left = '{kind="guidance"}', 'hintwise_requests_total{endpoint="/guidance",status="499"}'
    before = metric(url, left)
    connection = Connection(url)
    connection.send_json("/guidance", {**ENDLESS, "stream": False})
    until(lambda: metric(url, f"hintwise_queue_tokens{kind}") > 0, "it does not wait")
    connection.hang_up()
    until(lambda: metric(url, left) == before + 1, "the caller who left is not noticed")
    assert metric(url, f"hintwise_queue_tokens{kind}") == 0
    short = {"observations": ["x"], "max_new_tokens": 2}
    assert httpx.post(f"{url}/guidance", json=short, timeout=PATIENCE_S).status_code == 200


def test_who_sends_all_weights_and_hangs_up_leaves_a_whole_version(url):
    """Taken or dropped: what serves, what is told and what is kept are one."""
    version = httpx.get(f"{url}/weights").json()["policy_version"]
    data = httpx.get(f"{url}/weights/{version}").content
    connection = Connection(url)
    headers = {"if_match": f'"{version}"', "content_digest": content_digest(sha256_of(data))}
    connection.send_head("PUT", "/weights", content_length=len(data), **headers)
    connection.socket.sendall(data)
    connection.hang_up()
    assert is_ready(url)
    info = httpx.get(f"{url}/weights").json()
    assert info["policy_version"] in (version, version + 1)
    assert sha256_of(httpx.get(f"{url}/weights/{info['policy_version']}").content) == info["sha256"]
    response = httpx.post(f"{url}/act", json=SMALL)
    assert (response.status_code, response.json()["policy_version"]) == (200, int(response.headers["x-policy-version"]))


# Streams


def test_events_arrive_whole_while_hints_are_written(url):
    asked = {"observations": ["x"] * 16, "max_new_tokens": 64, "seed": 3, "temperature": 100, "stream": True}
    with Connection(url) as connection:
        connection.send_json("/guidance", asked)
        status, headers = connection.read_head()
        assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        assert (headers["cache-control"], headers["transfer-encoding"]) == ("no-store", "chunked")
        assert headers["x-request-id"]
        seen = [events_in(chunk) for chunk in connection.chunks()]
        connection.send_json("/act", SMALL)  # and the connection may be used again
        assert connection.read_answer()[0] == 200
    assert len(seen) > 1
    names = [name for events in seen for name, _ in events]
    assert names == ["token"] * (len(names) - 1) + ["done"]
    done = seen[-1][-1][1]
    joined = [""] * 16
    for events in seen:
        for name, token in events:
            if name == "token":
                joined[token["observation"]] += token["text"]
    assert joined == [result["hints"][0]["text"] for result in done["results"]]


def test_a_slow_reader_holds_nobody_up_and_misses_nothing(url):
    asked = {"observations": ["x"] * 256, "num_hints": 2, "max_new_tokens": 32, "seed": 3, "temperature": 100}
    written = 'hintwise_batch_tokens_count{kind="guidance"}'
    with Connection(url, receive_bytes=4_096) as connection:
        before = metric(url, written)
        connection.send_json("/guidance", {**asked, "stream": True})
        until(lambda: metric(url, written) > before, "nothing is written while nobody reads")
        assert httpx.post(f"{url}/act", json=SMALL, timeout=PATIENCE_S).status_code == 200
        until(lambda: metric(url, 'hintwise_queue_tokens{kind="guidance"}') == 0, "the writing waits for the reader")
        connection.read_head()
        events = events_in(b"".join(connection.chunks()))
    *tokens, (last, done) = events
    assert last == "done"
    joined = {}
    for _, token in tokens:
        place = token["observation"], token["hint"]
        joined[place] = joined.get(place, "") + token["text"]
    texts = {(i, k): each["text"] for i, result in enumerate(done["results"]) for k, each in enumerate(result["hints"])}
    assert joined == {place: text for place, text in texts.items() if text}
