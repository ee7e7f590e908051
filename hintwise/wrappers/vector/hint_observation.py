"""A hint beside each observation of a vector environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array

from hintwise.advising.asking import OnFailure
from hintwise.client import Client
from hintwise.describers import Describer
from hintwise.wrappers.dropout import DropoutPer
from hintwise.wrappers.episodes import Episodes, Turn, add_info, final_observations, one_each, reset_mask
from hintwise.wrappers.hint_parts import HintForm
from hintwise.wrappers.hinting import Hinting


class HintObservation(VectorWrapper[Any, Any, Any, Any, Any]):
    """Adds a hint to each observation of a vector environment; one request asks for all that are new.

    `infos["hint"]` and `infos["hint_dropped"]` are as those of the single form, an array each. Environment i goes
    without hints as a single environment does that was reset with seed + i.

    Args:
        env: A vector environment.
        client: As the single form takes it, as all that follows.
        describer: Likewise. Environments in other processes are described by what `make_vec` was told.
        memory: Likewise.
        form: Likewise.
        every: Likewise.
        dropout: Likewise.
        dropout_per: Likewise.
        guidance: Likewise.
        hint_space: Likewise.
        timeout_s: Likewise.
        on_failure: Likewise.

    Raises:
        ValueError: An argument cannot be used.
        InvalidRequest: The environments have no describer.
        HintwiseError: From `reset` and `step`: the service failed, or refuses the request.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
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
        super().__init__(env)
        self._hinting = Hinting(
            env,
            env.single_observation_space,
            env.num_envs,
            client=client,
            describer=describer,
            memory=memory,
            form=form,
            every=every,
            dropout=dropout,
            dropout_per=dropout_per,
            guidance=guidance,
            hint_space=hint_space,
            timeout_s=timeout_s,
            on_failure=on_failure,
        )
        self.narration, self.advice = self._hinting.narration, self._hinting.advice
        self.single_observation_space = self._hinting.space
        self.observation_space = batch_space(self._hinting.space, env.num_envs)
        self._episodes = Episodes.of(env)

    @property
    def num_failures(self) -> int:
        """How often the service gave no hint that could be used."""
        return self._hinting.asker.num_failures

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._hinting.dropout.seed(seed)
        mask = reset_mask(options)
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._show(self._episodes.reset(one_each(self.env, observations), mask), infos)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        turn = self._episodes.step(one_each(self.env, observations), terminated, truncated, infos)
        shown, infos = self._show(turn, infos)
        return shown, rewards, terminated, truncated, infos

    def close(self, **kwargs: Any) -> None:
        self._hinting.asker.close()
        super().close(**kwargs)

    def _show(self, turn: Turn, infos: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        hints, final_hints = self._hinting.follow(turn)
        each = [self._hinting.observation(*pair) for pair in zip(turn.observations, hints, strict=True)]
        space = self.single_observation_space
        shown = concatenate(space, each, create_empty_array(space, self.num_envs) or ())
        finals = {i: self._hinting.observation(turn.finals[i], hint) for i, hint in final_hints.items()}
        told = {"hint": np.array(hints, dtype=object), "hint_dropped": np.array(self._hinting.dropout.dropped)}
        infos = add_info(infos, {*turn.moved, *turn.began}, self.num_envs, **told)
        return shown, final_observations(infos, finals)
