"""Language as reward of a vector environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import iterate

from hintwise.advising.asking import OnFailure
from hintwise.client import Client
from hintwise.describers import Describer
from hintwise.wrappers.episodes import Episodes, add_info, one_each, reset_mask
from hintwise.wrappers.guiding import Guiding, RewardForm


class GuidanceReward(VectorWrapper[Any, Any, Any, Any, Any]):
    """Adds to each reward of a vector environment `weight` times what following a hint is worth.

    One request scores all that is new, beside one for hints where they are asked for. `infos["original_reward"]`,
    `infos["guidance_reward"]` and `infos["guidance_failed"]` are as those of the single form, an array each, with the
    masks of the environments whose step was a transition: what `NEXT_STEP` autoreset puts between two episodes is
    none, and earns nothing.

    Args:
        env: A vector environment.
        client: As the single form takes it, as all that follows.
        gamma: Likewise.
        form: Likewise.
        weight: Likewise.
        hint: Likewise.
        every: Likewise.
        guidance: Likewise.
        describer: Likewise. Environments in other processes are described by what `make_vec` was told.
        memory: Likewise.
        timeout_s: Likewise.
        on_failure: Likewise.

    Raises:
        ValueError: An argument cannot be used.
        InvalidRequest: The environments have no describer.
        HintwiseError: From `reset` and `step`: the service failed, or refuses the request.
        ScorerChanged: From `reset` and `step`: the service scores with another model than before.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        client: Client | str | None = None,
        *,
        gamma: float | None = None,
        form: RewardForm = "potential",
        weight: float = 1.0,
        hint: str | None = None,
        every: int | None = None,
        guidance: Mapping[str, Any] | None = None,
        describer: Describer | str | None = None,
        memory: int = 0,
        timeout_s: float = 10.0,
        on_failure: OnFailure = "raise",
    ) -> None:
        super().__init__(env)
        self.weight = weight
        self._guiding = Guiding(
            env,
            env.num_envs,
            client=client,
            gamma=gamma,
            form=form,
            hint=hint,
            every=every,
            guidance=guidance,
            describer=describer,
            memory=memory,
            timeout_s=timeout_s,
            on_failure=on_failure,
        )
        self.narration, self.advice = self._guiding.narration, self._guiding.advice
        self._episodes = Episodes.of(env)

    @property
    def num_failures(self) -> int:
        """How often the service could not be asked."""
        return self._guiding.asker.num_failures

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask, before = reset_mask(options), self._guiding.moments()
        observations, infos = self.env.reset(seed=seed, options=options)
        turn = self._episodes.reset(one_each(self.env, observations), mask)
        self._guiding.follow(turn, before, [0] * self.num_envs)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        before = self._guiding.moments()
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        turn = self._episodes.step(one_each(self.env, observations), terminated, truncated, infos)
        given = [int(action) for action in iterate(self.env.action_space, actions)]
        added, failed = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=bool)
        for i, paid in self._guiding.follow(turn, before, given).items():
            added[i], failed[i] = self.weight * paid.reward, not paid.is_known
        told = {"original_reward": np.copy(rewards), "guidance_reward": added.copy(), "guidance_failed": failed}
        infos = add_info(infos, turn.moved, self.num_envs, **told)
        return observations, rewards + added, terminated, truncated, infos

    def close(self, **kwargs: Any) -> None:
        self._guiding.asker.close()
        super().close(**kwargs)
