"""What HTTP, JSON, tokenization and batching cost on top of the forward pass, and what a naive service does.

    python -m benchmarks.http [--model embedded --model random:4x256]

Rounds alternate between all that is measured, so that a slow minute hits everything:

    bare            Policy.forward on batches that were tokenized and collated beforehand, one thread
    service         requests from light clients (requests made beforehand) over loopback, one thread for the models
    naive           the same requests to benchmarks/naive_service.py, one forward pass a request
    per_candidate   the same with one forward pass for each observation and candidate

at 64 observations a request from 2 clients, and at one observation a request from 64 clients (not bare). Texts
are random, so that the service's cache of tokenized prompts does not help it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks import results_file
from benchmarks.http_load import rate_of_few, rate_of_many
from benchmarks.light_client import ACTIONS, TASK, LightClient, act_request, random_observations, seconds_of_each
from benchmarks.processes import running_naive_service, running_service
from benchmarks.random_models import model_directory
from hintwise import scoring
from hintwise.action_batch import Batch, collate
from hintwise.language_model import load_language_model
from hintwise.policy import Policy
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder

NUM_CLIENTS = 2
OBSERVATIONS = 64
NUM_SMALL_CLIENTS = 64
NUM_COMPARED = 32
MAX_DIFFERENCE = 1e-4
"""Between log-probabilities of the services: they must have done the same job."""

Round = dict[str, float]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    tables = [_measured(model, arguments) for model in arguments.model or ["embedded"]]
    measured = {
        "seed": arguments.seed,
        "client": "benchmarks/http_load.py",
        "num_clients": NUM_CLIENTS,
        "observations_per_request": OBSERVATIONS,
        "num_small_clients": NUM_SMALL_CLIENTS,
        "naive_handler": arguments.naive_handler,
        "models": tables,
    }
    print(results_file.write("http", measured).read_text())


def _measured(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the summary of one model."""
    rounds: list[Round] = []
    with ExitStack() as stack:
        directory = stack.enter_context(model_directory(name))
        handler = ("--handler", arguments.naive_handler)
        ports = {
            "service": stack.enter_context(running_service(directory)),
            "naive": stack.enter_context(running_naive_service(directory, *handler)),
            "per_candidate": stack.enter_context(running_naive_service(directory, *handler, "--per-candidate")),
        }
        difference = _largest_difference(ports, random.Random(arguments.seed))
        model = load_language_model(directory)
        policy, encoder = Policy(model), TextEncoder(model.tokenizer, max_tokens=model.max_tokens)
        for number in range(arguments.rounds + 1):
            measured = _round(policy, encoder, ports, random.Random(arguments.seed + number), arguments.seconds)
            if number:  # the first round warms all up
                rounds.append(measured)
                print(json.dumps(measured), file=sys.stderr)
    return _summary(name, rounds, difference)


def _round(
    policy: Policy, encoder: TextEncoder, ports: dict[str, int], generator: random.Random, seconds: float
) -> Round:
    measured = {"bare_observations_per_s": _bare_rate(policy, encoder, generator, seconds)}
    for name, port in ports.items():
        seed = generator.randrange(10**9)
        measured[f"{name}_observations_per_s"] = rate_of_few(
            port, seed, seconds, num_clients=NUM_CLIENTS, size=OBSERVATIONS
        )
    for name, port in ports.items():
        small = rate_of_many(port, generator, seconds, num_clients=NUM_SMALL_CLIENTS)
        measured[f"{name}_small_requests_per_s"] = small.requests_per_s
        measured[f"{name}_small_client_ms"] = small.client_ms
    measured["bare_lone_ms"] = _bare_lone_ms(policy, encoder, generator)
    measured["service_lone_ms"] = _service_lone_ms(ports["service"], generator)
    return measured


