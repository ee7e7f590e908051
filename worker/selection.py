"""Chooses the checkpoint a run is judged by: the best of the last ones on validation episodes.

Once nearly every episode succeeds, advantages are little but noise, and a policy wanders: two
checkpoints ten updates apart can differ by a hundred points of return. Validation episodes have
seeds of their own, so the choice knows neither training nor evaluation episodes, and nothing is
learned from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from worker.checkpoint import kept_checkpoints, load_checkpoint
from worker.config import EvalMode
from worker.evaluate import play_episodes
from worker.seeds import FIRST_VALIDATION_SEED
from worker.served_policy import ServedPolicy
from worker.text_env import NO_ARGUMENTS


class Choice(NamedTuple):
    directory: Path
    mean_return: float  # of the validation episodes


def choose_checkpoint(
    run_dir: Path,
    served: ServedPolicy,
    env_id: str,
    *,
    env_kwargs: Mapping[str, Any] = NO_ARGUMENTS,
    memory: int = 0,
    num_episodes: int = 50,
    mode: EvalMode = "greedy",
    say: Callable[[str], None],
    before_step: Callable[[], None] = lambda: None,
) -> Choice:
    """Returns the best of a run's kept checkpoints, the later one on ties, and leaves its weights serving.

    Args:
        run_dir: Holds at least one whole checkpoint.
        served: Plays each of them in turn.
        env_id: Environment to validate in.
        env_kwargs: Arguments it is made with.
        memory: Observations of the episode that each text remembers.
        num_episodes: Validation episodes that each checkpoint plays.
        mode: How actions are chosen.
        say: Told each checkpoint's return.
        before_step: Called before every step; what it raises ends the choice.
    """
    choices: list[Choice] = []
    for directory in kept_checkpoints(run_dir):
        _serve(served, directory)
        played = play_episodes(
            served,
            env_id,
            env_kwargs=env_kwargs,
            memory=memory,
            num_episodes=num_episodes,
            first_seed=FIRST_VALIDATION_SEED,
            mode=mode,
            before_step=before_step,
        )
        choices.append(Choice(directory, played.mean_return))
        say(f"validation of {directory.name}: mean return {played.mean_return:.1f}")
    best = max(reversed(choices), key=lambda choice: choice.mean_return)
    _serve(served, best.directory)
    return best


def _serve(served: ServedPolicy, directory: Path) -> None:
    served.hold(load_checkpoint(directory).policy)
    served.resync()
