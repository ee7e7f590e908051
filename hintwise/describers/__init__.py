"""Observations and actions of an environment -> words.

    describer = describer_for("CartPole-v1")                  # or an environment: describer_for(env)
    describer.describe([0.0, 0.5, -0.03, -0.8])               # "cart 20 speed 26 pole 15 turn 12"
    describer.actions                                         # ["push left", "push right"]

`docs/describers.md` shows how to write one for an environment of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any

from hintwise.describers.classic_control import Acrobot, CartPole, MountainCar
from hintwise.describers.describer import Describer, Environment, hints_of
from hintwise.describers.generic import GenericDescriber
from hintwise.describers.minigrid import MiniGrid, level_ids
from hintwise.describers.toy_text import Taxi, cliff_walking, frozen_lake, frozen_lake_of
from hintwise.errors import InvalidRequest

__all__ = ["DESCRIBED_ENV_IDS", "Describer", "describer_for", "hints_of"]

_DESCRIBERS: dict[str, Callable[[], Describer]] = {
    "CartPole-v1": CartPole,
    "MountainCar-v0": MountainCar,
    "Acrobot-v1": Acrobot,
    "FrozenLake-v1": partial(frozen_lake, "FrozenLake-v1"),
    "FrozenLake8x8-v1": partial(frozen_lake, "FrozenLake8x8-v1"),
    "CliffWalking-v1": partial(cliff_walking, "CliffWalking-v1"),
    "CliffWalkingSlippery-v1": partial(cliff_walking, "CliffWalkingSlippery-v1"),
    "Taxi-v4": Taxi,
    **{env_id: partial(MiniGrid, env_id) for env_id in level_ids()},
}
_READ_FROM_ENVIRONMENT: dict[str, Callable[[Environment], Describer]] = {
    "FrozenLake-v1": frozen_lake_of,
    "FrozenLake8x8-v1": frozen_lake_of,
}
"""Environments that can be made with another map than the one their id stands for."""

DESCRIBED_ENV_IDS: tuple[str, ...] = tuple(_DESCRIBERS)
"""Environments that are described from their id alone, so the service takes their raw observations."""


def describer_for(env_or_env_id: str | Environment) -> Describer:
    """Returns the describer of an environment.

    An environment object that has no describer of its own is described by its spaces, its numbers
    unnamed; so is one whose wrappers changed what is observed or done, since the words of the
    described environment would then be wrong.

    Args:
        env_or_env_id: One of `DESCRIBED_ENV_IDS`, or a single Gymnasium environment.

    Raises:
        InvalidRequest: The id is unknown, or the environment's spaces are not supported.
    """
    if isinstance(env_or_env_id, str):
        return _describer_of_id(env_or_env_id)
    env: Any = env_or_env_id
    if hasattr(env, "num_envs"):
        raise InvalidRequest("a vector environment has no describer; pass its id, or one of its environments")
    if not all(hasattr(env, name) for name in ("spec", "observation_space", "action_space", "unwrapped")):
        raise InvalidRequest(f"expected an environment with its spaces, or an id; got a {type(env).__name__}")
    if not env.spec or env.spec.id not in _DESCRIBERS or not _has_its_own_spaces(env):
        return GenericDescriber(env)
    read = _READ_FROM_ENVIRONMENT.get(env.spec.id)
    return read(env) if read else _DESCRIBERS[env.spec.id]()


def _describer_of_id(env_id: str) -> Describer:
    if env_id in _DESCRIBERS:
        return _DESCRIBERS[env_id]()
    close = get_close_matches(env_id, DESCRIBED_ENV_IDS, n=1)
    meant = f"; did you mean {close[0]}?" if close else "."
    raise InvalidRequest(
        f"no describer is known for {env_id!r}{meant} Known ids: {', '.join(DESCRIBED_ENV_IDS)}. "
        "Other environments are described from the environment object, or send their observations as text."
    )


def _has_its_own_spaces(env: Environment) -> bool:
    own = env.unwrapped
    return bool(env.observation_space == own.observation_space and env.action_space == own.action_space)
