"""What a call of `reset` or `step` did in each of N environments: acted, began an episode, or both.

| autoreset                | the call after an episode's end | what it returns there                            |
| ------------------------ | ------------------------------- | ------------------------------------------------ |
| `NEXT_STEP`, the default | `step`, whose action is ignored | a first observation, reward 0: no transition     |
| `SAME_STEP`              | the step that ends it           | the next first observation; the last in `infos`  |
| `DISABLED`               | `reset` with a `reset_mask`     | a first observation where the mask says so       |

A single environment counts as one that is `NEXT_STEP`: `gymnasium.wrappers.Autoreset` makes it so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import iterate


class Turn(NamedTuple):
    """One call, for N environments."""

    observations: Sequence[Any]
    """What each shows now."""
    moved: tuple[int, ...] = ()
    """Environments that took an action: their rewards are of a transition."""
    began: tuple[int, ...] = ()
    """Environments whose observation is the first of an episode."""
    finals: Mapping[int, Any] = {}
    """Last observations of the episodes that ended, where `observations` has the next episode's first."""
    terminated: frozenset[int] = frozenset()


class Episodes:
    """Tells transitions from what only looks like one.

    Args:
        num_envs: Environments that step together.
        same_step: Whether one that ends begins anew within the same step.
    """

    def __init__(self, num_envs: int = 1, *, same_step: bool = False) -> None:
        self._same_step = same_step
        self._over = [True] * num_envs  # nothing has begun

    @classmethod
    def of(cls, envs: VectorEnv[Any, Any, Any]) -> Episodes:
        """Returns the episodes of a vector environment, whose metadata tell how it begins them."""
        return cls(envs.num_envs, same_step=envs.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP)

    def reset(self, observations: Sequence[Any], mask: Sequence[bool] | None = None) -> Turn:
        """Notes that episodes begin: all, or those of the mask."""
        began = tuple(i for i in range(len(self._over)) if mask is None or mask[i])
        for i in began:
            self._over[i] = False
        return Turn(observations, began=began)

    def step(
        self,
        observations: Sequence[Any],
        terminated: Sequence[bool],
        truncated: Sequence[bool],
        infos: Mapping[str, Any],
    ) -> Turn:
        """Notes what an action led to."""
        moved = tuple(i for i, over in enumerate(self._over) if not over)
        ended = {i for i in moved if terminated[i] or truncated[i]}
        began = tuple(sorted(ended)) if self._same_step else tuple(i for i, over in enumerate(self._over) if over)
        self._over = [i in ended and not self._same_step for i in range(len(self._over))]
        finals = {i: infos["final_obs"][i] for i in began} if self._same_step else {}
        return Turn(observations, moved, began, finals, frozenset(i for i in ended if terminated[i]))


def reset_mask(options: Mapping[str, Any] | None) -> Sequence[bool] | None:
    """Returns which environments a reset is for; None: all. To be asked before the reset, which takes the mask out."""
    mask: Sequence[bool] | None = None if options is None else options.get("reset_mask")
    return mask


def one_each(envs: VectorEnv[Any, Any, Any], observations: Any) -> list[Any]:
    """Returns the observation of each environment."""
    return list(iterate(envs.observation_space, observations))


def add_info(infos: Mapping[str, Any], indices: Collection[int], num_envs: int, **values: Any) -> dict[str, Any]:
    """Returns a vector environment's infos with more in them, as Gymnasium lays them out: `name` and the mask `_name`.

    Args:
        infos: What there is.
        indices: Environments that the values are of.
        num_envs: All of them.
        values: N values each.
    """
    mask = np.isin(np.arange(num_envs), list(indices))
    return {**infos, **values, **{f"_{name}": mask.copy() for name in values}}


def final_observations(infos: Mapping[str, Any], finals: Mapping[int, Any]) -> dict[str, Any]:
    """Returns infos with other last observations in them."""
    if not finals:
        return dict(infos)
    changed = np.array(infos["final_obs"], dtype=object, copy=True)
    for i, observation in finals.items():
        changed[i] = observation
    return {**infos, "final_obs": changed}
