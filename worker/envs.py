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
from typing import Any, NamedTuple, Protocol

import numpy as np

from worker.buffers import Flags, Floats
from worker.seeds import episode_seed
from worker.text_env import NO_ARGUMENTS, EpisodeSnapshot, State, TextEnv


class FinishedEpisode(NamedTuple):
    env_index: int  # among the environments of the step
    episode_return: float
    length: int
    hinted: bool = False  # whether the policy was shown hints


class VectorStep(NamedTuple):
    """What N actions led to."""

    rewards: Floats  # (N,)
    terminated: Flags  # (N,)
    truncated: Flags  # (N,)
    final_states: dict[int, State]  # by environment: the last state where truncated and not terminated
    finished: list[FinishedEpisode]
    trust: float = 1.0  # how far guidance is trusted now, 0 to 1
    hint_share: float = 0.0  # probability that an episode which begins next shows the policy its hints
    shaping: Floats | None = None  # (N,) of the rewards, what guidance added; None where nothing guides


class VectorEnvs(Protocol):
    """N environments that step together, in this process or in others."""

    num_envs: int
    task: str
    action_phrases: tuple[str, ...]

    @property
    def states(self) -> list[State]:
        """The current state of each environment."""

    def step(self, choices: Sequence[int]) -> VectorStep:
        """Takes one legal action in each environment, and begins a new episode where one ended."""

    def snapshot(self) -> tuple[list[EpisodeSnapshot], list[int]]:
        """Returns each unfinished episode, and how many episodes each environment has begun."""

    def restore(self, episodes: Sequence[EpisodeSnapshot], num_begun: Sequence[int]) -> None:
        """Continues where `snapshot` was taken.

        Raises:
            EnvironmentNotReplayable: An episode went differently this time.
        """

    def close(self) -> None:
        """Ends them."""


class TextEnvs:
    """N copies of one environment in this process.

    Args:
        env_id: Gymnasium id.
        num_envs: Environments of the run; episode seeds depend on it.
        run_seed: What every episode's seed is derived from.
        env_kwargs: Arguments that each copy is made with.
        memory: Observations of the episode that each text remembers.
        indices: Which of the run's environments are here; None: all.

    Raises:
        EnvironmentUnsupported: No environment has that id or takes these arguments, or its actions are not Discrete.
    """

    def __init__(
        self,
        env_id: str,
        *,
        num_envs: int,
        run_seed: int,
        env_kwargs: Mapping[str, Any] = NO_ARGUMENTS,
        memory: int = 0,
        indices: range | None = None,
    ) -> None:
        self._run_seed, self._num_envs_of_run = run_seed, num_envs
        self._indices = range(num_envs) if indices is None else indices
        self.num_envs = len(self._indices)
        self._envs = [TextEnv(env_id, env_kwargs, memory) for _ in self._indices]
        self._num_begun = [0] * self.num_envs
        self.task = self._envs[0].task
        self.action_phrases = self._envs[0].action_phrases
        for position in range(self.num_envs):
            self._begin_episode(position)

    @property
    def states(self) -> list[State]:
        return [env.state for env in self._envs]

    def step(self, choices: Sequence[int]) -> VectorStep:
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
        return [env.snapshot() for env in self._envs], list(self._num_begun)

    def restore(self, episodes: Sequence[EpisodeSnapshot], num_begun: Sequence[int]) -> None:
        for env, episode in zip(self._envs, episodes, strict=True):
            env.restore(episode)
        self._num_begun = list(num_begun)

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _begin_episode(self, position: int) -> None:
        seed = episode_seed(
            self._run_seed, self._indices[position], self._num_begun[position], num_envs=self._num_envs_of_run
        )
        self._num_begun[position] += 1
        self._envs[position].reset(seed)
