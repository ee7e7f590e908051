"""Every random choice of a run, as a pure function of its seed.

| range             | purpose    |
| ----------------- | ---------- |
| 0 - 499,999       | training   |
| 500,000 - 899,999 | validation |
| 900,000 -         | evaluation |
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

NUM_TRAINING_SEEDS = 500_000
FIRST_VALIDATION_SEED = 500_000
FIRST_EVALUATION_SEED = 900_000

STREAM_EPISODES, STREAM_ACTIONS, STREAM_MINIBATCHES, STREAM_EVALUATION, STREAM_BOOTSTRAP, STREAM_HINTS = range(6)
"""Which purpose a number serves; two purposes never share numbers."""

UNITS = 1, 3, 7, 9
"""Last digits of the numbers that share no factor with 500,000 = 2**5 * 5**6."""


def episode_seed(run_seed: int, env_index: int, episode_index: int, *, num_envs: int) -> int:
    """Returns the seed of one training episode, distinct for the first 500,000 episodes of a run.

    The k-th episode gets (offset + stride * k) mod 500,000 with a stride that shares no factor
    with 500,000, so that k -> seed is a permutation; the run's seed chooses offset and stride.
    """
    offset, stride = _episode_order(run_seed)
    return (offset + stride * (episode_index * num_envs + env_index)) % NUM_TRAINING_SEEDS


def action_seed(run_seed: int, step: int) -> int:
    """Returns the seed of the request that chooses the actions after `step` environment steps."""
    return _words(run_seed, STREAM_ACTIONS, step)[0] >> 11  # 53 bits: what JSON readers keep exactly


def bootstrap_seed(run_seed: int, step: int) -> int:
    """Returns the seed of the request for actions that are valued and not taken, after `step` environment steps."""
    return _words(run_seed, STREAM_BOOTSTRAP, step)[0] >> 11


def evaluation_action_seed(episode: int, step: int) -> int:
    """Returns the seed of one action in the evaluation episode that was reset with seed `episode`."""
    return _words(episode, STREAM_EVALUATION, step)[0] >> 11


def hint_is_dropped(run_seed: int, env_index: int, episode_index: int, *, probability: float) -> bool:
    """Returns whether the policy is to go without hints in one training episode."""
    return _words(run_seed, STREAM_HINTS, env_index, episode_index)[0] / 2**64 < probability


def hint_is_wrong(run_seed: int, env_index: int, episode_index: int, *, probability: float) -> bool:
    """Returns whether the hints of one training episode are to be wrong; independent of whether they are dropped."""
    return _words(run_seed, STREAM_HINTS, env_index, episode_index)[1] / 2**64 < probability


def minibatch_generator(run_seed: int) -> np.random.Generator:
    """Returns the generator that shuffles transitions into minibatches."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((run_seed, STREAM_MINIBATCHES))))


@lru_cache(64)
def _episode_order(run_seed: int) -> tuple[int, int]:
    offset, tens, unit = _words(run_seed, STREAM_EPISODES)
    return offset % NUM_TRAINING_SEEDS, 10 * (tens % (NUM_TRAINING_SEEDS // 10)) + UNITS[unit % len(UNITS)]


def _words(*key: int) -> tuple[int, int, int]:
    """Returns three 64-bit words that depend on nothing but `key`."""
    first, second, third = np.random.SeedSequence(key).generate_state(3, np.uint64).tolist()
    return first, second, third
