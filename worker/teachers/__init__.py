"""Teachers: the right next actions and a hint, from what an environment's description shows.

teacher = teacher_for("CartPole-v1")                      # None where nobody teaches it
teacher.actions(observation)                              # ["push right"]: any of these is right
teacher.hint(observation)                                 # "push right"
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hintwise.describers import describer_for
from hintwise.describers.minigrid import level_ids
from worker.teachers.classic_control import CartPoleTeacher, MountainCarTeacher
from worker.teachers.minigrid import MiniGridTeacher
from worker.teachers.teacher import Teacher
from worker.teachers.toy_text import GridWalkTeacher, TaxiTeacher

__all__ = ["TAUGHT_ENV_IDS", "Teacher", "teacher_for"]

GRID_WALKS = "FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1"


def _grid_walk(env_id: str) -> Callable[[], Teacher]:
    return lambda: GridWalkTeacher(describer_for(env_id))


_TEACHERS: dict[str, Callable[[], Teacher]] = {
    "CartPole-v1": CartPoleTeacher,
    "MountainCar-v0": MountainCarTeacher,
    **{env_id: _grid_walk(env_id) for env_id in GRID_WALKS},
    "Taxi-v4": TaxiTeacher,
    **{env_id: partial(MiniGridTeacher, env_id) for env_id in level_ids()},
}

TAUGHT_ENV_IDS: tuple[str, ...] = tuple(_TEACHERS)
"""Environments that have a teacher."""


def teacher_for(env_id: str) -> Teacher | None:
    """Returns the teacher of an environment, or None where there is none."""
    make = _TEACHERS.get(env_id)
    return make() if make else None
