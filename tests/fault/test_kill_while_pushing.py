"""kill -9 at random moments of pushing: the next service serves the last good version, every time."""

import random
import signal
import threading
import time

import httpx
import pytest
import torch
from safetensors.torch import load, save

from hintwise.digests import content_digest, sha256_of
from tests.e2e.processes import kill, start_service

NUM_KILLS = 30
SEED = 20_240
MAX_DELAY_S = 0.25
"""Some ten pushes: long enough to fall into any step of one."""
PATIENCE_S = 60


class Pusher(threading.Thread):
    """Pushes one version after another until the service is gone, and notes what was answered."""

    def __init__(self, url, served, original, seed):
        super().__init__()
        self.url, self.original, self.seed = url, original, seed
        self.acknowledged = [served]  # (version, digest) in order
        self.in_flight = None  # digest of the push without an answer
        self.begun = threading.Event()

    def run(self):
        with httpx.Client(base_url=self.url, timeout=PATIENCE_S) as client:
            while True:
                version, _ = self.acknowledged[-1]
                data = changed(self.original, (self.seed, version))
                self.in_flight = sha256_of(data)
                self.begun.set()
                headers = {"if-match": f'"{version}"', "content-digest": content_digest(self.in_flight)}
                try:
                    response = client.put("/weights", content=data, headers=headers)
                except httpx.TransportError:
                    return  # killed
                assert response.status_code == 200, response.text
                self.acknowledged.append((response.json()["policy_version"], self.in_flight))
                self.in_flight = None


def changed(state, key):
    noise = random.Random(str(key)).random()
    return save({**state, "value_head.bias": torch.tensor([noise])})


@pytest.mark.slow
def test_a_service_killed_while_weights_are_pushed_serves_the_last_good_ones(tmp_path):
    delays, numbers = random.Random(SEED), {}
    service, url = start_service(tmp_path)
    original = load(httpx.get(f"{url}/weights/1").content)
    try:
        served = look(url)
        for kill_number in range(NUM_KILLS):
            pusher = Pusher(url, served, original, kill_number)
            pusher.start()
            assert pusher.begun.wait(PATIENCE_S)
            time.sleep(delays.uniform(0, MAX_DELAY_S))  # the moment is what the test is about
            kill(service)
            assert service.returncode == -signal.SIGKILL
            pusher.join(PATIENCE_S)
            assert not pusher.is_alive()
            service, url = start_service(tmp_path)
            served = look(url)
            check(served, pusher, numbers, f"kill {kill_number}, seed {SEED}")
            assert sorted(path.suffix for path in tmp_path.glob("*.part")) == []
    finally:
        kill(service)
    assert served[0] > NUM_KILLS  # there was pushing


def look(url):
    """Returns the version that serves and its digest, once its file has been downloaded whole."""
    info = httpx.get(f"{url}/weights", timeout=PATIENCE_S).json()
    data = httpx.get(f"{url}/weights/{info['policy_version']}", timeout=PATIENCE_S).content
    assert sha256_of(data) == info["sha256"]
    return info["policy_version"], info["sha256"]


def check(served, pusher, numbers, where):
    """Asserts that nothing acknowledged is lost, nothing half-done serves, and no number names two things."""
    last, last_sha256 = pusher.acknowledged[-1]
    assert served == (last, last_sha256) or (served[0] > last and served[1] == pusher.in_flight), where
    for number, digest in [*pusher.acknowledged, served]:
        assert numbers.setdefault(number, digest) == digest, f"version {number} was used twice; {where}"
