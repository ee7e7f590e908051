"""One Gymnasium environment in words, whose current episode can be replayed.

An episode is a function of its seed and its actions, so a snapshot is exactly these: no pickle,
and it works for every environment that keeps Gymnasium's promise about seeds.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, redirect_stdout
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, field_validator

from hintwise.describers import Describer, describer_for
from hintwise.describers.memory import Remembering
from worker.errors import EnvironmentNotReplayable, EnvironmentUnsupported, NotRecorded, blamed
from worker.minigrid_levels import is_level, register_levels

MAX_EPISODE_STEPS = 10_000
"""Time limit of an environment that has none of its own, such as CliffWalking: no episode lasts for ever."""

NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})

REFUSED_BY_ENVIRONMENT = (
    gymnasium.error.Error,
    ImportError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
)
"""What making an environment raises over its id or its arguments; each environment has errors of its own."""


class State(NamedTuple):
    """What a policy is asked about."""

    text: str
    actions: tuple[str, ...]  # phrases of the legal actions
    hint: str | None = None  # what the policy is shown besides
    advice: str | None = None  # the hint in force, shown or not; None where nobody gives any


class Step(NamedTuple):
    """What one action led to."""

    reward: float
    terminated: bool
    truncated: bool
    state: State


class GuidanceSnapshot(BaseModel):
    """What guided an unfinished episode."""

    model_config = ConfigDict(extra="forbid")

    hint: str
    goal: str = ""  # of the hint; this and what else has a default was not there at first
    age: int  # steps of the episode
    held: int = 0  # steps since the hint was asked for
    completed: tuple[str, ...] = ()  # goals of the episode's hints that were done
    dropped: bool
    propensity: float | None = None  # with which hints were to be shown
    weight: float
    memory: float  # of what pays for guidance
    earned: float  # in the episode so far
    paid: float = 0.0  # of it, with its weight and up to the cap
    num_steps: int  # of all environments, since the run began
    gate: tuple[float, Sequence[tuple[bool, float, float, float]]]  # of all environments: `gate.GateState`

    @field_validator("gate", mode="before")
    @classmethod
    def _without_episodes_of_another_form(cls, gate: Any) -> Any:
        """Leaves out episodes of fewer numbers: of them nobody noted who saw hints, or how likely that was."""
        match gate:
            case [value, [*episodes]]:
                return value, [each for each in episodes if not isinstance(each, list) or len(each) not in (2, 3)]
        return gate


class EpisodeSnapshot(BaseModel):
    """An unfinished episode: what it was made from, and what it showed last."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    actions: list[int]
    episode_return: float
    observation: Any
    guidance: GuidanceSnapshot | None = None


