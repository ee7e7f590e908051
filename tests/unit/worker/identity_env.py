"""An environment whose right action is written in its observation, as stable-baselines3 tests algorithms with."""

import gymnasium
import numpy as np

ID = "Identity-v0"
NUM_ACTIONS = 3
EPISODE_STEPS = 8


class Identity(gymnasium.Env):
    """Observation k asks for action k, which pays 1; the next observation is drawn anew."""

    observation_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
    action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wanted = int(self.np_random.integers(NUM_ACTIONS))
        return np.int64(self.wanted), {}

    def step(self, action):
        reward = float(action == self.wanted)
        self.wanted = int(self.np_random.integers(NUM_ACTIONS))
        return np.int64(self.wanted), reward, False, False, {}


def register():
    """Makes the id known; a second call changes nothing."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, Identity, max_episode_steps=EPISODE_STEPS, reward_threshold=EPISODE_STEPS)
