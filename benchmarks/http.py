"""What HTTP, JSON, tokenization and batching cost on top of the forward pass.

    python -m benchmarks.http

Rounds alternate between a bare loop and the service, so that a slow minute hits both:

    bare      Policy.forward on batches that were tokenized and collated beforehand, one thread
    service   the same number of observations a request, from light clients (a blocking socket,
              requests made beforehand), over loopback, with one thread for the models

Texts are random, so that the service's cache of tokenized prompts does not help it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks import results_file
from benchmarks.light_client import ACTIONS, TASK, LightClient, act_request, random_observations, seconds_of_each
from hintwise.action_batch import PhraseBatch, collate
from hintwise.language_model import load_language_model
from hintwise.policy import Policy
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder

NUM_CLIENTS = 2
OBSERVATIONS = 64


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    model = load_language_model(arguments.model)
    policy, encoder = Policy(model), TextEncoder(model.tokenizer, max_tokens=model.max_tokens)
    rounds: list[dict[str, float]] = []
    with _service(arguments.model) as port:
        for number in range(arguments.rounds + 1):
            generator = random.Random(arguments.seed + number)
            measured = {
                "bare_observations_per_s": _bare_rate(policy, encoder, generator, arguments.seconds),
                "service_observations_per_s": _service_rate(port, generator, arguments.seconds),
                "bare_lone_ms": _bare_lone_ms(policy, encoder, generator),
                "service_lone_ms": _service_lone_ms(port, generator),
            }
            if number:  # the first round warms both up
                rounds.append(measured)
                print(json.dumps(measured), file=sys.stderr)
    path = results_file.write("http", _summary(arguments, rounds))
    print(path.read_text())


def _summary(arguments: argparse.Namespace, rounds: list[dict[str, float]]) -> dict[str, Any]:
    medians = {name: statistics.median(measured[name] for measured in rounds) for name in rounds[0]}
    rate = [measured["service_observations_per_s"] / measured["bare_observations_per_s"] for measured in rounds]
    added = [measured["service_lone_ms"] - measured["bare_lone_ms"] for measured in rounds]
    return {
        "model": arguments.model,
        "seed": arguments.seed,
        "client": "benchmarks/light_client.py",
        "num_clients": NUM_CLIENTS,
        "observations_per_request": OBSERVATIONS,
        "service_rate_over_bare_rate": statistics.median(rate),
        "lone_request_adds_ms": statistics.median(added),
        "medians": medians,
        "rounds": rounds,
    }


def _batches(encoder: TextEncoder, generator: random.Random, size: int, count: int) -> list[PhraseBatch]:
    phrases = encoder.phrases(ACTIONS)
    texts = [random_observations(size, generator) for _ in range(count)]
    prompts = [[encoder.encode(action_prompt(text, task=TASK)) for text in batch] for batch in texts]
    return [collate(batch, [phrases] * size) for batch in prompts]


def _bare_seconds(policy: Policy, batches: list[PhraseBatch]) -> list[float]:
    durations = []
    with torch.inference_mode():
        for batch in batches:
            started = time.perf_counter()
            policy(batch)
            durations.append(time.perf_counter() - started)
    return durations


def _bare_rate(policy: Policy, encoder: TextEncoder, generator: random.Random, seconds: float) -> float:
    batches = _batches(encoder, generator, OBSERVATIONS, 50)
    durations: list[float] = []
    while sum(durations) < seconds:
        durations += _bare_seconds(policy, batches)
    return OBSERVATIONS * len(durations) / sum(durations)


def _bare_lone_ms(policy: Policy, encoder: TextEncoder, generator: random.Random) -> float:
    return statistics.median(_bare_seconds(policy, _batches(encoder, generator, 1, 300))) * 1e3


def _service_lone_ms(port: int, generator: random.Random) -> float:
    client = LightClient(port)
    requests = [act_request(port, random_observations(1, generator)) for _ in range(300)]
    durations = seconds_of_each(client, requests)
    client.close()
    return statistics.median(durations) * 1e3


def _service_rate(port: int, generator: random.Random, seconds: float) -> float:
    """Returns observations answered per second while every client is busy."""
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(NUM_CLIENTS), context.Queue()
    arguments = [(port, generator.randrange(10**9), seconds, start, answers) for _ in range(NUM_CLIENTS)]
    clients = [context.Process(target=_client, args=each) for each in arguments]
    for client in clients:
        client.start()
    counted = [answers.get(timeout=120) for _ in clients]
    for client in clients:
        client.join(timeout=60)
    return sum(counted)


def _client(port: int, seed: int, seconds: float, start: Any, answers: Any) -> None:
    generator = random.Random(seed)
    requests = [act_request(port, random_observations(OBSERVATIONS, generator)) for _ in range(int(seconds * 150))]
    client = LightClient(port)
    start.wait(timeout=60)
    started, sent = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < seconds:
        client.send(requests[sent % len(requests)])
        sent += 1
    answers.put(sent * OBSERVATIONS / elapsed)
    client.close()


@contextmanager
def _service(model: str) -> Iterator[int]:
    """Runs the service; yields its port."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "service", "--model", model, "--weights-dir", directory, "--exit-with-parent"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline() if process.stdout else ""  # empty when the service could not start
            yield int(line.rpartition(":")[2])
        finally:
            process.terminate()
            process.wait(timeout=60)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="the policy's language model")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one to warm up")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each throughput measurement")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
