"""Films one evaluation episode of a run's checkpoint: wiring alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing

from PIL import Image

from hintwise.client import Client
from worker.algorithms.hyperparameters import HYPERPARAMETERS, Algorithm, QHyperparameters
from worker.checkpoint import RunState
from worker.connection import Connect, connect
from worker.experiment_config import RecordConfig
from worker.recording.episode import Ask, Moment, moments
from worker.recording.film import check_film, write_film
from worker.recording.picture import Composer
from worker.served_run import judged_checkpoint, say, serving
from worker.text_env import State, TextEnv

FILM = "episode.gif"
DEFAULT_FPS = 10.0
END_S = 1.5
"""How long the last picture stays."""
MAX_HINT_TOKENS = 32
PROBABILITIES, SOFTMAX_OF_VALUES = "action probabilities", "softmax of the action values"
"""What the bars stand for; DQN and SARSA do not act by them, but they show how far apart their values are."""


def record(config: RecordConfig, *, connect: Connect = connect) -> None:
    """Films the episode that `evaluate` plays for the same seed, and prints where the film is.

    Raises:
        CheckpointUnusable: The directory holds no whole checkpoint.
        UsageError: The film's name has an ending that is not known.
        NotRecorded: The environment draws no picture, or a package is missing.
        HintwiseError: The service cannot be used.
    """
    out = config.out or config.run_dir / FILM
    check_film(out)
    _, checkpoint = judged_checkpoint(config.run_dir)
    state = checkpoint.state
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pictures are drawn in memory; there may be no display
    with (
        closing(_drawn_env(state)) as env,
        serving(checkpoint, config, with_hints=config.hints, connect=connect) as served,
    ):
        told = moments(
            env,
            served,
            seed=config.seed,
            mode="greedy" if config.greedy else "sample",
            max_steps=config.max_steps,
            hint_for=_asker(served.client, env) if config.hints else None,
        )
        fps = config.fps or env.steps_per_s or DEFAULT_FPS
        composer = _composer(state, env.num_actions, config.hints)
        write_film(out, _pictures(told, composer, fps), fps=fps)
    print(out)  # noqa: T201


def _composer(state: RunState, num_actions: int, with_hints: bool) -> Composer:
    """Returns what composes the pictures, and says by whom the episode is played."""
    algorithm: Algorithm = state.config["algorithm"]
    played_by = f"{algorithm.upper()} on {state.model}, trained for {state.step:,} steps"
    odds = SOFTMAX_OF_VALUES if issubclass(HYPERPARAMETERS[algorithm], QHyperparameters) else PROBABILITIES
    return Composer(str(state.config["env_id"]), played_by, odds, num_actions=num_actions, with_hints=with_hints)


def _pictures(told: Iterator[Moment], composer: Composer, fps: float) -> Iterator[Image.Image]:
    """Yields the pictures; the last one stays."""
    for moment in told:
        picture = composer.compose(moment)
        yield picture
        if moment.ending is not None:
            say(f"{moment.step} steps, return {moment.episode_return:g}: {moment.ending}")
            for _ in range(round(END_S * fps)):
                yield picture


def _drawn_env(state: RunState) -> TextEnv:
    """Returns the run's environment, drawing pictures."""
    kwargs = {**state.env_kwargs, "render_mode": "rgb_array"}
    return TextEnv(str(state.config["env_id"]), kwargs, state.memory)


def _asker(client: Client, env: TextEnv) -> Ask:
    """Returns what asks the guidance model about a state, for its likeliest hint."""

    def ask(state: State) -> str:
        answer = client.guidance(
            [state.text], list(state.actions), task=env.task, temperature=0.0, max_new_tokens=MAX_HINT_TOKENS
        )
        return answer.results[0].hints[0].text

    return ask
