"""N environments that step together, each episode with a seed of its own.

    step ──▶ terminated or truncated? ──▶ reset within the same step
                    │
                    └─ truncated: the final state is handed out first, for its value

Gymnasium's own vector environments reset on the next step, or hide the final observation in
`info`; here every step of every environment is a transition that happened, so there is none
to mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from worker.buffers import Flags, Floats
from worker.seeds import episode_seed
from worker.text_env import NO_ARGUMENTS, EpisodeSnapshot, State, TextEnv


class FinishedEpisode(NamedTuple):
    env_index: int
    episode_return: float
    length: int


class VectorStep(NamedTuple):
    """What N actions led to."""

    rewards: Floats  # (N,)
    terminated: Flags  # (N,)
    truncated: Flags  # (N,)
    final_states: dict[int, State]  # by environment: the last state where truncated and not terminated
    finished: list[FinishedEpisode]


class TextEnvs:
    """N copies of one environment.

    Args:
        env_id: Gymnasium id.
        num_envs: N.
        run_seed: What every episode's seed is derived from.
        env_kwargs: Arguments that each copy is made with.

    Raises:
        EnvironmentUnsupported: No environment has that id or takes these arguments, or its actions are not Discrete.
    """

    def __init__(
        self, env_id: str, *, num_envs: int, run_seed: int, env_kwargs: Mapping[str, Any] = NO_ARGUMENTS
    ) -> None:
        self._run_seed = run_seed
        self._envs = [TextEnv(env_id, env_kwargs) for _ in range(num_envs)]
        self._num_begun = [0] * num_envs
        self.task = self._envs[0].task
        self.action_phrases = self._envs[0].action_phrases
        for index in range(num_envs):
            self._begin_episode(index)

    @property
    def num_envs(self) -> int:
        return len(self._envs)

    @property
    def states(self) -> list[State]:
        """The current state of each environment."""
        return [env.state for env in self._envs]

    def step(self, choices: Sequence[int]) -> VectorStep:
        """Takes one legal action in each environment, and begins a new episode where one ended."""
        steps = [env.step(choice) for env, choice in zip(self._envs, choices, strict=True)]
        final_states: dict[int, State] = {}
        finished: list[FinishedEpisode] = []
        for index, (env, step) in enumerate(zip(self._envs, steps, strict=True)):
            if not (step.terminated or step.truncated):
                continue
            if not step.terminated:
                final_states[index] = step.state
            finished.append(FinishedEpisode(index, env.episode_return, env.length))
            self._begin_episode(index)
        return VectorStep(
            rewards=np.array([step.reward for step in steps]),
            terminated=np.array([step.terminated for step in steps]),
            truncated=np.array([step.truncated for step in steps]),
            final_states=final_states,
            finished=finished,
        )

    def snapshot(self) -> tuple[list[EpisodeSnapshot], list[int]]:
        """Returns each unfinished episode, and how many episodes each environment has begun."""
        return [env.snapshot() for env in self._envs], list(self._num_begun)

    def restore(self, episodes: Sequence[EpisodeSnapshot], num_begun: Sequence[int]) -> None:
        """Continues where `snapshot` was taken.

        Raises:
            EnvironmentNotReplayable: An episode went differently this time.
        """
        for env, episode in zip(self._envs, episodes, strict=True):
            env.restore(episode)
        self._num_begun = list(num_begun)

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _begin_episode(self, index: int) -> None:
        seed = episode_seed(self._run_seed, index, self._num_begun[index], num_envs=self.num_envs)
        self._num_begun[index] += 1
        self._envs[index].reset(seed)
