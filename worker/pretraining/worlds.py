"""The worlds of the corpus: an episode of each, from a seed.

Acrobot, DoorKey-8x8 and 16x16, KeyCorridorS3R1 and FourRooms are left out: they test what was never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium

from hintwise.describers import describer_for
from hintwise.describers.describer import Describer
from hintwise.describers.memory import MAX_REACH, Remembering, remembering
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
MEMORY_REACH = MAX_REACH
"""Observations that are remembered where there is a memory."""
MAX_LAKE_STEPS = 200
"""Gymnasium's own limit for 8x8; a map of one's own would have the 100 of 4x4."""


class Episode(NamedTuple):
    """One environment, ready to be reset with its seed."""

    env: Any
    describer: Describer
    teacher: Teacher
    seed: int

    def see(self, observation: object) -> None:
        """Remembers an observation that is past, where the texts have a memory."""
        if isinstance(self.describer, Remembering):
            self.describer.see(observation)


class World(NamedTuple):
    """A world of the corpus.

    Args:
        name: Of the world, in tables.
        family: Worlds of one family have the same actions and understand each other's hints.
        weight: Its share of the corpus, relative to the others.
        open: Returns the episode of a seed, whose texts remember so many observations.
        variety: Distinct states in the corpus, relative to its weight: some worlds have many more than others.
        progress: Whether its episodes come closer to an end that a teacher reaches.
        rewards_success: Whether an end that is reached is rewarded, and no other.
        memory: Share of its episodes that are told with a memory.
        teacher_remembers: Whether the teacher makes use of it, so that who obeys should have one.
        any_right: Whether hints to learn from name each right action as often. A planner that goes on as it
            has begun needs its preferred one; in a lake, trying another side is what leads out of a pocket.
    """

    name: str
    family: str
    weight: float
    open: Callable[[int, int], Episode]
    variety: float = 1.0
    progress: bool = True
    rewards_success: bool = True
    memory: float = 0.0
    teacher_remembers: bool = False
    any_right: bool = False


def lake(size: int, weight: float) -> World:
    """Returns random lakes without slipping, a map for each seed, as a world."""

    def open_lake(seed: int, reach: int) -> Episode:
        from gymnasium.envs.toy_text.frozen_lake import generate_random_map

        share = MAP_CHOICES[seed % len(MAP_CHOICES)] if seed < NUM_TRAINING_SEEDS else GYMNASIUM_SHARE
        rows = generate_random_map(size, p=share, seed=seed)
        env = gymnasium.make("FrozenLake-v1", desc=rows, is_slippery=False, max_episode_steps=MAX_LAKE_STEPS)
        describer = remembering(describer_for(env), reach)
        return Episode(env, describer, GridWalkTeacher(describer), seed)

    return World(
        f"FrozenLake {size}x{size}",
        "grid walk",
        weight,
        open_lake,
        memory=0.5,
        teacher_remembers=True,
        any_right=True,
    )


def registered(env_id: str, **kwargs: Any) -> Callable[[int, int], Episode]:
    """Returns what opens episodes of a registered environment."""

    def open_registered(seed: int, reach: int) -> Episode:
        try:
            register_levels(env_id)
            env = gymnasium.make(env_id, **kwargs)
        except (ImportError, gymnasium.error.Error) as error:
            raise EnvironmentUnsupported(f"{env_id} is part of the corpus but cannot be made: {error}") from error
        teacher = teacher_for(env_id)
        if teacher is None:
            raise LookupError(f"{env_id} has no teacher; take it out of worker/pretraining/worlds.py")
        return Episode(env, remembering(describer_for(env), reach), teacher, seed)

    return open_registered


def level(name: str, weight: float, *, package: str = "MiniGrid", variety: float = 1.0) -> World:
    """Returns a level of MiniGrid or BabyAI as a world; all of them have one family's actions."""
    return World(name, "minigrid", weight, registered(f"{package}-{name}-v0"), variety=variety, memory=0.1)


CORPUS: tuple[World, ...] = (
    World("CartPole", "cart pole", 0.8, registered("CartPole-v1"), variety=5.0, progress=False),
    World("MountainCar", "mountain car", 0.5, registered("MountainCar-v0"), rewards_success=False),
    lake(4, 0.5),
    lake(8, 1.5),
    World(
        "CliffWalking",
        "grid walk",
        0.3,
        registered("CliffWalking-v1", max_episode_steps=MAX_LAKE_STEPS),
        rewards_success=False,
    ),
    World("Taxi", "taxi", 1.0, registered("Taxi-v4")),
    level("DoorKey-5x5", 0.8),
    level("DoorKey-6x6", 1.3),
    level("Empty-8x8", 0.2),
    level("Empty-Random-6x6", 0.3),
    level("Unlock", 0.7),
    level("UnlockPickup", 1.2),
    level("MultiRoom-N2-S4", 0.5),
    level("MultiRoom-N4-S5", 0.7),
    level("SimpleCrossingS9N1", 0.3, variety=0.15),
    level("ObstructedMaze-1Dl", 0.8),
    level("FindObjS5", 0.6, package="BabyAI"),
    level("GoToRedBall", 1.8, package="BabyAI", variety=1.5),
    level("GoToLocal", 3.6, package="BabyAI", variety=2.0),
    level("PickupLoc", 4.5, package="BabyAI", variety=2.0),
)
UNSEEN: tuple[World, ...] = (
    level("DoorKey-8x8", 0.0),
    level("DoorKey-16x16", 0.0),
    level("KeyCorridorS3R1", 0.0),
    level("FourRooms", 0.0),
)
"""Worlds that are measured and never in the corpus."""
