"""SIGTERM under load: what was accepted is answered, and the exit status is 0.

The service's debug log has one line for every request it accepted. So every id in the log must
have been answered with 200, and a request that failed at its client must not be in the log: the
service never took it.
"""

import json
import random
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.e2e.forked import ROOT, Forked

NUM_CLIENTS = 8
BODY = {"observations": ["cart 20 speed 23 pole 15 turn 20"] * 16, "actions": ["push left", "push right"]}
LIMIT_S = 60


class Client(threading.Thread):
    """Asks without pause, on one kept connection, until the service is gone."""

    def __init__(self, url, number):
        super().__init__(daemon=True)
        self._url, self._number = url, number
        self.answered, self.failed, self.refusals = set(), set(), []

    def run(self):
        with httpx.Client(timeout=LIMIT_S) as http:
            for count in range(1_000_000):
                request_id = f"{self._number}-{count}"
                try:
                    response = http.post(f"{self._url}/act", json=BODY, headers={"X-Request-Id": request_id})
                except httpx.TransportError:
                    self.failed.add(request_id)
                    return
                if response.status_code != 200:
                    self.refusals.append(response.text)
                    return
                self.answered.add(request_id)


def accepted(log):
    """Returns the status of every request that the service's log tells of."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return {line["request_id"]: line["status"] for line in lines if line["event"] == "request"}


@pytest.mark.slow
def test_what_was_accepted_is_answered(tmp_path, fault_runs):
    delays = random.Random(0)
    for run in range(fault_runs):
        log = tmp_path / f"log-{run}"
        flags = ["--weights-dir", str(tmp_path / "weights"), "--num-threads", "1"]
        flags += ["--log-format", "json", "--log-level", "debug"]
        with log.open("wb") as stderr:
            command = [sys.executable, "-m", "service", *flags]
            process = Forked(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
        try:
            url = process.stdout.readline().split()[-1]
            clients = [Client(url, number) for number in range(NUM_CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(delays.uniform(0.2, 1.0))  # the moment is what varies from run to run
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0
        finally:
            process.kill()
            process.stdout.close()
        for client in clients:
            client.join(LIMIT_S)
        statuses = accepted(log)
        answered = set().union(*(client.answered for client in clients))
        failed = set().union(*(client.failed for client in clients))
        assert [refusal for client in clients for refusal in client.refusals] == []
        assert len(answered) > NUM_CLIENTS, "there was no load"
        assert set(statuses.values()) == {200}
        assert set(statuses) == answered
        assert not failed & set(statuses)
