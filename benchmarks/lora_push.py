"""Measures a push of adapters against one of whole weights, both of GPT-2's size (124M parameters, random).

    python -m benchmarks.lora_push [--tokenizer DIR] [--rank 8] [--rounds 7]

| measured   | how                                                                                      |
| ---------- | ---------------------------------------------------------------------------------------- |
| whole      | `dump` of a policy in memory, then `put_weights` until answered                          |
| adapters   | the same of adapters and heads, of a policy that has them                                |
| in parts   | `dump_s` until the bytes are made, `put_s` until the service answers with them           |
| first      | the one push of adapters after whole weights, for which the service reads its model again |
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config

from benchmarks import results_file
from benchmarks.processes import running_service
from benchmarks.random_models import random_gpt2
from hintwise import Client
from hintwise.language_model import load_language_model
from hintwise.model_names import EMBEDDED_DIR
from hintwise.policy import Policy
from worker.lora_settings import LoraSettings
from worker.trained_weights import trained_weights

LIMIT_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="directory of a tokenizer; default: the embedded model's")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with (
        random_gpt2(GPT2Config(), str(arguments.tokenizer or EMBEDDED_DIR)) as directory,
        running_service(directory) as port,
        Client(f"http://127.0.0.1:{port}", timeout_s=LIMIT_S) as client,
    ):
        measured = measure(client, directory, arguments.rank, arguments.rounds)
    print(results_file.write("lora_push", {"rank": arguments.rank, "rounds": arguments.rounds, **measured}).read_text())


def measure(client: Client, model: str, rank: int, rounds: int) -> dict[str, Any]:
    """Returns bytes and seconds of pushes of both kinds, and their ratios.

    Args:
        client: Of a service that loaded `model`.
        model: A directory.
        rank: Of the adapters, at least 1.
        rounds: Pushes of each kind, besides one of each that is not counted.
    """
    whole, adapters = (_dumper(model, each) for each in (0, rank))
    _push(client, whole)  # the first one meets memory that nobody has used yet
    told: dict[str, Any] = {"whole": _summary([_push(client, whole) for _ in range(rounds)])}
    told["first_after_whole"] = _summary([_push(client, adapters)])
    told["adapters"] = _summary([_push(client, adapters) for _ in range(rounds)])
    told["ratio"] = {
        "bytes": round(told["whole"]["bytes"] / told["adapters"]["bytes"], 1),
        "push_s": round(told["whole"]["push_s"]["median"] / told["adapters"]["push_s"]["median"], 1),
    }
    return told


def _dumper(model: str, rank: int) -> Callable[[], bytes]:
    """Returns what makes the bytes of a push, other ones each time."""
    language_model = load_language_model(model)
    policy = Policy(language_model)
    weights = trained_weights(policy, language_model, LoraSettings(lora_rank=rank), seed=1)

    def dump() -> bytes:
        with torch.no_grad():
            policy.value_head.bias.add_(1.0)
        return weights.dump({})

    return dump


def _push(client: Client, dump: Callable[[], bytes]) -> dict[str, float]:
    version = client.weights().policy_version
    started = time.perf_counter()
    data = dump()
    dumped = time.perf_counter()
    client.put_weights(data, if_match=version)
    answered = time.perf_counter()
    times = {"dump_s": dumped - started, "put_s": answered - dumped, "push_s": answered - started}
    return {"bytes": len(data), **times}


def _summary(pushes: list[dict[str, float]]) -> dict[str, Any]:
    told: dict[str, Any] = {"bytes": int(pushes[0]["bytes"])}
    for name in ("dump_s", "put_s", "push_s"):
        values = [push[name] for push in pushes]
        told[name] = {"median": round(statistics.median(values), 4), "max": round(max(values), 4)}
    return told


if __name__ == "__main__":
    main()
