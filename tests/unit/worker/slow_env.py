"""An environment that a process of its own can import, as `tests.unit.worker.slow_env:TestSlow-v0`."""

import math
import os
import signal
import time

import gymnasium

REWARDS = {"much": "much", "nan": math.nan}


class Slow(gymnasium.Env):
    """Counts from a number that the seed draws; a step takes `sleep_s`, and `trouble` comes at the third or at each."""

    observation_space = gymnasium.spaces.Discrete(10_000)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, sleep_s=0.0, trouble=None):
        self.sleep_s, self.trouble, self.num_steps = sleep_s, trouble, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = int(self.np_random.integers(1_000))
        return self.count, {}

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 3 and self.trouble in {"raise", "die", "hang"}:
            self.get_into_trouble()
        time.sleep(self.sleep_s)
        self.count += int(self.np_random.integers(1, 4))
        if self.trouble in REWARDS:
            return self.count, REWARDS[self.trouble], False, False, {}
        return self.count, self.count / 8, bool(self.count % 11 == 0), False, {}

    def get_into_trouble(self):
        if self.trouble == "raise":
            raise ZeroDivisionError("division by zero")
        if self.trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # hang


gymnasium.register("TestSlow-v0", entry_point=Slow, max_episode_steps=5)
