"""Observations and actions of an environment -> words.

    describer = describer_for("CartPole-v1")                  # or an environment: describer_for(env)
    describer.describe([0.0, 0.5, -0.03, -0.8])               # "cart 20 speed 26 pole 15 turn 12"
    describer.actions                                         # ["push left", "push right"]

`docs/describers.md` shows how to write one for an environment of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import cache, partial
from typing import Any

from hintwise.describers.classic_control import Acrobot, CartPole, MountainCar
from hintwise.describers.describer import Describer, Environment, hints_of
from hintwise.describers.generic import GenericDescriber
from hintwise.describers.minigrid import MiniGrid, level_ids
from hintwise.describers.toy_text import Taxi, cliff_walking, frozen_lake, frozen_lake_of
from hintwise.errors import InvalidRequest
from hintwise.plugins import Plugins

__all__ = ["DESCRIBED_ENV_IDS", "Describer", "described_env_ids", "describer_for", "hints_of", "load_describers"]

GROUP = "hintwise.describers"
"""Of the entry points by which other packages bring describers: environment id = module:what makes one."""

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
"""Environments that this package describes from their id alone, so the service takes their raw observations."""


def described_env_ids() -> tuple[str, ...]:
    """Returns the environments that are described from their id alone, also those that other packages describe."""
    return _plugins().names


def load_describers() -> None:
    """Loads the describers of all packages, so that what is wrong with one shows now and not when it is asked for.

    Raises:
        PluginUnusable: A package brings a describer that cannot be used, or of an environment that has one.
    """
    _plugins().load()


def describer_for(env_or_env_id: str | Environment) -> Describer:
    """Returns the describer of an environment.

    An environment object that has no describer of its own is described by its spaces, its numbers
    unnamed; so is one whose wrappers changed what is observed or done, since the words of the
    described environment would then be wrong.

    Args:
        env_or_env_id: One of `described_env_ids()`, or a single Gymnasium environment.

    Raises:
        InvalidRequest: The id is unknown, or the environment's spaces are not supported.
        PluginUnusable: A package brings this environment's describer, and it cannot be used.
    """
    if isinstance(env_or_env_id, str):
        return _describer_of_id(env_or_env_id)
    env: Any = env_or_env_id
    if hasattr(env, "num_envs"):
        raise InvalidRequest("a vector environment has no describer; pass its id, or one of its environments")
    if not all(hasattr(env, name) for name in ("spec", "observation_space", "action_space", "unwrapped")):
        raise InvalidRequest(f"expected an environment with its spaces, or an id; got a {type(env).__name__}")
    make = _plugins().maker(env.spec.id) if env.spec else None
    if make is None or not _has_its_own_spaces(env):
        return GenericDescriber(env)
    read = _READ_FROM_ENVIRONMENT.get(env.spec.id)
    return read(env) if read else make()


def _describer_of_id(env_id: str) -> Describer:
    make = _plugins().maker(env_id)
    if make is not None:
        return make()
    known = described_env_ids()
    close = get_close_matches(env_id, known, n=1)
    meant = f"; did you mean {close[0]}?" if close else "."
    raise InvalidRequest(
        f"no describer is known for {env_id!r}{meant} Known ids: {', '.join(known)}. "
        "Other environments are described from the environment object, or send their observations as text."
    )


@cache
def _plugins() -> Plugins[Describer]:
    needs = ("env_id", "task", "actions", "describe", "legal_actions")
    return Plugins(_DESCRIBERS, group=GROUP, kind="describer", needs=needs)


def _has_its_own_spaces(env: Environment) -> bool:
    own = env.unwrapped
    return bool(env.observation_space == own.observation_space and env.action_space == own.action_space)
