"""The worlds of the corpus: an episode of each, from a seed.

Acrobot, DoorKey-8x8 and 16x16, KeyCorridorS3R1 and FourRooms are left out: they test what was never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium

from hintwise.describers import describer_for
from hintwise.describers.describer import Describer
from worker.errors import EnvironmentUnsupported
from worker.minigrid_levels import register_levels
from worker.seeds import NUM_TRAINING_SEEDS
from worker.teachers import teacher_for
from worker.teachers.teacher import Teacher
from worker.teachers.toy_text import GridWalkTeacher

GYMNASIUM_SHARE = 0.8
"""Of frozen cells, in Gymnasium's own random lakes: what is measured has this."""
MAP_CHOICES = 0.7, GYMNASIUM_SHARE, 0.9
"""What lakes to learn from have."""
MAX_LAKE_STEPS = 200
"""Gymnasium's own limit for 8x8; a map of one's own would have the 100 of 4x4."""


class Episode(NamedTuple):
    """One environment, ready to be reset with its seed."""

    env: Any
    describer: Describer
    teacher: Teacher
    seed: int


class World(NamedTuple):
    """A world of the corpus.

    Args:
        name: Of the world, in tables.
        family: Worlds of one family have the same actions and understand each other's hints.
        weight: Its share of the corpus, relative to the others.
        open: Returns the episode of a seed.
        variety: Distinct states in the corpus, relative to its weight: some worlds have many more than others.
        progress: Whether its episodes come closer to an end that a teacher reaches.
        rewards_success: Whether an end that is reached is rewarded, and no other.
        any_right: Whether hints to learn from name each right action as often. A planner that goes on as it
            has begun needs its preferred one; in a lake, trying another side is what leads out of a pocket.
    """

    name: str
    family: str
    weight: float
    open: Callable[[int], Episode]
    variety: float = 1.0
    progress: bool = True
    rewards_success: bool = True
    any_right: bool = False


def lake(size: int) -> Callable[[int], Episode]:
    """Returns what opens random lakes without slipping, a map for each seed."""

    def open_lake(seed: int) -> Episode:
        from gymnasium.envs.toy_text.frozen_lake import generate_random_map

        share = MAP_CHOICES[seed % len(MAP_CHOICES)] if seed < NUM_TRAINING_SEEDS else GYMNASIUM_SHARE
        rows = generate_random_map(size, p=share, seed=seed)
        env = gymnasium.make("FrozenLake-v1", desc=rows, is_slippery=False, max_episode_steps=MAX_LAKE_STEPS)
        describer = describer_for(env)
        return Episode(env, describer, GridWalkTeacher(describer), seed)

    return open_lake


def registered(env_id: str, **kwargs: Any) -> Callable[[int], Episode]:
    """Returns what opens episodes of a registered environment."""

    def open_registered(seed: int) -> Episode:
        try:
            register_levels(env_id)
            env = gymnasium.make(env_id, **kwargs)
        except (ImportError, gymnasium.error.Error) as error:
            raise EnvironmentUnsupported(f"{env_id} is part of the corpus but cannot be made: {error}") from error
        teacher = teacher_for(env_id)
        if teacher is None:
            raise LookupError(f"{env_id} has no teacher; take it out of worker/pretraining/worlds.py")
        return Episode(env, describer_for(env), teacher, seed)

    return open_registered


def level(name: str, weight: float, *, package: str = "MiniGrid", variety: float = 1.0) -> World:
    """Returns a level of MiniGrid or BabyAI as a world; all of them have one family's actions."""
    return World(name, "minigrid", weight, registered(f"{package}-{name}-v0"), variety=variety)


CORPUS: tuple[World, ...] = (
    World("CartPole", "cart pole", 1.5, registered("CartPole-v1"), variety=3.0, progress=False),
    World("MountainCar", "mountain car", 0.6, registered("MountainCar-v0"), rewards_success=False),
    World("FrozenLake 4x4", "grid walk", 0.6, lake(4), any_right=True),
    World("FrozenLake 8x8", "grid walk", 1.5, lake(8), any_right=True),
    World(
        "CliffWalking",
        "grid walk",
        0.5,
        registered("CliffWalking-v1", max_episode_steps=MAX_LAKE_STEPS),
        rewards_success=False,
    ),
    World("Taxi", "taxi", 1.2, registered("Taxi-v4")),
    level("DoorKey-5x5", 1.0),
    level("DoorKey-6x6", 1.5),
    level("Empty-8x8", 0.3),
    level("Empty-Random-6x6", 0.5),
    level("Unlock", 1.0),
    level("UnlockPickup", 0.7),
    level("MultiRoom-N2-S4", 0.4),
    level("GoToRedBall", 1.0, package="BabyAI"),
    level("GoToLocal", 2.5, package="BabyAI", variety=2.0),
    level("PickupLoc", 2.5, package="BabyAI", variety=2.0),
)
UNSEEN: tuple[World, ...] = (
    level("DoorKey-8x8", 0.0),
    level("DoorKey-16x16", 0.0),
    level("KeyCorridorS3R1", 0.0),
    level("FourRooms", 0.0),
)
"""Worlds that are measured and never in the corpus."""
