"""Observations of a vector environment as text."""

from __future__ import annotations

from typing import Any

from gymnasium.spaces import Text
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from hintwise.describers import Describer
from hintwise.wrappers.episodes import Episodes, final_observations, one_each, reset_mask
from hintwise.wrappers.telling import Telling


class DescribeObservation(VectorWrapper[Any, Any, Any, Any, Any]):
    """Shows the observations of a vector environment as a tuple of texts, by its describer. Asks no service.

    Args:
        env: A vector environment.
        describer: Describer, or id of an environment that has one. Default: each environment's own.
        memory: Observations of the episode that each text remembers, 0 to 40.
        keep_observation: Whether what the environments show is kept beside the texts:
            `{"observation": ..., "text": ...}` instead of the texts alone.
        text_space: Space of one text. Default: up to 4,096 English letters, digits and signs.

    Raises:
        ValueError: The observations are described already, or the environments are in other processes and no spec
            tells what they are.
        InvalidRequest: The environments have no describer; or later, the space does not hold a text.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        describer: Describer | str | None = None,
        memory: int = 0,
        keep_observation: bool = False,
        text_space: Text | None = None,
    ) -> None:
        super().__init__(env)
        self._telling = Telling(
            env,
            env.single_observation_space,
            describer=describer,
            memory=memory,
            keep_observation=keep_observation,
            space_of_text=text_space,
        )
        self.narration = self._telling.narration
        self.single_observation_space = self._telling.space
        self.observation_space = batch_space(self._telling.space, env.num_envs)
        self._episodes = Episodes.of(env)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = reset_mask(options)
        observations, infos = self.env.reset(seed=seed, options=options)
        texts, _ = self._telling.follow(self._episodes.reset(one_each(self.env, observations), mask))
        return self._telling.shown(observations, tuple(texts)), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        turn = self._episodes.step(one_each(self.env, observations), terminated, truncated, infos)
        texts, final_texts = self._telling.follow(turn)
        finals = {i: self._telling.shown(turn.finals[i], text) for i, text in final_texts.items()}
        shown = self._telling.shown(observations, tuple(texts))
        return shown, rewards, terminated, truncated, final_observations(infos, finals)
