"""Observations as text."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.spaces import Text
from gymnasium.utils import RecordConstructorArgs

from hintwise.describers import Describer
from hintwise.wrappers.episodes import Episodes
from hintwise.wrappers.telling import Telling


class DescribeObservation(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Shows an environment's observations as text, by its describer. Asks no service.

    Args:
        env: A single environment; `hintwise.wrappers.vector` has the form for vector environments.
        describer: Describer, or id of an environment that has one. Default: the environment's own.
        memory: Observations of the episode that each text remembers, 0 to 40.
        keep_observation: Whether what the environment shows is kept beside the text:
            `{"observation": ..., "text": ...}` instead of the text alone.
        text_space: Space of the texts. Default: up to 4,096 English letters, digits and signs.

    Raises:
        ValueError: The observations are described already.
        InvalidRequest: The environment has no describer; or later, the space does not hold a text.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        describer: Describer | str | None = None,
        memory: int = 0,
        keep_observation: bool = False,
        text_space: Text | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, describer=describer, memory=memory, keep_observation=keep_observation, text_space=text_space
        )
        gymnasium.Wrapper.__init__(self, env)
        self._telling = Telling(
            env,
            env.observation_space,
            describer=describer,
            memory=memory,
            keep_observation=keep_observation,
            space_of_text=text_space,
        )
        self.narration = self._telling.narration
        self.observation_space = self._telling.space
        self._episodes = Episodes()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        (text,), _ = self._telling.follow(self._episodes.reset([observation]))
        return self._telling.shown(observation, text), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        (text,), _ = self._telling.follow(self._episodes.step([observation], [terminated], [truncated], info))
        return self._telling.shown(observation, text), reward, terminated, truncated, info
