"""A hint beside what is observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.spaces import Text
from gymnasium.utils import RecordConstructorArgs

from hintwise.advising.asking import OnFailure
from hintwise.client import Client
from hintwise.describers import Describer
from hintwise.wrappers.dropout import DropoutPer
from hintwise.wrappers.episodes import Episodes, Turn
from hintwise.wrappers.hint_parts import HintForm
from hintwise.wrappers.hinting import Hinting


class HintObservation(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds to each observation a hint that the service's guidance model writes for it.

    `info["hint"]` is the hint as it is shown, empty without one; `info["hint_dropped"]` tells whether it was
    withheld. The same state has the same hint, and is asked about once.

    Args:
        env: A single environment; `hintwise.wrappers.vector` has the form for vector environments.
        client: A client, whose own limits hold; or the service's address. Default: `HINTWISE_URL`, or this machine.
        describer: Describer, or id of an environment that has one. Default: the environment's own, or that of the
            `DescribeObservation` within.
        memory: Observations of the episode that each description remembers, 0 to 40.
        form: `text`, or `action`: a one-hot of the action that the hint names, for trainers of numbers. Default:
            text where the observation is one.
        every: Steps that a hint is held; None: as long as the episode.
        dropout: Probability that the hint is withheld, drawn from a generator that `reset(seed=...)` seeds.
        dropout_per: `episode` or `step`: what it is drawn for.
        guidance: Arguments of `Client.guidance`: mode, candidates, max_new_tokens, temperature, seed. Default: the
            likeliest hint, written freely.
        hint_space: Space of the hints. Default: up to 512 English letters, digits and signs.
        timeout_s: Seconds that the service may take, where an address was given.
        on_failure: `raise`, or `skip`: no hint where the service is away, slow or full, or its hint does not fit its
            space; warned of once, and counted in `num_failures`.

    Raises:
        ValueError: An argument cannot be used.
        InvalidRequest: The environment has no describer.
        HintwiseError: From `reset` and `step`: the service failed, or refuses the request.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        client: Client | str | None = None,
        *,
        describer: Describer | str | None = None,
        memory: int = 0,
        form: HintForm | None = None,
        every: int | None = 1,
        dropout: float = 0.0,
        dropout_per: DropoutPer = "episode",
        guidance: Mapping[str, Any] | None = None,
        hint_space: Text | None = None,
        timeout_s: float = 10.0,
        on_failure: OnFailure = "raise",
    ) -> None:
        chosen: dict[str, Any] = {
            "client": client,
            "describer": describer,
            "memory": memory,
            "form": form,
            "every": every,
            "dropout": dropout,
            "dropout_per": dropout_per,
            "guidance": guidance,
            "hint_space": hint_space,
            "timeout_s": timeout_s,
            "on_failure": on_failure,
        }
        RecordConstructorArgs.__init__(self, **chosen)
        gymnasium.Wrapper.__init__(self, env)
        self._hinting = Hinting(env, env.observation_space, 1, **chosen)
        self.narration, self.advice = self._hinting.narration, self._hinting.advice
        self.observation_space = self._hinting.space
        self._episodes = Episodes()

    @property
    def num_failures(self) -> int:
        """How often the service gave no hint that could be used."""
        return self._hinting.asker.num_failures

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._hinting.dropout.seed(seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._show(self._episodes.reset([observation]), info)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        turn = self._episodes.step([observation], [terminated], [truncated], info)
        observation, info = self._show(turn, info)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        self._hinting.asker.close()
        super().close()

    def _show(self, turn: Turn, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        (hint,), _ = self._hinting.follow(turn)
        observation = self._hinting.observation(turn.observations[0], hint)
        return observation, {**info, "hint": hint, "hint_dropped": self._hinting.dropout.dropped[0]}
