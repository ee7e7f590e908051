"""What N environments show, in words: told once, by the innermost wrapper, and read by those around it.

GuidanceReward ──reads──▶ HintObservation ──reads──▶ DescribeObservation: tells
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Protocol

import gymnasium
from gymnasium.spaces import Dict, Text
from gymnasium.vector import VectorEnv

from hintwise.advising.hints import State
from hintwise.describers import Describer, describer_for
from hintwise.describers.memory import Remembering
from hintwise.wrappers.episodes import Turn

TEXT = "text"
"""Where an observation of several parts has its text."""
NOT_OF_THE_ENVIRONMENT = ("num_envs", "vectorization_mode", "vector_kwargs", "wrappers")
"""Arguments of `make_vec` that a single environment does not take."""


class Narrator(Protocol):
    """Tells of one environment."""

    describer: Describer | None
    task: str | None
    action_phrases: tuple[str, ...]
    """Of all actions: number k names the environment's action k; empty where nobody knows any."""

    def begin(self, observation: Any) -> State:
        """Tells of an episode's first observation."""

    def go_on(self, observation: Any) -> State:
        """Tells of the observation after the one before."""


class Describing:
    """Tells what a describer says.

    Args:
        describer: Of the environment.
        memory: Observations that each text remembers, 0 to 40.

    Raises:
        ValueError: The describer has a memory already, which could not be told when an episode begins.
        InvalidRequest: `memory` is out of range.
    """

    def __init__(self, describer: Describer, memory: int) -> None:
        if isinstance(describer, Remembering):
            raise ValueError("pass the describer itself, and memory=N beside it: episodes have a memory each")
        self._memory = Remembering(describer, memory) if memory else None
        self._teller: Describer = self._memory or describer
        self.describer: Describer | None = describer
        self.task: str | None = describer.task
        self.action_phrases = tuple(describer.actions)
        self._last: Any = None

    def begin(self, observation: Any) -> State:
        if self._memory:
            self._memory.forget()
        return self._tell(observation)

    def go_on(self, observation: Any) -> State:
        if self._memory:
            self._memory.see(self._last)
        return self._tell(observation)

    def _tell(self, observation: Any) -> State:
        if self._memory:
            self._last = deepcopy(observation)  # a vector environment may write its next one into the same array
        legal = self._teller.legal_actions(observation)
        return State(self._teller.describe(observation), tuple(self.action_phrases[k] for k in legal))


class Reading:
    """Tells what the observation says itself, where it is a text or has one.

    Args:
        describer: Of the environment, for its task and the names of its actions; None: nobody knows them.
    """

    def __init__(self, describer: Describer | None) -> None:
        self.describer = describer
        self.task = describer.task if describer else None
        self.action_phrases = tuple(describer.actions) if describer else ()

    def begin(self, observation: Any) -> State:
        return State(observation if isinstance(observation, str) else observation[TEXT], self.action_phrases)

    go_on = begin


class Narration:
    """What N environments show now, and what those showed last that ended in this very step.

    Args:
        narrators: One for each environment.
    """

    def __init__(self, narrators: Sequence[Narrator]) -> None:
        self._narrators = narrators
        self.describer, self.task = narrators[0].describer, narrators[0].task
        self.action_phrases = narrators[0].action_phrases
        self.states = [State("", ())] * len(narrators)
        self.finals: dict[int, State] = {}

    def follow(self, turn: Turn) -> None:
        """Tells of what a call did."""
        self.finals = {}
        for i in turn.moved:
            if i in turn.finals:
                self.finals[i] = self._narrators[i].go_on(turn.finals[i])
            else:
                self.states[i] = self._narrators[i].go_on(turn.observations[i])
        for i in turn.began:
            self.states[i] = self._narrators[i].begin(turn.observations[i])


def within(env: Any, name: str) -> Any:
    """Returns an attribute of the nearest wrapper that has it, from this one inwards; None where none has."""
    while env is not None:
        own = getattr(env, "__dict__", {})
        if name in own:
            return own[name]
        env = own.get("env")
    return None


def narrate(
    env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any], describer: Describer | str | None, memory: int
) -> tuple[Narration, bool]:
    """Returns the narration of an environment, and whether it is a new one that its owner has to lead on.

    Raises:
        ValueError: A wrapper within tells already, so `describer` and `memory` are its to have.
        InvalidRequest: The environment has no describer.
    """
    told: Narration | None = within(env, "narration")
    if told is not None:
        if describer is not None or memory:
            raise ValueError(
                "a wrapper within describes this environment already: give it the describer and the memory"
            )
        return told, False
    if isinstance(env, VectorEnv):
        space, describers = env.single_observation_space, _describers_of_vector(env, describer)
        if is_text(space) and getattr(env.unwrapped, "shared_memory", False):
            raise ValueError(
                "Gymnasium's shared memory shows the texts of the very beginning for ever: "
                "make the AsyncVectorEnv with shared_memory=False"
            )
    else:
        space, describers = env.observation_space, [_describer_of(env, describer)]
    if is_text(space):
        return Narration([Reading(each) for each in describers]), True
    if None in describers:
        raise ValueError(f"nothing tells how to describe {env}: pass describer=, a describer or a described id")
    return Narration([Describing(each, memory) for each in describers if each]), True


def is_text(space: gymnasium.Space[Any]) -> bool:
    """Returns whether observations are texts or have one."""
    return isinstance(space, Text) or (isinstance(space, Dict) and isinstance(space.spaces.get(TEXT), Text))


def _describer_of(env: gymnasium.Env[Any, Any], describer: Describer | str | None) -> Describer | None:
    if describer is not None:
        return describer_for(describer) if isinstance(describer, str) else describer
    told: Narration | None = within(env, "narration")  # of an environment among others
    if told is not None:
        return told.describer
    return None if is_text(env.observation_space) else describer_for(env)


def _describers_of_vector(envs: VectorEnv[Any, Any, Any], describer: Describer | str | None) -> list[Describer | None]:
    if describer is not None:
        given = describer_for(describer) if isinstance(describer, str) else describer
        return [given] * envs.num_envs
    own = getattr(envs.unwrapped, "envs", None)
    if own is not None:  # they are in this process
        return [_describer_of(env, None) for env in own]
    return [_describer_of_spec(envs)] * envs.num_envs


def _describer_of_spec(envs: VectorEnv[Any, Any, Any]) -> Describer | None:
    """Returns the describer of an environment made as these were, which are in other processes."""
    if envs.spec is None:
        return None
    kwargs = {name: value for name, value in envs.spec.kwargs.items() if name not in NOT_OF_THE_ENVIRONMENT}
    alike = gymnasium.make(envs.spec.id, **kwargs)
    try:
        describer = describer_for(alike)
        same = is_text(envs.single_observation_space) or alike.observation_space == envs.single_observation_space
        return describer if same else None
    finally:
        alike.close()
