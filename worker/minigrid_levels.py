"""MiniGrid's and BabyAI's levels, which their package registers when it is imported.

`python -m worker.minigrid_levels` writes the list of levels that are described, after a new release of minigrid.
"""

from __future__ import annotations

import json
import os
from typing import Any

import gymnasium

from hintwise.describers.minigrid import LEVELS_PATH

PREFIXES = ("MiniGrid-", "BabyAI-")


def is_level(env_id: str) -> bool:
    """Returns whether an id is one of MiniGrid's or BabyAI's, which pay for success alone."""
    return env_id.startswith(PREFIXES)


def register_levels(env_id: str) -> None:
    """Imports minigrid where `env_id` is one of its levels, so that Gymnasium can make it.

    Raises:
        ImportError: It is not installed; says how to install it.
    """
    if env_id.startswith(PREFIXES) and env_id not in gymnasium.registry:
        # pygame, which it draws with, greets on stdout, where only results belong
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import minigrid  # noqa: F401
        except ImportError as error:
            raise ImportError(f"{error}; install it: pip install 'hintwise[minigrid]'") from error


def registered_levels() -> dict[str, str | None]:
    """Returns every level that minigrid registers, with its mission where that is constant.

    Raises:
        ImportError: minigrid is not installed.
    """
    register_levels(PREFIXES[0])
    return {env_id: _mission(env_id) for env_id in gymnasium.registry if env_id.startswith(PREFIXES)}


def _mission(env_id: str) -> str | None:
    """Returns the mission of a level where it is constant; BabyAI draws missions for each episode."""
    if env_id.startswith("BabyAI-"):
        return None
    if env_id.startswith("MiniGrid-WFC-"):  # making one needs packages that generate its maps
        from minigrid.envs.wfc.wfcenv import WFCEnv

        return str(WFCEnv._gen_mission())
    space: Any = gymnasium.make(env_id, disable_env_checker=True).observation_space
    mission = space["mission"]
    return str(mission.mission_func()) if not mission.ordered_placeholders else None


if __name__ == "__main__":
    LEVELS_PATH.write_text(json.dumps(registered_levels(), indent=1) + "\n", encoding="utf-8")
