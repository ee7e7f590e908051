"""Language as reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from hintwise.advising.asking import OnFailure
from hintwise.client import Client
from hintwise.describers import Describer
from hintwise.wrappers.episodes import Episodes
from hintwise.wrappers.guiding import Guiding, RewardForm


class GuidanceReward(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Adds to each reward `weight` times what following a hint is worth.

    `info["original_reward"]` is the environment's own, `info["guidance_reward"]` what was added, and
    `info["guidance_failed"]` whether the service could not be asked.

    | form        | added                                             | promise                                   |
    | ----------- | ------------------------------------------------- | ----------------------------------------- |
    | `potential` | gamma * Phi after the step - Phi before it        | leaves the optimal policy as it is        |
    | `alignment` | tanh(log pi(a given s, h) - log pi(a given s))    | none: it pays for obedience at every step |

    Args:
        env: A single environment; `hintwise.wrappers.vector` has the form for vector environments.
        client: A client, whose own limits hold; or the service's address. Default: `HINTWISE_URL`, or this machine.
        gamma: The discount that the trainer uses; `potential` needs it, and with another it changes the optimum.
        form: `potential` or `alignment`.
        weight: What it counts.
        hint: One hint for all episodes. Default: those of the `HintObservation` within, also while it withholds
            them; without one, the guidance model's.
        every: Steps that a hint of the guidance model is held; None: as long as the episode.
        guidance: Arguments of `Client.guidance`, as `HintObservation` takes them.
        describer: Describer, or id of an environment that has one. Default: the environment's own, or that of a
            wrapper within.
        memory: Observations of the episode that each description remembers, 0 to 40.
        timeout_s: Seconds that the service may take, where an address was given.
        on_failure: `raise`, or `skip`: where the service is away, slow or full, no bonus, and the potential of the
            step before; warned of once, and counted in `num_failures`.

    Raises:
        ValueError: An argument cannot be used.
        InvalidRequest: The environment has no describer.
        HintwiseError: From `reset` and `step`: the service failed, or refuses the request.
        ScorerChanged: From `reset` and `step`: the service scores with another model than before.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
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
        chosen: dict[str, Any] = {
            "client": client,
            "gamma": gamma,
            "form": form,
            "hint": hint,
            "every": every,
            "guidance": guidance,
            "describer": describer,
            "memory": memory,
            "timeout_s": timeout_s,
            "on_failure": on_failure,
        }
        RecordConstructorArgs.__init__(self, weight=weight, **chosen)
        gymnasium.Wrapper.__init__(self, env)
        self._guiding, self.weight = Guiding(env, 1, **chosen), weight
        self.narration, self.advice = self._guiding.narration, self._guiding.advice
        self._episodes = Episodes()

    @property
    def num_failures(self) -> int:
        """How often the service could not be asked."""
        return self._guiding.asker.num_failures

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        before = self._guiding.moments()
        observation, info = self.env.reset(seed=seed, options=options)
        self._guiding.follow(self._episodes.reset([observation]), before, [0])
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        before = self._guiding.moments()
        observation, reward, terminated, truncated, info = self.env.step(action)
        turn = self._episodes.step([observation], [terminated], [truncated], info)
        paid = self._guiding.follow(turn, before, [int(action)]).get(0)
        added = self.weight * paid.reward if paid else 0.0
        failed = paid is not None and not paid.is_known
        info = {**info, "original_reward": float(reward), "guidance_reward": added, "guidance_failed": failed}
        return observation, float(reward) + added, terminated, truncated, info

    def close(self) -> None:
        self._guiding.asker.close()
        super().close()
