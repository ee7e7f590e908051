"""CartPole whose steps take long: `--env-id benchmarks.slow_env:SlowCartPole-v0 --env-kwargs '{"step_ms": 5}'`."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class SlowCartPole(CartPoleEnv):
    """CartPole that computes, or sleeps, before every step.

    Args:
        step_ms: How long.
        sleep: Whether it sleeps, as an environment does that waits for a simulator elsewhere.
        more: CartPole's own arguments.
    """

    def __init__(self, step_ms: float = 5.0, *, sleep: bool = False, **more: Any) -> None:
        super().__init__(**more)
        self._step_s, self._sleep = step_ms / 1e3, sleep

    def step(self, action: Any) -> Any:
        if self._sleep:
            time.sleep(self._step_s)
        else:
            until = time.thread_time() + self._step_s
            while time.thread_time() < until:
                pass
        return super().step(action)


gymnasium.register("SlowCartPole-v0", entry_point=SlowCartPole, max_episode_steps=500)
