"""How many CPU threads a forward pass gets where the operator names no number.

More threads are not simply better: a small model loses more to handing work out than it gains, and every core
that it takes is one less for the event loop and for a worker beside it. So the service measures at start, from one
thread up by doubling, and takes the fewest that are nearly as fast as the fastest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog
import torch

from hintwise.action_batch import ScoredPrompt
from hintwise.cores import usable_cores
from hintwise.prompts import action_prompt
from hintwise.scoring import score_distinct
from service.policy_runner import PolicyRunner

NEARLY = 1.3
"""Times the fastest: fewer threads may be this much slower."""
NUM_PROMPTS = 4
MAX_REPETITIONS = 5
ENOUGH_S = 0.1
"""Of one thread count; a repetition more would only delay the start."""
log = structlog.get_logger("service")


def measured_num_threads(runner: PolicyRunner) -> int:
    """Returns the number of threads for the policy's forward passes, and leaves torch set to it.

    Call it before the inference thread runs: a thread takes torch's number over when it first computes.

    Args:
        runner: Whose policy is timed, on prompts such as a vector of CartPole environments sends.
    """
    if runner.language_model.device.type != "cpu":
        torch.set_num_threads(1)
        return 1
    prompts = _prompts(runner)
    torch.set_num_threads(1)
    _forward(runner, prompts[:1])  # the first forward of a process is slow

    def seconds(count: int) -> float:
        torch.set_num_threads(count)
        return _fastest(lambda: _forward(runner, prompts))

    times = _times(seconds, usable_cores())
    chosen = fewest_nearly_as_fast(times)
    torch.set_num_threads(chosen)
    log.info(
        "measured thread counts",
        num_threads=chosen,
        forward_ms={str(count): round(taken * 1e3, 2) for count, taken in sorted(times.items())},
    )
    return chosen


def fewest_nearly_as_fast(times: dict[int, float]) -> int:
    """Returns the smallest thread count whose time is at most `NEARLY` times the shortest.

    Args:
        times: Seconds of a forward by thread count; at least one.
    """
    limit = NEARLY * min(times.values())
    return min(count for count, taken in times.items() if taken <= limit)


def _times(seconds: Callable[[int], float], cores: int) -> dict[int, float]:
    """Returns the seconds of each thread count tried: one, two, four, to all cores.

    Where more threads gain nothing, still more are not tried: beside a busy neighbour they may take a hundred times
    as long, since all of them wait for the one that has no core.
    """
    times = {1: seconds(1)}
    count = 1
    while count < cores:
        count = min(2 * count, cores)
        best = min(times.values())
        times[count] = seconds(count)
        if times[count] >= best:
            break
    return times


def _fastest(forward: Callable[[], object]) -> float:
    """Returns the seconds of the fastest of a few calls: what delays one of them is somebody else."""
    started = time.perf_counter()
    best = float("inf")
    for _ in range(MAX_REPETITIONS):
        begun = time.perf_counter()
        forward()
        now = time.perf_counter()
        best = min(best, now - begun)
        if now - started > ENOUGH_S:
            break
    return best


def _prompts(runner: PolicyRunner) -> list[ScoredPrompt]:
    """Returns a batch such as a vector of CartPole environments asks."""
    head = runner.policy.head_actions
    candidates = runner.candidates(("push left", "push right") if head is None else head.actions)
    texts = [f"cart {10 + k} speed {20 + k} pole {15 - k} turn {19 + k}" for k in range(NUM_PROMPTS)]
    prompts = [action_prompt(text, task="Keep the pole upright.") for text in texts]
    return runner.encoder.scored(prompts, [candidates] * NUM_PROMPTS)


@torch.inference_mode()
def _forward(runner: PolicyRunner, prompts: Sequence[ScoredPrompt]) -> None:
    """Runs the policy past the runner, whose answers would be remembered and counted."""
    score_distinct(runner.policy, prompts)