class TextEnv:
    """A Gymnasium environment with Discrete actions, seen through its describer.

    Args:
        env_id: Gymnasium id.
        env_kwargs: Arguments it is made with besides.
        memory: Observations of the episode that each text remembers.

    Raises:
        EnvironmentUnsupported: No environment has that id or takes these arguments, or its actions are not Discrete.
    """

    def __init__(self, env_id: str, env_kwargs: Mapping[str, Any] = NO_ARGUMENTS, memory: int = 0) -> None:
        self.env_id = env_id
        self._env = _make(env_id, env_kwargs)
        describer = describer_for(self._env)
        self._memory = Remembering(describer, memory) if memory else None
        self._describer: Describer = self._memory or describer
        self.task: str = self._describer.task
        self._observation: Any = None
        self._legal: list[int] = []
        self._seed = 0
        self._actions: list[int] = []
        self.episode_return = 0.0
        self.state = State("", ())

    @property
    def length(self) -> int:
        """Steps of the current episode so far."""
        return len(self._actions)

    @property
    def describer(self) -> Describer:
        """What its observations are told by."""
        return self._describer

    @property
    def observation(self) -> Any:
        """The one that `state` tells of."""
        return self._observation

    @property
    def num_actions(self) -> int:
        """Of the environment, whatever its describer calls them."""
        return int(cast("gymnasium.spaces.Discrete", self._env.action_space).n)

    @property
    def action_phrases(self) -> tuple[str, ...]:
        """Phrases of all actions, legal or not: number k names the environment's action k."""
        return tuple(self._describer.actions)

    @property
    def reward_threshold(self) -> float | None:
        """Return at which the environment's authors call it solved, where they said so."""
        return self._env.spec.reward_threshold if self._env.spec else None

    def successes(self, returns: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Returns which episodes of such returns succeeded, None where nobody says what success is.

        One that reached the reward threshold did; in MiniGrid and BabyAI, which pay for success alone, one with any.
        """
        if self.reward_threshold is not None:
            return returns >= self.reward_threshold
        return returns > 0 if is_level(self.env_id) else None

    def reset(self, seed: int) -> State:
        """Begins the episode of `seed`.

        Raises:
            EnvironmentFailed: The environment or its describer raised something; so may `step`.
        """
        # On standard output BabyAI prints the missions that it throws away.
        with blamed(f"{self.env_id} at its reset of seed {seed}"), redirect_stdout(sys.stderr):
            observation, _ = self._env.reset(seed=seed)
        self._seed, self._actions, self.episode_return = seed, [], 0.0
        if self._memory:
            self._memory.forget()
        return self._see(observation)

    def step(self, choice: int) -> Step:
        """Takes the legal action number `choice` of the current state. An ended episode is not reset."""
        return self._take(self._legal[choice])

    def snapshot(self) -> EpisodeSnapshot:
        """Returns what `restore` needs to continue the current episode."""
        return EpisodeSnapshot(
            seed=self._seed,
            actions=list(self._actions),
            episode_return=self.episode_return,
            observation=plain(self._observation),
        )

    def restore(self, snapshot: EpisodeSnapshot) -> None:
        """Replays the episode of `snapshot`.

        Raises:
            EnvironmentNotReplayable: It ended in another observation.
        """
        self.reset(snapshot.seed)
        for action in snapshot.actions:
            self._take(action)
        if json.dumps(plain(self._observation)) != json.dumps(snapshot.observation):
            raise EnvironmentNotReplayable(
                f"{self.env_id} does not replay: seed {snapshot.seed} and {len(snapshot.actions)} actions led to "
                "another observation than before, so its runs cannot be resumed exactly; start a new run"
            )

    def picture(self) -> NDArray[np.uint8]:
        """Returns what the environment looks like now, (height, width, 3); it is made with render_mode rgb_array.

        Raises:
            NotRecorded: It draws no picture, or lacks a package for it.
        """
        try:
            drawn = self._env.render()
        except (gymnasium.error.Error, NotImplementedError, ImportError) as error:
            raise NotRecorded(f"{self.env_id} cannot be drawn: {' '.join(str(error).split())}") from error
        if not isinstance(drawn, np.ndarray) or drawn.ndim != 3:
            raise NotRecorded(f"{self.env_id} draws no picture: its render modes are {self._render_modes}")
        return drawn.astype(np.uint8, copy=False)

    @property
    def steps_per_s(self) -> float | None:
        """How many steps its authors show in a second, where they said so."""
        fps = self._env.metadata.get("render_fps")
        return float(fps) if fps else None

    @property
    def _render_modes(self) -> list[str]:
        return list(self._env.metadata.get("render_modes") or [])

    def close(self) -> None:
        self._env.close()

    def _take(self, action: int) -> Step:
        with blamed(f"{self.env_id} at step {self.length + 1} of seed {self._seed}"):
            observation, given, *ends, _ = self._env.step(action)
            reward, (terminated, truncated) = float(given), map(bool, ends)
            if not math.isfinite(reward):
                raise ValueError(f"the reward is {reward}")
        self._actions.append(action)
        self.episode_return += reward
        if self._memory:
            with blamed(f"the describer of {self.env_id}"):
                self._memory.see(self._observation)
        return Step(reward, terminated, truncated, self._see(observation))

    def _see(self, observation: Any) -> State:
        self._observation = observation
        with blamed(f"the describer of {self.env_id}"):
            self._legal = self._describer.legal_actions(observation)
            names = self._describer.actions
            self.state = State(self._describer.describe(observation), tuple(names[action] for action in self._legal))
        return self.state


def plain(observation: Any) -> Any:
    """Returns an observation as JSON holds it: arrays as lists, exactly."""
    if isinstance(observation, np.ndarray | np.generic):
        return observation.tolist()
    if isinstance(observation, dict):
        return {str(key): plain(value) for key, value in observation.items()}
    if isinstance(observation, tuple | list):
        return [plain(value) for value in observation]
    return observation


def action_phrases(env_id: str, env_kwargs: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the phrases of all actions of an environment, in its own order.

    Raises:
        EnvironmentUnsupported: No environment has that id, or its actions are not Discrete.
    """
    with closing(TextEnv(env_id, env_kwargs)) as env:
        return env.action_phrases


def _make(env_id: str, env_kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        register_levels(env_id)
        env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **env_kwargs)
    except REFUSED_BY_ENVIRONMENT as error:
        given = f" with env_kwargs {json.dumps(dict(env_kwargs))}" if env_kwargs else ""
        reason = f"{type(error).__name__}: {error}"
        raise EnvironmentUnsupported(f"environment {env_id!r} could not be made{given}: {reason}") from error
    if not isinstance(env.action_space, gymnasium.spaces.Discrete):
        raise EnvironmentUnsupported(
            f"{env_id} has the action space {env.action_space}; only Discrete ones are supported"
        )
    if env.spec is not None and env.spec.max_episode_steps is None:
        env = gymnasium.wrappers.TimeLimit(env, MAX_EPISODE_STEPS)
    return env
