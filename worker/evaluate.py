"""Plays fresh episodes with a trained policy and reports the environment's own return.

Episode i is reset with seed S + i, and the seed of each action derives from the episode's seed
and the step alone: how many environments run side by side changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hintwise.client import Client
from worker.buffers import Behaviour
from worker.checkpoint import RunState
from worker.config import EvalMode, EvaluateConfig
from worker.connection import Connect, connect
from worker.errors import WorkerError
from worker.guidance.hints import Hints, service_hints
from worker.guidance.progress import Progress
from worker.guidance.settings import HintEvery
from worker.seeds import FIRST_EVALUATION_SEED, evaluation_action_seed
from worker.served_policy import ServedPolicy
from worker.served_run import judged_checkpoint, say, serving
from worker.text_env import NO_ARGUMENTS, State, TextEnv

NUM_ENVS = 64


@dataclass(frozen=True)
class Evaluation:
    """What the episodes came to."""

    mean_return: float
    std_return: float  # over the episodes, ddof 0
    min_return: float
    success_rate: float | None  # share that succeeded, as `TextEnv.successes` says; None where nobody knows
    episodes: int
    seed: int  # of the first episode
    mode: EvalMode
    env_id: str
    env_kwargs: dict[str, Any]
    memory: int
    guidance: str  # `observation`: the policy was shown hints; `none`: it played alone
    policy_version: int

    def __str__(self) -> str:
        succeeded = "" if self.success_rate is None else f", success {self.success_rate:.0%}"
        return (
            f"mean return {self.mean_return:.1f}, standard deviation {self.std_return:.1f}{succeeded}, "
            f"{self.episodes} episodes from seed {self.seed}, {self.mode}"
        )


@dataclass(eq=False)
class _Player:
    """One environment that plays one episode after another."""

    env: TextEnv
    episode: int = -1  # index of the one it plays


def evaluate(config: EvaluateConfig, *, connect: Connect = connect) -> None:
    """Evaluates the checkpoint a run chose, or its last one while it goes on, and prints one JSON line.

    Raises:
        CheckpointUnusable: The directory holds no whole checkpoint.
        ServiceUnreachable: Nobody answers.
        ServiceMismatch: The service runs another model.
    """
    directory, checkpoint = judged_checkpoint(config.run_dir)
    state = checkpoint.state
    with serving(checkpoint, config, with_hints=config.guidance != "none", connect=connect) as served:
        if config.service_url:
            say(f"pushed {directory} to {config.service_url} as version {served.policy_version}; it stays there")
        evaluation = play_episodes(
            served,
            str(state.config["env_id"]),
            env_kwargs=state.env_kwargs,
            memory=state.memory,
            num_episodes=config.episodes,
            first_seed=config.seed,
            mode="greedy" if config.greedy else "sample",
            num_envs=config.num_envs,
            hint_every=_hint_every(config, state),
        )
    print(json.dumps({**asdict(evaluation), "checkpoint": str(directory), "steps": state.step}))  # noqa: T201


def _hint_every(config: EvaluateConfig, state: RunState) -> HintEvery | None:
    """Returns how long a hint is held that the policy is shown; None where it is shown none."""
    if config.guidance == "none":
        return None
    return state.hint_every if config.hint_every is None else config.hint_every


def play_episodes(
    served: ServedPolicy,
    env_id: str,
    *,
    env_kwargs: Mapping[str, Any] = NO_ARGUMENTS,
    memory: int = 0,
    num_episodes: int = 100,
    first_seed: int = FIRST_EVALUATION_SEED,
    mode: EvalMode = "greedy",
    num_envs: int = NUM_ENVS,
    hint_every: HintEvery | None = None,
    before_step: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Returns the outcome of `num_episodes` episodes under the served policy.

    Args:
        served: Chooses the actions.
        env_id: Gymnasium id.
        env_kwargs: Arguments the environment is made with besides.
        memory: Observations of the episode that each text remembers.
        num_episodes: Episodes to play; the first has `first_seed`.
        mode: How actions are chosen.
        num_envs: Environments side by side.
        hint_every: How long a hint is held which the policy is shown, as `--hint-every`; None: it plays without hints.
        before_step: Called before every step; what it raises ends the play.

    Raises:
        WorkerError: Other weights keep answering, so that the numbers would be of no policy.
    """
    players = [_Player(TextEnv(env_id, env_kwargs, memory)) for _ in range(min(num_envs, num_episodes))]
    first = players[0].env
    hints = None if hint_every is None else _hints(served.client, first.task, len(players), hint_every)
    returns = _play_all(served, players, hints, num_episodes, first_seed, mode, before_step)
    succeeded = first.successes(returns)
    for player in players:
        player.env.close()
    return Evaluation(
        mean_return=float(returns.mean()),
        std_return=float(returns.std()),
        min_return=float(returns.min()),
        success_rate=None if succeeded is None else float(succeeded.mean()),
        episodes=num_episodes,
        seed=first_seed,
        mode=mode,
        env_id=env_id,
        env_kwargs=dict(env_kwargs),
        memory=memory,
        guidance="none" if hints is None else "observation",
        policy_version=served.policy_version,
    )


def _hints(client: Client, task: str, num_envs: int, every: HintEvery) -> Hints:
    return Hints(service_hints(client, task), num_envs, every, Progress(client, task).of)


def _play_all(
    served: ServedPolicy,
    players: list[_Player],
    hints: Hints | None,
    num_episodes: int,
    first_seed: int,
    mode: EvalMode,
    before_step: Callable[[], None],
) -> NDArray[np.float64]:
    """Returns the return of each episode; a player whose episode ended takes the next one that waits."""
    returns = np.zeros(num_episodes)
    waiting = iter(range(num_episodes))
    playing = [player for player in players if _begin_next(player, waiting, first_seed)]
    while playing:
        before_step()
        seeds = None if mode == "greedy" else [_seed(player, first_seed) for player in playing]
        states = [player.env.state for player in playing]
        if hints is not None:
            states = _advised(hints, players, playing)
        asked = served.ask(states, Behaviour(mode), task=playing[0].env.task, seed=seeds)
        if asked.stale:
            raise WorkerError("other weights than the ones to evaluate keep answering; use a service of its own")
        for player, result in zip(list(playing), asked.results, strict=True):
            step = player.env.step(result.action)
            if step.terminated or step.truncated:
                returns[player.episode] = player.env.episode_return
                if not _begin_next(player, waiting, first_seed):
                    playing.remove(player)
    return returns


def _advised(hints: Hints, players: Sequence[_Player], playing: Sequence[_Player]) -> list[State]:
    """Returns the states of those that play, with their hints; asks for those that are due."""
    places = [players.index(player) for player in playing]
    states = {i: player.env.state for i, player in zip(places, playing, strict=True)}
    hints.follow(states, began=[i for i, player in zip(places, playing, strict=True) if player.env.length == 0])
    return [state._replace(hint=hints.in_force[i] or None) for i, state in states.items()]


def _seed(player: _Player, first_seed: int) -> int:
    return evaluation_action_seed(first_seed + player.episode, player.env.length)


def _begin_next(player: _Player, waiting: Iterator[int], first_seed: int) -> bool:
    """Begins the next episode that waits; returns False when none does."""
    episode = next(waiting, None)
    if episode is None:
        return False
    player.episode = episode
    player.env.reset(first_seed + episode)
    return True
