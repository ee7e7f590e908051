"""Hints beside observations, for one environment or many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.spaces import Text
from gymnasium.vector import VectorEnv

from hintwise.advising.asking import Asker, OnFailure, UnusableAnswer
from hintwise.advising.hints import AskedHints, Hint
from hintwise.client import Client
from hintwise.describers import Describer
from hintwise.errors import InvalidRequest
from hintwise.wrappers.advice import Advice
from hintwise.wrappers.dropout import Dropout, DropoutPer
from hintwise.wrappers.episodes import Turn
from hintwise.wrappers.hint_parts import HintForm, HintPart
from hintwise.wrappers.narration import narrate
from hintwise.wrappers.texts import MAX_HINT_CHARS, check_text, text_space


class Hinting:
    """What `HintObservation` does, single and vector.

    Args:
        env: What is advised.
        space: Of one environment's observations.
        num_envs: Environments.
        client: As `HintObservation` takes it, as all that follows.
        describer: Likewise.
        memory: Likewise.
        form: Likewise.
        every: Likewise.
        dropout: Likewise.
        dropout_per: Likewise.
        guidance: Likewise.
        hint_space: Likewise.
        timeout_s: Likewise.
        on_failure: Likewise.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any],
        space: gymnasium.Space[Any],
        num_envs: int,
        *,
        client: Client | str | None,
        describer: Describer | str | None,
        memory: int,
        form: HintForm | None,
        every: int | None,
        dropout: float,
        dropout_per: DropoutPer,
        guidance: Mapping[str, Any] | None,
        hint_space: Text | None,
        timeout_s: float,
        on_failure: OnFailure,
    ) -> None:
        self.narration, self._leads = narrate(env, describer, memory)
        self._hint_space = hint_space or text_space(MAX_HINT_CHARS)
        self._part = HintPart(space, form, self._hint_space, self.narration.action_phrases)
        self.space = self._part.space
        self.dropout = Dropout(dropout, dropout_per, num_envs)
        instead = "the agent goes on without a hint"
        self.asker = Asker(client, timeout_s=timeout_s, on_failure=on_failure, instead=instead)
        asked = AskedHints(self.asker, self.narration.task, guidance, describer=self.narration.describer)
        self.advice = Advice(asked, self.narration, num_envs, every)

    def follow(self, turn: Turn) -> tuple[list[str], dict[int, str]]:
        """Returns the hint that each environment shows, and those of the last observations that are elsewhere."""
        if self._leads:
            self.narration.follow(turn)
        self.advice.follow(turn)
        self.dropout.follow(turn)
        now = zip(self.advice.hints, self.dropout.dropped, strict=True)
        shown = [self._usable(hint, dropped) for hint, dropped in now]
        finals = {i: self._usable(hint, self.dropout.finals[i]) for i, hint in self.advice.finals.items()}
        return shown, finals

    def observation(self, observation: Any, hint: str) -> Any:
        """Returns an observation with its hint."""
        return self._part.add(observation, hint)

    def _usable(self, hint: Hint, dropped: bool) -> str:
        """Returns a hint as it is shown; empty where there is none."""
        if not hint or dropped:
            return ""
        try:
            return check_text(hint, self._hint_space, what="a hint", argument="hint_space")
        except InvalidRequest as error:
            self.asker.bear(UnusableAnswer(str(error)))
            return ""
