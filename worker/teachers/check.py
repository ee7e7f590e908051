"""How far a teacher gets when its preferred action is taken at every step: `python -m worker.teachers.check`.

    python -m worker.teachers.check --episodes 100 --seed 900000 [ENV_ID ...]

A state that comes back with nothing remembered brings the same action back, so success tells what accuracy hides.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import NamedTuple

import gymnasium

from worker.minigrid_levels import register_levels
from worker.teachers import teacher_for
from worker.teachers.teacher import Teacher

ENV_IDS = (
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-DoorKey-6x6-v0",
    "MiniGrid-DoorKey-8x8-v0",
    "MiniGrid-DoorKey-16x16-v0",
    "MiniGrid-Empty-8x8-v0",
    "MiniGrid-Empty-Random-6x6-v0",
    "MiniGrid-Unlock-v0",
    "MiniGrid-UnlockPickup-v0",
    "MiniGrid-FourRooms-v0",
    "MiniGrid-MultiRoom-N2-S4-v0",
    "MiniGrid-MultiRoom-N4-S5-v1",
    "MiniGrid-KeyCorridorS3R1-v0",
    "BabyAI-GoToRedBall-v0",
    "BabyAI-GoToLocal-v0",
    "BabyAI-PickupLoc-v0",
)
SAY_NOTHING = "no action known"


class Outcome(NamedTuple):
    """What became of some episodes."""

    successes: int
    episodes: int
    mean_length: float
    num_unknown: int
    """States for which the teacher knew no action; a random one was not taken, the episode ended there."""


def play(env_id: str, *, num_episodes: int, seed: int) -> Outcome:
    """Plays episodes by the teacher's preferred actions; success is a reward above 0 at the end.

    Args:
        env_id: An environment with a teacher.
        num_episodes: Episodes to play.
        seed: Of the first; episode i has this + i.

    Raises:
        ValueError: Nobody teaches it.
    """
    teacher = teacher_for(env_id)
    if teacher is None:
        raise ValueError(f"{env_id} has no teacher")
    from hintwise.describers import describer_for

    phrases = describer_for(env_id).actions
    register_levels(env_id)
    with contextlib.redirect_stdout(sys.stderr):  # BabyAI reports the missions it throws away
        env = gymnasium.make(env_id)
        played = [_episode(env, teacher, phrases, seed + i) for i in range(num_episodes)]
        env.close()
    lengths = [length for _, length, _ in played]
    return Outcome(
        sum(success for success, _, _ in played),
        num_episodes,
        sum(lengths) / len(lengths),
        sum(unknown for _, _, unknown in played),
    )


def _episode(
    env: gymnasium.Env[object, int], teacher: Teacher, phrases: list[str], seed: int
) -> tuple[bool, int, bool]:
    """Returns whether an episode succeeded, its steps, and whether the teacher did not know on."""
    observation, _ = env.reset(seed=seed)
    length = 0
    while True:
        actions = teacher.actions(observation)
        if not actions:
            return False, length, True
        observation, reward, terminated, truncated, _ = env.step(phrases.index(actions[0]))
        length += 1
        if terminated or truncated:
            return float(reward) > 0, length, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env_ids", metavar="ENV_ID", nargs="*", default=ENV_IDS)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=900_000)
    arguments = parser.parse_args()
    print(f"{'environment':<36} {'success':>9} {'steps':>6} {'stuck':>6} {'ms/step':>8}")  # noqa: T201
    for env_id in arguments.env_ids:
        began = time.perf_counter()
        outcome = play(env_id, num_episodes=arguments.episodes, seed=arguments.seed)
        milliseconds = 1000 * (time.perf_counter() - began) / max(1.0, outcome.mean_length * outcome.episodes)
        share = f"{outcome.successes}/{outcome.episodes}"
        print(  # noqa: T201
            f"{env_id:<36} {share:>9} {outcome.mean_length:>6.1f} {outcome.num_unknown:>6} {milliseconds:>8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
