"""An agent that only obeys: it asks for a hint, takes the best-aligned action, and learns nothing.

A hint is drawn, not the likeliest: an agent without memory that is wrong in one state comes back to
it for ever if it always hears the same. Where the teacher makes use of a memory the texts have one.
Episodes are played side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

from worker.pretraining.reader import Readable, Reader
from worker.pretraining.states import State, is_success, state_of
from worker.pretraining.worlds import MEMORY_REACH, Episode, World

TEMPERATURE = 0.5
MAX_STEPS = 500


class Outcome(NamedTuple):
    """What became of one episode."""

    success: bool
    total: float
    """Sum of its rewards."""


class _Player:
    """One episode that is played."""

    def __init__(self, world: World, episode: Episode) -> None:
        self._world = world
        self._episode, self._env, self._describer = episode, episode.env, episode.describer
        self._observation, _ = self._env.reset(seed=episode.seed)
        self._total = 0.0
        self.outcome: Outcome | None = None

    def state(self) -> State:
        """Returns what the model is asked about; a teacher says nothing here."""
        return state_of(self._world, self._describer, self._observation)

    def step(self, action: str) -> None:
        """Takes one step, and closes the environment after the last."""
        number = self._describer.actions.index(action)
        self._episode.see(self._observation)
        self._observation, reward, terminated, truncated, _ = self._env.step(number)
        self._total += float(reward)
        if terminated or truncated:
            won = terminated and is_success(self._world, float(reward))
            self.end(Outcome(won, self._total))

    def end(self, outcome: Outcome | None = None) -> None:
        """Ends the episode, without success where the environment has not ended it."""
        self.outcome = outcome or Outcome(False, self._total)
        self._env.close()


def play(reader: Reader, world: World, seeds: Sequence[int], *, temperature: float = TEMPERATURE) -> list[Outcome]:
    """Returns how the episodes of these seeds end when the model's hints are obeyed.

    Args:
        reader: Of the model.
        world: Whose episodes are played, each for `MAX_STEPS` at most.
        seeds: Of the episodes.
        temperature: Of the hints.
    """
    reach = MEMORY_REACH if world.teacher_remembers else 0
    players = [_Player(world, world.open(seed, reach)) for seed in seeds]
    for step in range(MAX_STEPS):
        playing = [player for player in players if player.outcome is None]
        if not playing:
            break
        states = [player.state() for player in playing]
        hints: list[str] = reader.hints(states, temperature=temperature, seed=step)
        for player, action in zip(playing, obeyed(reader, states, hints), strict=True):
            player.step(action)
    for player in players:
        if player.outcome is None:
            player.end()
    return [player.outcome for player in players if player.outcome is not None]


def obeyed(reader: Reader, states: Sequence[Readable], hints: Sequence[str]) -> list[str]:
    """Returns the action whose log-probability each hint raises most."""
    hinted = reader.action_log_probs(states, hints)
    plain = reader.action_log_probs(states, [None] * len(states))
    chosen: list[str] = []
    for state, with_hint, without in zip(states, hinted, plain, strict=True):
        raised = [after - before for after, before in zip(with_hint, without, strict=True)]
        chosen.append(state.actions[raised.index(max(raised))])
    return chosen


def summary(world: World, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Returns the mean return, and the share of successes where episodes have an end to reach."""
    mean_return = {"mean_return": fmean(outcome.total for outcome in outcomes)}
    return mean_return | ({"obeyed": fmean(outcome.success for outcome in outcomes)} if world.progress else {})
