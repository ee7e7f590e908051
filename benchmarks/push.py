"""Measures a push of GPT-2's size (124M parameters, random): how long it takes, and whom it delays.

    python -m benchmarks.push [--tokenizer DIR] [--rounds 7] [--swaps 50]

| measured   | how                                                                                         |
| ---------- | ------------------------------------------------------------------------------------------- |
| push       | `dump` of a policy in memory, then `put_weights` until answered, then until `durable`       |
| act        | one caller with one observation at a time, without and with pushes back to back, in turns   |
| memory     | resident bytes of the service after 10 swaps, and after the last, embedded model and 124M   |
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks import results_file
from benchmarks.light_client import random_observations
from hintwise import Client
from hintwise.language_model import load_language_model
from hintwise.model_names import EMBEDDED_DIR
from hintwise.policy import Policy
from hintwise.weights import dump

LIMIT_S = 120.0
NUM_WARM_SWAPS = 10
PAUSE_S = 4.0
"""How long the caller asks without a push, and with pushes, in each turn."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
ACTIONS = ["push left", "push right"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="directory of a tokenizer; default: the embedded model's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--swaps", type=int, default=50, help=f"at least {NUM_WARM_SWAPS}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hintwise-push-") as directory:
        model = _model(Path(directory) / "gpt2-124m", arguments.tokenizer or EMBEDDED_DIR)
        policy = Policy(load_language_model(str(model)))
        with _service(model) as (url, pid), Client(url, timeout_s=LIMIT_S) as client:
            results = {
                "rounds": arguments.rounds,
                "megabytes": round(len(dump(policy)) / 1e6, 1),
                "push": _push_times(client, policy, arguments.rounds),
                "act": _act_delays(url, client, policy, arguments.rounds),
                "memory_124m": _memory(client, pid, policy, arguments.swaps),
            }
        policy = Policy(load_language_model("embedded"))
        with _service("embedded") as (url, pid), Client(url, timeout_s=LIMIT_S) as client:
            results["memory_embedded"] = _memory(client, pid, policy, arguments.swaps)
    print(results_file.write("push", results).read_text())


def _model(directory: Path, tokenizer: Path) -> Path:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config()).save_pretrained(directory)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, directory)
    return directory


