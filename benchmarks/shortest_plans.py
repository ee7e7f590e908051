"""The best return of MiniGrid levels on given starts, by an agent that sees everything: breadth-first search."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium

MAX_DEPTH = 200
ACTIONS = 0, 1, 2, 3, 5  # turn left and right, forward, pick up, toggle: dropping never shortens a way to a goal


def best_return(env_id: str, env_kwargs: Mapping[str, Any], seed: int) -> float:
    """Returns what the shortest way to success from one start earns.

    Raises:
        ValueError: There is none of up to `MAX_DEPTH` steps.
    """
    env: Any = gymnasium.make(env_id, **env_kwargs).unwrapped
    env.reset(seed=seed)
    front, seen = [env], {_where(env)}
    for _ in range(MAX_DEPTH):
        following = []
        for each in front:
            for action in ACTIONS:
                after = copy.deepcopy(each)
                _, reward, ended, _, _ = after.step(action)
                if reward > 0:
                    return float(reward)
                if not ended and _where(after) not in seen:
                    seen.add(_where(after))
                    following.append(after)
        front = following
    raise ValueError(f"{env_id} from seed {seed} has no success within {MAX_DEPTH} steps")


def _where(env: Any) -> tuple[Any, ...]:
    """Returns what tells two moments of an episode apart, but for the time."""
    things = tuple((i, *thing.encode()) for i, thing in enumerate(env.grid.grid) if thing is not None)
    carried = env.carrying.encode() if env.carrying else None
    return tuple(env.agent_pos), env.agent_dir, carried, things
