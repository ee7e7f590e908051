"""Plays one episode and tells of each moment what a film shows of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.buffers import Behaviour
from worker.config import EvalMode
from worker.errors import WorkerError
from worker.seeds import evaluation_action_seed
from worker.served_policy import ServedPolicy
from worker.text_env import State, TextEnv

Ask = Callable[[State], str]


@dataclass(frozen=True)
class Moment:
    """A state of the episode and what the policy makes of it."""

    frame: NDArray[np.uint8]  # (height, width, 3)
    text: str  # what the policy read
    hint: str | None  # None where nobody asked for one
    probabilities: dict[str, float]  # of the legal actions; empty once the episode has ended
    action: str | None  # the one that was taken
    step: int  # taken before
    episode_return: float
    ending: str | None  # how the episode ended; None while it goes on


def moments(
    env: TextEnv, served: ServedPolicy, *, seed: int, mode: EvalMode, max_steps: int, hint_for: Ask | None = None
) -> Iterator[Moment]:
    """Yields each state of the episode that `evaluate` plays for `seed`, and its end.

    Args:
        env: Made with render_mode rgb_array.
        served: Answers with the weights to be seen.
        seed: Of the episode; with sampled actions, of these too.
        mode: How actions are chosen.
        max_steps: The film ends there, if the episode has not.
        hint_for: Asked for a hint about each state; it is shown, and the policy is not told.

    Raises:
        NotRecorded: The environment draws no picture.
        WorkerError: Other weights keep answering.
    """
    state, ending = env.reset(seed), None
    while ending is None:
        before = env.length, env.episode_return
        action_seed = [evaluation_action_seed(seed, env.length)]
        asked = served.ask([state], Behaviour(mode), task=env.task, seed=action_seed)
        if asked.stale:
            raise WorkerError("other weights than those to be filmed keep answering; use a service of its own")
        answer = asked.results[0]
        odds = {name: math.exp(value) for name, value in zip(state.actions, answer.log_probs, strict=True)}
        hint = hint_for(state) if hint_for else None
        yield Moment(env.picture(), state.text, hint, odds, state.actions[answer.action], *before, None)
        step = env.step(answer.action)
        state = step.state
        if step.terminated or step.truncated:
            ending = "ended" if step.terminated else "time limit"
        elif env.length >= max_steps:
            ending = "the film ends here"
    yield Moment(env.picture(), state.text, None, {}, None, env.length, env.episode_return, ending)
