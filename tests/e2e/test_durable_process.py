"""kill -9 right after a push was answered, flushed or not; and memory that fifty pushes do not add to."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load, save

from hintwise import Client
from hintwise.digests import sha256_of
from tests.e2e.processes import kill, start_service, stop

NUM_KILLS = 3
NUM_WARM_SWAPS, NUM_SWAPS = 10, 40
MAX_GROWTH_IN_MODELS = 4.0
"""In sizes of the pushed file, after 40 swaps: one that leaked each version would grow by 40."""


def test_a_version_that_was_answered_survives_kill_9(tmp_path):
    pushed = None
    for number in range(2, 2 + NUM_KILLS):
        process, url = start_service(tmp_path)
        try:
            with Client(url) as client:
                served = client.weights()
                assert served.policy_version == number - 1
                assert pushed in (None, served.sha256)
                data = changed(client.download_weights(number - 1), number)
                pushed = sha256_of(data)
                assert client.put_weights(data, if_match=number - 1).policy_version == number
        finally:
            kill(process)
    process, url = start_service(tmp_path)
    try:
        info = httpx.get(f"{url}/weights").json()
        assert (info["policy_version"], info["sha256"], info["durable"]) == (1 + NUM_KILLS, pushed, True)
        assert httpx.get(f"{url}/weights/{1 + NUM_KILLS}").content == data
    finally:
        stop(process)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory of a process on Linux alone")
def test_memory_is_flat_over_many_swaps(tmp_path):
    process, url = start_service(tmp_path, start=subprocess.Popen)  # a fork begins with memory to spare
    try:
        with Client(url) as client:
            original = client.download_weights(1)
            after = []
            for count in (NUM_WARM_SWAPS, NUM_SWAPS):
                for _ in range(count):
                    version = client.weights().policy_version
                    client.put_weights(changed(original, version), if_match=version)
                after.append(resident_bytes(process.pid))
        assert after[1] - after[0] < MAX_GROWTH_IN_MODELS * len(original)
    finally:
        stop(process)


def changed(data, number):
    return save({**load(data), "value_head.bias": torch.tensor([float(number)])})


def resident_bytes(pid):
    return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])