@contextmanager
def _service(model: Path | str) -> Iterator[tuple[str, int]]:
    """Gives the address and the process id of a service with an empty weights directory."""
    weights_dir = tempfile.mkdtemp(prefix="hintwise-push-weights-")
    command = [sys.executable, "-m", "service", "--model", str(model), "--weights-dir", weights_dir]
    process = subprocess.Popen(
        [*command, "--exit-with-parent"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("listening on "):
            raise RuntimeError(f"the service did not start: {line!r}")
        yield line.split()[-1], process.pid
    finally:
        process.terminate()
        process.wait(timeout=LIMIT_S)
        shutil.rmtree(weights_dir)


def _change(policy: Policy) -> None:
    with torch.no_grad():
        policy.value_head.bias.add_(1.0)


def _push(client: Client, policy: Policy) -> dict[str, float]:
    """Returns the seconds of one push, in its parts; it has become durable by then."""
    _change(policy)
    version = client.weights().policy_version
    started = time.perf_counter()
    data = dump(policy)
    dumped = time.perf_counter()
    client.put_weights(data, if_match=version)
    answered = time.perf_counter()
    while not client.weights().durable:
        if time.perf_counter() - answered > LIMIT_S:
            raise RuntimeError(f"the push was not durable within {LIMIT_S:g} s")
        time.sleep(0.002)
    return {
        "dump_s": dumped - started,
        "put_s": answered - dumped,
        "push_s": answered - started,
        "durable_after_s": time.perf_counter() - answered,
    }


def _push_times(client: Client, policy: Policy, rounds: int) -> dict[str, Any]:
    _push(client, policy)  # the first one meets memory that nobody has used yet
    measured = [_push(client, policy) for _ in range(rounds)]
    return {
        name: {"median": round(statistics.median(values), 3), "max": round(max(values), 3)}
        for name in measured[0]
        for values in [[each[name] for each in measured]]
    }


def _act_delays(url: str, client: Client, policy: Policy, rounds: int) -> dict[str, Any]:
    """Returns how long lone requests take without and with pushes; each turn has both, one after the other."""
    data = dump(policy)
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    num_pushes = 0
    for _ in range(rounds):
        with _asking(url) as taken:
            time.sleep(PAUSE_S)
        seconds["without"] += taken
        with _asking(url) as taken:
            finish = time.perf_counter() + PAUSE_S
            while time.perf_counter() < finish:
                client.put_weights(data, if_match=client.weights().policy_version)
                num_pushes += 1
        seconds["with"] += taken
    batch_s = _batch_seconds(client, url)
    told: dict[str, Any] = {"pushes": num_pushes, "batch_s": round(batch_s, 4)}
    for name, values in seconds.items():
        told[name] = {
            "requests": len(values),
            "median_s": round(statistics.median(values), 4),
            "p99_s": round(statistics.quantiles(values, n=100)[98], 4),
            "max_s": round(max(values), 4),
        }
    extra_s = told["with"]["max_s"] - told["without"]["median_s"]
    told["longest_delay_in_batches"] = round(extra_s / batch_s, 2)
    return told


@contextmanager
def _asking(url: str) -> Iterator[list[float]]:
    """Has a process of its own ask without pause inside the block; its seconds are listed after it."""
    taken: list[float] = []
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    asker = multiprocessing.get_context("spawn").Process(target=_ask, args=(url, theirs), daemon=True)
    asker.start()
    theirs.close()  # so that its end is noticed here
    if not ours.poll(LIMIT_S):
        raise RuntimeError("the asking process did not start")
    ours.recv()
    try:
        yield taken
        ours.send("enough")
        if not ours.poll(LIMIT_S):
            raise RuntimeError("the asking process did not answer")
        taken.extend(ours.recv())
    finally:
        asker.kill()
        asker.join(LIMIT_S)


def _ask(url: str, told: Connection) -> None:
    taken: list[float] = []
    generator = random.Random()
    with Client(url, timeout_s=LIMIT_S) as client:
        client.act(random_observations(1, generator), ACTIONS)
        told.send("ready")
        while not told.poll():
            started = time.perf_counter()
            client.act(random_observations(1, generator), ACTIONS)
            taken.append(time.perf_counter() - started)
    told.send(taken)


def _batch_seconds(client: Client, url: str) -> float:
    """Returns the mean time of a lone request's batch on the model thread, while nobody pushes."""

    def so_far() -> tuple[float, float]:
        text = httpx.get(f"{url}/metrics", timeout=LIMIT_S).text
        found = re.findall(r'^hintwise_batch_seconds_(?:sum|count){kind="act"} (\S+)$', text, re.MULTILINE)
        count, total = map(float, found)
        return count, total

    generator = random.Random()
    count, total = so_far()
    for _ in range(20):
        client.act(random_observations(1, generator), ACTIONS)
    count_after, total_after = so_far()
    return (total_after - total) / (count_after - count)


def _memory(client: Client, pid: int, policy: Policy, swaps: int) -> dict[str, Any]:
    """Returns the resident megabytes of the service, anonymous memory and mapped files."""
    told: dict[str, Any] = {"model_mb": round(len(dump(policy)) / 1e6, 1)}
    for number in range(1, swaps + 1):
        _push(client, policy)
        if number in (NUM_WARM_SWAPS, swaps):
            told[f"after_{number}_swaps_mb"] = round(_resident_bytes(pid) / 1e6, 1)
    return told


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    if found is None:
        raise RuntimeError(f"/proc/{pid}/status tells no memory")
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