def _summary(name: str, rounds: list[Round], difference: float) -> dict[str, Any]:
    def median_ratio(numerator: str, denominator: str) -> float:
        return statistics.median(measured[numerator] / measured[denominator] for measured in rounds)

    large, small = "service_observations_per_s", "service_small_requests_per_s"
    return {
        "model": name,
        "service_rate_over_bare_rate": median_ratio(large, "bare_observations_per_s"),
        "lone_request_adds_ms": statistics.median(each["service_lone_ms"] - each["bare_lone_ms"] for each in rounds),
        "service_rate_over_naive_rate": median_ratio(large, "naive_observations_per_s"),
        "service_rate_over_per_candidate_rate": median_ratio(large, "per_candidate_observations_per_s"),
        "small_service_rate_over_naive_rate": median_ratio(small, "naive_small_requests_per_s"),
        "small_service_rate_over_per_candidate_rate": median_ratio(small, "per_candidate_small_requests_per_s"),
        "largest_log_prob_difference": difference,
        "medians": {key: statistics.median(measured[key] for measured in rounds) for key in rounds[0]},
        "rounds": rounds,
    }


def _largest_difference(ports: dict[str, int], generator: random.Random) -> float:
    """Returns how far the log-probabilities of any two services are apart; raises when they disagree."""
    observations = random_observations(NUM_COMPARED, generator)
    answers = {name: _log_probs(port, observations) for name, port in ports.items()}
    difference = max(float((answers["service"] - log_probs).abs().max()) for log_probs in answers.values())
    if not difference <= MAX_DIFFERENCE:
        raise RuntimeError(f"log-probabilities differ by {difference}; the services do not do the same job")
    return difference


def _log_probs(port: int, observations: list[str]) -> torch.Tensor:
    client = LightClient(port)
    results = json.loads(client.send(act_request(port, observations)))["results"]
    client.close()
    return torch.tensor([result["log_probs"] for result in results])


def _batches(policy: Policy, encoder: TextEncoder, generator: random.Random, size: int, count: int) -> list[Batch]:
    """Returns batches as the service makes them: many rows leave the task out, a lone one does not."""
    phrases = encoder.phrases(ACTIONS)
    batches = []
    for _ in range(count):
        texts = [action_prompt(text, task=TASK) for text in random_observations(size, generator)]
        prompts = encoder.scored(texts, [phrases] * size)
        [group] = scoring.group(prompts, with_prefix=policy.takes_prefix)
        batches.append(collate([each.prompt for each in prompts], [phrases] * size, prefix_length=len(group.prefix)))
    return batches


def _bare_seconds(policy: Policy, batches: list[Batch]) -> list[float]:
    durations = []
    with torch.inference_mode():
        shared = batches[0].rows.prefix_ids
        prefix = policy.encode_prefix(tuple(shared.tolist())) if len(shared) else None
        for batch in batches:
            started = time.perf_counter()
            policy(batch, prefix)
            durations.append(time.perf_counter() - started)
    return durations


def _bare_rate(policy: Policy, encoder: TextEncoder, generator: random.Random, seconds: float) -> float:
    batches = _batches(policy, encoder, generator, OBSERVATIONS, 50)
    durations: list[float] = []
    while sum(durations) < seconds:
        durations += _bare_seconds(policy, batches)
    return OBSERVATIONS * len(durations) / sum(durations)


def _bare_lone_ms(policy: Policy, encoder: TextEncoder, generator: random.Random) -> float:
    return statistics.median(_bare_seconds(policy, _batches(policy, encoder, generator, 1, 300))) * 1e3


def _service_lone_ms(port: int, generator: random.Random) -> float:
    client = LightClient(port)
    requests = [act_request(port, random_observations(1, generator)) for _ in range(300)]
    durations = seconds_of_each(client, requests)
    client.close()
    return statistics.median(durations) * 1e3


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", action="append", help="the policy's language model, or random:LAYERSxWIDTH; more than once"
    )
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one to warm up")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each throughput measurement")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--naive-handler", choices=("async", "sync"), default="async", help="the naive service's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
