"""Work between a request and its answer, over a real socket: the server answers only once the work is done."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hintwise import Client

LIMIT_S = 30


@pytest.fixture
def patient():
    """A service that has read each request whole and then waits for `patient.done` before it answers."""

    class Patient(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            server.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            in_time = server.done.wait(LIMIT_S)
            result = {"action": 0, "label": "go", "log_prob": 0.0, "log_probs": [0.0], "scores": [0.0], "value": 0.0}
            body = json.dumps(
                {"policy_version": 1, "readout": "phrase", "results": [{**result, "num_prompt_tokens": 3}]}
            ).encode()
            self.send_response(200 if in_time else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Patient)
    server.daemon_threads = True
    server.done, server.asked = threading.Event(), []
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(LIMIT_S)


def test_work_is_done_between_a_request_and_its_answer(patient):
    threads = []

    def work():
        threads.append(threading.current_thread())
        patient.done.set()

    with Client(patient.url, retry_s=0, while_waiting=work) as client:
        for _ in range(2):  # over the same connection
            patient.done.clear()
            assert client.act(["x"], ["go"]).results[0].label == "go"
    assert threads == [threading.main_thread()] * 2


def test_what_the_work_raises_ends_the_call_and_the_next_one_gets_its_own_answer(patient):
    jobs = [ValueError("the work failed"), None]

    def work():
        until = time.monotonic() + LIMIT_S
        while len(patient.asked) < 3 - len(jobs) and time.monotonic() < until:
            time.sleep(0.001)  # a call that has ended takes its connection with it, unread
        patient.done.set()
        if error := jobs.pop(0):
            raise error

    with Client(patient.url, retry_s=0, while_waiting=work) as client:
        with pytest.raises(ValueError, match="the work failed"):
            client.act(["x"], ["go"])
        assert client.act(["y"], ["go"]).policy_version == 1
    assert [json.loads(body)["observations"] for body in patient.asked] == [["x"], ["y"]]
