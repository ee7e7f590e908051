"""Two workers push to one service at once: one wins, the other is told and recovers; no push is lost in silence."""

from __future__ import annotations

import threading

import httpx
import pytest
import torch
from safetensors.torch import load, save

from hintwise import Client
from hintwise.digests import sha256_of
from hintwise.errors import VersionConflict
from tests.e2e.processes import running_service
from worker.served_policy import ServedPolicy

NUM_PUSHES = 20
PATIENCE_S = 120


class Pusher(threading.Thread):
    """What a learner does after each update, as fast as it can; notes the version of every push."""

    def __init__(self, url: str, number: int, together: threading.Barrier) -> None:
        super().__init__()
        self.url, self.number, self.together = url, number, together
        self.pushed: list[tuple[int, str]] = []
        self.num_refused = 0

    def run(self) -> None:
        with Client(self.url) as client:
            served = ServedPolicy(client)
            original = load(served.fetch())
            for push in range(NUM_PUSHES):
                bias = torch.tensor([100.0 * self.number + push])
                served.hold(save({**original, "value_head.bias": bias}))
                self.together.wait(PATIENCE_S)
                self._push(served)
                self.pushed.append((served.policy_version, sha256_of(served.data)))

    def _push(self, served: ServedPolicy) -> None:
        for _ in range(NUM_PUSHES):
            try:
                served.push()
            except VersionConflict:  # told, not lost; a learner alone on its service never meets so many
                self.num_refused += 1
            else:
                return
        raise AssertionError("the other one always won")


@pytest.mark.slow
def test_of_two_pushing_workers_each_gets_every_push_through(tmp_path):
    with running_service(tmp_path) as url:
        together = threading.Barrier(2)
        pushers = [Pusher(url, number, together) for number in (1, 2)]
        for pusher in pushers:
            pusher.start()
        for pusher in pushers:
            pusher.join(PATIENCE_S)
        info = httpx.get(f"{url}/weights", timeout=30).json()
        metrics = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    for pusher in pushers:
        versions = [version for version, _ in pusher.pushed]
        assert len(versions) == NUM_PUSHES
        assert versions == sorted(set(versions))
    every = sorted(pushed for pusher in pushers for pushed in pusher.pushed)
    assert [version for version, _ in every] == list(range(2, 2 * NUM_PUSHES + 2))  # each number was told to one
    assert (info["policy_version"], info["sha256"]) == every[-1]
    number = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in metrics if line[0] != "#")}
    assert number["hintwise_swaps_total"] == 2 * NUM_PUSHES
    assert number["hintwise_rejected_swaps_total"] >= 1  # both pushed onto version 1
