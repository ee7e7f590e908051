"""Language as reward, for one environment or many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import gymnasium
from gymnasium.vector import VectorEnv

from hintwise.advising.asking import Asker, OnFailure
from hintwise.advising.hints import AskedHints, HintSource, OneHint
from hintwise.client import Client
from hintwise.describers import Describer
from hintwise.wrappers.advice import Advice
from hintwise.wrappers.episodes import Turn
from hintwise.wrappers.narration import narrate, within
from hintwise.wrappers.shaping import Alignment, Change, Moment, Paid, Potential, Shaping

RewardForm: TypeAlias = Literal["potential", "alignment"]


class Guiding:
    """What `GuidanceReward` does, single and vector.

    Args:
        env: What is rewarded.
        num_envs: Environments.
        client: As `GuidanceReward` takes it, as all that follows.
        gamma: Likewise.
        form: Likewise.
        hint: Likewise.
        every: Likewise.
        guidance: Likewise.
        describer: Likewise.
        memory: Likewise.
        timeout_s: Likewise.
        on_failure: Likewise.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any],
        num_envs: int,
        *,
        client: Client | str | None,
        gamma: float | None,
        form: RewardForm,
        hint: str | None,
        every: int | None,
        guidance: Mapping[str, Any] | None,
        describer: Describer | str | None,
        memory: int,
        timeout_s: float,
        on_failure: OnFailure,
    ) -> None:
        self.narration, self._leads_narration = narrate(env, describer, memory)
        instead = "the agent goes on without reward for guidance"
        self.asker = Asker(client, timeout_s=timeout_s, on_failure=on_failure, instead=instead)
        told: Advice | None = within(env, "advice")
        self._leads_advice = told is None or hint is not None
        if (told is not None or hint is not None) and (every is not None or guidance is not None):
            source = "one is given" if hint is not None else "the HintObservation within asks for them"
            raise ValueError(f"`every` and `guidance` are for hints that are asked for here, and {source}")
        if told is None or hint is not None:
            narration = self.narration
            asked: HintSource = (
                OneHint(hint)
                if hint
                else AskedHints(self.asker, narration.task, guidance, describer=narration.describer)
            )
            told = Advice(asked, self.narration, num_envs, every)
        self.advice = told
        self._shaping = self._shaping_of(form, gamma, num_envs)

    def _shaping_of(self, form: str, gamma: float | None, num_envs: int) -> Shaping:
        task = self.narration.task
        if form == "alignment":
            return Alignment(self.asker, task, action_phrases=self.narration.action_phrases)
        if form != "potential":
            raise ValueError(f'form is {form!r}; choose "potential" or "alignment"')
        if gamma is None or not 0 <= gamma <= 1:
            raise ValueError(f"gamma is {gamma}; a potential needs the trainer's own discount, 0 to 1")
        return Potential(self.asker, task, gamma=gamma, num_envs=num_envs)

    def moments(self) -> list[Moment]:
        """Returns each environment as it is now: to be asked before a step."""
        return [Moment(*each) for each in zip(self.narration.states, self.advice.hints, strict=True)]

    def follow(self, turn: Turn, before: Sequence[Moment], actions: Sequence[int]) -> dict[int, Paid]:
        """Returns what each environment earned that moved."""
        if self._leads_narration:
            self.narration.follow(turn)
        if self._leads_advice:
            self.advice.follow(turn)
        now = self.moments()
        finals = {i: Moment(state, self.advice.finals[i]) for i, state in self.narration.finals.items()}
        after = {i: finals.get(i, now[i]) for i in turn.moved}
        first = {i: now[i] for i in turn.began}
        return self._shaping.follow(Change(turn, before, after, first, actions))
