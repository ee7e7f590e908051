"""What `POST /guidance` is worth beside transformers' `generate`, at 64 distinct states a request from 2 clients.

    python -m benchmarks.guidance [--model embedded]

Three services run side by side, one thread for each model, and take turns in every round:

    service      ours
    batched      benchmarks/naive_guidance.py: one `generate` for all states of a request, padded on the left
    per_state    the same with one `generate` for each state

Each round asks all three about the same new states, world after world, at temperature 0 and at 0.7. No state comes
twice, so that nothing kept helps; a stream in which states do repeat is measured apart. At temperature 0 the hints
must be the same, by the rule of benchmarks/same_hints.py. `--model` is a trained model: random weights write until
they are full or loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import islice
from threading import Barrier
from typing import Any, NamedTuple

import torch

from benchmarks import results_file
from benchmarks.guidance_states import (
    FIRST_SEED,
    MAX_NEW_TOKENS,
    REPEATING,
    STATES,
    WORLDS,
    Question,
    questions,
    repeating_questions,
)
from benchmarks.light_client import LightClient, post_request
from benchmarks.processes import running_naive_service, running_service
from benchmarks.same_hints import Agreement, WrittenText, compare
from hintwise.language_model import LanguageModel, load_language_model
from hintwise.model_names import LANGUAGE_DIR
from hintwise.prompts import guidance_prompt

NUM_CLIENTS = 2
TEMPERATURES = (0.0, 0.7)
SERVICES = ("service", "batched", "per_state")
Rates = dict[str, float]
"""States per second by service."""
Round = dict[str, dict[str, Rates]]
"""By temperature, and there by world; `all` holds one after another."""


class Asked(NamedTuple):
    """What a service answered, and in how long."""

    seconds: float
    bodies: list[bytes]  # in the order of the questions


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    model = load_language_model(arguments.model)
    supply = _supply(arguments)
    stream = repeating_questions(NUM_CLIENTS * arguments.requests * (arguments.rounds + 1), seed=arguments.seed)
    repeating = iter(stream)
    agreement, rounds, of_stream = Agreement(), [], []
    ask = partial(_rates, arguments=arguments, model=model, agreement=agreement)
    with ExitStack() as stack:
        ports = _started(stack, arguments)
        for number in range(arguments.rounds + 1):
            measured, repeated = _round(partial(ask, ports), supply), ask(ports, repeating, temperature=0.0)
            if number:  # the first round warms all up
                rounds.append(measured)
                of_stream.append(repeated)
                print(json.dumps(measured), json.dumps(repeated), file=sys.stderr)
    told = {
        **_summary(arguments, model, agreement, rounds),
        "repeating": {"world": REPEATING.name, "distinct_share": _distinct_share(stream), **_medians(of_stream)},
        "rounds": rounds,
        "repeating_rounds": of_stream,
    }
    print(results_file.write("guidance", told).read_text())


def _supply(arguments: argparse.Namespace) -> dict[str, Iterator[Question]]:
    """Returns the questions of each world; each is taken once."""
    count = NUM_CLIENTS * arguments.requests * len(TEMPERATURES) * (arguments.rounds + 1)
    return {world.name: iter(questions(world, count, seed=arguments.seed)) for world in WORLDS}


def _started(stack: ExitStack, arguments: argparse.Namespace) -> dict[str, int]:
    """Returns the port of each service."""
    settings = {"HINTWISE_GUIDANCE": arguments.model, "HINTWISE_NUM_THREADS": "1"}
    directory = str(LANGUAGE_DIR) if arguments.model == "embedded" else arguments.model
    naive = partial(running_naive_service, directory, "--handler", arguments.naive_handler)
    return {
        "service": stack.enter_context(running_service("embedded", settings=settings)),
        "batched": stack.enter_context(naive(module="naive_guidance")),
        "per_state": stack.enter_context(naive("--per-state", module="naive_guidance")),
    }


def _round(ask: Callable[..., Rates], supply: dict[str, Iterator[Question]]) -> Round:
    measured: Round = {}
    for temperature in TEMPERATURES:
        of_worlds = {world: ask(unasked, temperature=temperature) for world, unasked in supply.items()}
        measured[str(temperature)] = {**of_worlds, "all": _one_after_another(of_worlds.values())}
    return measured


def _rates(
    ports: dict[str, int],
    unasked: Iterator[Question],
    *,
    temperature: float,
    arguments: argparse.Namespace,
    model: LanguageModel,
    agreement: Agreement,
) -> Rates:
    """Returns how fast each service answers the next questions; at temperature 0 their hints are compared."""
    asked = list(islice(unasked, NUM_CLIENTS * arguments.requests))
    bodies = [question.body(temperature=temperature, seed=k) for k, question in enumerate(asked)]
    # The slowest is asked the first of these questions alone: it would take most of the time.
    counts = {**dict.fromkeys(SERVICES, len(bodies)), "per_state": NUM_CLIENTS}
    answers = {name: _answered(port, bodies[: counts[name]]) for name, port in ports.items()}
    if not temperature:
        _compare(model, asked, answers, agreement)
    return {name: STATES * counts[name] / each.seconds for name, each in answers.items()}


def _answered(port: int, bodies: Sequence[dict[str, object]]) -> Asked:
    """Asks from all clients at once, each question once; a client sends its next when it has its answer."""
    requests = [post_request(port, "/guidance", body) for body in bodies]
    clients = [LightClient(port) for _ in range(NUM_CLIENTS)]
    begin = Barrier(NUM_CLIENTS + 1)

    def ask(number: int) -> list[bytes]:
        begin.wait()
        return [clients[number].send(request) for request in requests[number::NUM_CLIENTS]]

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        parts = [pool.submit(ask, number) for number in range(NUM_CLIENTS)]
        begin.wait()
        started = time.perf_counter()
        told = [part.result() for part in parts]
        seconds = time.perf_counter() - started
    for client in clients:
        client.close()
    return Asked(seconds, [told[k % NUM_CLIENTS][k // NUM_CLIENTS] for k in range(len(bodies))])


def _compare(model: LanguageModel, asked: Sequence[Question], answers: dict[str, Asked], agreement: Agreement) -> None:
    """Counts how the hints of both naive services agree with ours."""
    ours = [_hints(body) for body in answers["service"].bodies]
    for name in ("batched", "per_state"):
        for question, our, body in zip(asked, ours, answers[name].bodies, strict=False):
            prompts = [guidance_prompt(text, task=question.task) for text in question.texts]
            written = [WrittenText(hint["text"], hint["finish_reason"]) for hint in our]
            compare(model, prompts, written, [hint["text"] for hint in _hints(body)], agreement)


def _hints(body: bytes) -> list[dict[str, Any]]:
    """Returns the one hint of each result."""
    return [result["hints"][0] for result in json.loads(body)["results"]]


def _one_after_another(rates: Collection[Rates]) -> Rates:
    """Returns the rates over several worlds with as many states each."""
    return {name: len(rates) / sum(1 / each[name] for each in rates) for name in SERVICES}


def _summary(
    arguments: argparse.Namespace, model: LanguageModel, agreement: Agreement, rounds: Sequence[Round]
) -> dict[str, Any]:
    return {
        "seed": arguments.seed,
        "first_environment_seed": FIRST_SEED,
        "model": f"{model.architecture}, sha256 {model.sha256}",
        "naive_handler": arguments.naive_handler,
        "num_clients": NUM_CLIENTS,
        "states_per_request": STATES,
        "max_new_tokens": MAX_NEW_TOKENS,
        "hints_at_temperature_0": asdict(agreement),
        "temperatures": {
            temperature: {world: _medians([each[temperature][world] for each in rounds]) for world in worlds}
            for temperature, worlds in rounds[0].items()
        },
    }


def _distinct_share(asked: Sequence[Question]) -> float:
    texts = [text for question in asked for text in question.texts]
    return len(set(texts)) / len(texts)


def _medians(rounds: Sequence[Rates]) -> Rates:
    """Returns medians over rounds, of ratios and of states per second."""
    ratios = {
        f"service_over_{name}": statistics.median(each["service"] / each[name] for each in rounds)
        for name in ("per_state", "batched")
    }
    return ratios | {f"{name}_states_per_s": statistics.median(each[name] for each in rounds) for name in SERVICES}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="a trained language model: embedded, or a directory")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one to warm up")
    parser.add_argument("--requests", type=int, default=4, help="of each client, each time a service has its turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--naive-handler", choices=("async", "sync"), default="async", help="the naive services'")
    return parser.parse_args()


if __name__ == "__main__":
    main()
