"""What it is worth that equal prompts are scored once, on streams that a learner really meets.

    python -m benchmarks.repeats

The recorded streams of benchmarks/data/doorkey_stream.json.gz are asked in order, in requests of 8 (a step of 8
environments) and of 64, twice each a round:

    forgetful      every prompt is scored: deduplication off, no answers kept
    remembering    as the service does it: equal prompts of a batch once, and answers kept

once as PolicyRunner.decide, in processor time and at two sizes of model, and once over HTTP, in wall time. Every
remembering measurement begins with nothing remembered. The answers must be the same: the same actions with the
same seeds, and log-probabilities within the parity rule.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks import results_file
from benchmarks.doorkey_stream import RecordedStream, read_streams
from benchmarks.light_client import LightClient, act_request
from benchmarks.processes import running_service
from benchmarks.random_models import model_directory
from benchmarks.runners import (
    FORGETFUL_SETTINGS,
    forgetful_runner,
    remembering_runner,
    sampled_question,
    scored_prompts,
)
from hintwise.language_model import LanguageModel, load_language_model
from hintwise.prompts import action_prompt
from service.policy_runner import PolicyRunner

MODELS = ("embedded", "random:4x256")
REQUEST_SIZES = (8, 64)
TOLERANCE = 1e-5
"""Of log-probabilities, times 1 + |log-probability|: the parity rule of small models."""


class Answer(NamedTuple):
    """What one observation was answered."""

    action: int
    log_probs: list[float]


class Measured(NamedTuple):
    """A stream asked once from beginning to end."""

    seconds: float
    answers: list[Answer]


Ask = Callable[[], Measured]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    streams = {name: _shortened(stream, arguments.max_observations) for name, stream in read_streams().items()}
    tables = []
    for name in arguments.model or MODELS:
        with model_directory(name) as directory:
            model = load_language_model(directory)
            for stream_name, stream in streams.items():
                for size in REQUEST_SIZES:
                    label = {"model": name, "stream": stream_name, "request_size": size}
                    forgetful, remembering = _through_runner(model, stream, size)
                    tables.append(_compared({**label, "through": "decide"}, stream, forgetful, remembering, arguments))
            if name == "embedded":
                tables += [_over_http(name, stream_name, stream, arguments) for stream_name, stream in streams.items()]
    print(results_file.write("repeats", {"rounds": arguments.rounds, "tables": tables}).read_text())


def _through_runner(model: LanguageModel, stream: RecordedStream, size: int) -> tuple[Ask, Ask]:
    """Returns what asks a stream in requests of `size`: forgetful, and remembering with a fresh memory each time."""
    forgetful = forgetful_runner(model)
    return (
        lambda: _decided(forgetful, stream, size),
        lambda: _decided(remembering_runner(model), stream, size),
    )


def _decided(runner: PolicyRunner, stream: RecordedStream, size: int) -> Measured:
    candidates = runner.candidates(stream.actions)
    texts = [action_prompt(text, task=stream.task) for text in stream.texts]
    encoded = scored_prompts(runner, texts, candidates)
    items = [sampled_question(encoded[index], seed) for seed, index in enumerate(stream.order)]
    started = time.process_time()
    decisions = [each for start in range(0, len(items), size) for each in runner.decide(items[start : start + size])]
    seconds = time.process_time() - started
    return Measured(seconds, [Answer(each.action, each.scores.log_probs) for each in decisions])


def _over_http(name: str, stream_name: str, stream: RecordedStream, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the comparison of two services, asked by one client in requests of 8.

    A service remembers from one round to the next, so each round of each is a service of its own.
    """
    size = REQUEST_SIZES[0]
    return _compared(
        {"model": name, "stream": stream_name, "request_size": size, "through": "http"},
        stream,
        lambda: _answered(name, stream, size, FORGETFUL_SETTINGS),
        lambda: _answered(name, stream, size, {}),
        arguments,
    )


def _answered(model: str, stream: RecordedStream, size: int, settings: dict[str, str]) -> Measured:
    observations = stream.observations
    with running_service(model, settings=settings) as port:
        requests = [
            act_request(
                port,
                observations[start : start + size],
                actions=stream.actions,
                task=stream.task,
                seed=list(range(start, min(start + size, len(observations)))),
            )
            for start in range(0, len(observations), size)
        ]
        client = LightClient(port)
        client.send(act_request(port, ["warming up"] * size))
        started = time.perf_counter()
        bodies = [client.send(request) for request in requests]
        seconds = time.perf_counter() - started
        client.close()
    results = [result for body in bodies for result in json.loads(body)["results"]]
    return Measured(seconds, [Answer(result["action"], result["log_probs"]) for result in results])


def _compared(
    label: dict[str, Any], stream: RecordedStream, forgetful: Ask, remembering: Ask, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Returns how much faster a stream is answered by who remembers; the order of the two changes every round."""
    rounds, differences = [], []
    for number in range(arguments.rounds):
        ways = [("forgetful", forgetful), ("remembering", remembering)]
        random.Random(number).shuffle(ways)
        measured = {name: ask() for name, ask in ways}
        differences.append(_difference(measured["forgetful"].answers, measured["remembering"].answers))
        rounds.append({f"{name}_s": each.seconds for name, each in measured.items()})
    told = {
        **label,
        "observations": len(stream.order),
        "distinct_share": stream.distinct_share,
        "remembering_rate_over_forgetful_rate": statistics.median(
            each["forgetful_s"] / each["remembering_s"] for each in rounds
        ),
        "largest_log_prob_difference": max(differences),
        "rounds": rounds,
    }
    print(json.dumps({key: value for key, value in told.items() if key != "rounds"}), file=sys.stderr)
    return told


def _difference(some: Sequence[Answer], others: Sequence[Answer]) -> float:
    """Returns the largest difference of log-probabilities; raises where an answer is not the same."""
    if [each.action for each in some] != [each.action for each in others]:
        raise RuntimeError("the actions differ; what is remembered is not what would be computed")
    left, right = (torch.tensor([each.log_probs for each in answers]) for answers in (some, others))
    differences = (left - right).abs()
    if not bool((differences <= TOLERANCE * (1 + left.abs())).all()):
        raise RuntimeError(f"log-probabilities differ by {float(differences.max())}, more than the parity rule allows")
    return float(differences.max())


def _shortened(stream: RecordedStream, max_observations: int | None) -> RecordedStream:
    """Returns the beginning of a stream, to try the script out; its distinct share is another."""
    if max_observations is None:
        return stream
    order = stream.order[:max_observations]
    return RecordedStream(stream.env_id, stream.task, stream.actions, stream.texts[: max(order) + 1], order)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", help="a model, or random:LAYERSxWIDTH; more than once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-observations", type=int, help="only the beginning of each stream")
    return parser.parse_args()


if __name__ == "__main__":
    main()
