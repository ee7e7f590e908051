"""Decides where a run's environments are stepped: in the worker, or in processes of their own.

| --env-workers | where                                                                        |
| ------------- | ---------------------------------------------------------------------------- |
| 0             | in the worker                                                                |
| N             | in N processes, at most one for each environment                             |
| auto          | in the worker; where a step takes `SLOW_STEP_S`, in a process for each core  |

Whatever is chosen, the run is the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from hintwise.cores import usable_cores
from worker.config import TrainConfig
from worker.env_processes import EnvProcesses
from worker.envs import TextEnvs, VectorEnvs
from worker.text_env import TextEnv

SLOW_STEP_S = 0.002
"""Ten times what asking a process and reading its answer takes, so that a pipe never eats what it wins."""
MAX_MEASURED_STEPS = 20
MAX_MEASURING_S = 0.5


def open_envs(config: TrainConfig, say: Callable[[str], None]) -> VectorEnvs:
    """Returns the environments of a run.

    Args:
        config: All settings.
        say: Told what `auto` measured and chose.

    Raises:
        EnvironmentUnsupported: The environment cannot be used.
        EnvironmentFailed: A process of environments did not start.
    """
    num_processes = config.env_workers
    if num_processes == "auto":
        step_s = measured_step_s(config.env_id, config.env_kwargs, config.memory)
        num_processes = chosen_workers(step_s, num_envs=config.num_envs, num_cores=usable_cores())
        where = f"{num_processes} processes" if num_processes else "the worker itself"
        say(f"a step of the environment takes {step_s * 1e3:.2g} ms: stepping in {where}")
    if not num_processes:
        return TextEnvs(
            config.env_id,
            num_envs=config.num_envs,
            run_seed=config.seed,
            **config.env_settings,
        )
    return EnvProcesses(
        config.env_id,
        num_envs=config.num_envs,
        run_seed=config.seed,
        num_processes=num_processes,
        **config.env_settings,
        timeout_s=config.env_timeout_s,
    )


def chosen_workers(step_s: float, *, num_envs: int, num_cores: int) -> int:
    """Returns how many processes `auto` takes; 0 where they would not pay."""
    num_processes = min(num_envs, num_cores)
    return num_processes if step_s >= SLOW_STEP_S and num_processes > 1 else 0


def measured_step_s(
    env_id: str, env_kwargs: Mapping[str, Any], memory: int = 0, *, now: Callable[[], float] = time.perf_counter
) -> float:
    """Returns the median seconds of stepping and describing, from a few steps of an environment made for this."""
    seconds: list[float] = []
    with closing(TextEnv(env_id, env_kwargs, memory)) as env:
        env.reset(0)
        begun = now()
        for k in range(MAX_MEASURED_STEPS):
            before = now()
            step = env.step(k % len(env.state.actions))
            seconds.append(now() - before)
            if now() - begun > MAX_MEASURING_S:
                break
            if step.terminated or step.truncated:
                env.reset(k)
    return statistics.median(seconds)
