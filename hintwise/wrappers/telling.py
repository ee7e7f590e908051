"""Texts as observations, for one environment or many."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.spaces import Dict, Text
from gymnasium.vector import VectorEnv

from hintwise.describers import Describer
from hintwise.wrappers.episodes import Turn
from hintwise.wrappers.hint_parts import OBSERVATION
from hintwise.wrappers.narration import TEXT, is_text, narrate
from hintwise.wrappers.texts import MAX_TEXT_CHARS, check_text, text_space


class Telling:
    """What `DescribeObservation` does, single and vector.

    Args:
        env: What is described.
        space: Of one environment's observations.
        describer: As `DescribeObservation` takes it.
        memory: Likewise.
        keep_observation: Likewise.
        space_of_text: Likewise.

    Raises:
        ValueError: The observations are texts already.
        InvalidRequest: The environment has no describer.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any],
        space: gymnasium.Space[Any],
        *,
        describer: Describer | str | None,
        memory: int,
        keep_observation: bool,
        space_of_text: Text | None,
    ) -> None:
        self.narration, is_new = narrate(env, describer, memory)
        if not is_new or is_text(space):
            raise ValueError("observations are described already")
        self._space = space_of_text or text_space(MAX_TEXT_CHARS)
        self._keep = keep_observation
        self.space: gymnasium.Space[Any] = self._space
        if keep_observation:
            self.space = Dict({OBSERVATION: space, TEXT: self._space})

    def follow(self, turn: Turn) -> tuple[list[str], dict[int, str]]:
        """Returns the text of each environment, and those of the last observations that are elsewhere.

        Raises:
            InvalidRequest: The space does not hold a text.
        """
        self.narration.follow(turn)
        texts = [self._checked(state.text) for state in self.narration.states]
        return texts, {i: self._checked(state.text) for i, state in self.narration.finals.items()}

    def shown(self, observation: Any, text: Any) -> Any:
        """Returns what is observed: the text, or both; of one environment or of all."""
        return {OBSERVATION: observation, TEXT: text} if self._keep else text

    def _checked(self, text: str) -> str:
        return check_text(text, self._space, what="a description", argument="text_space")
