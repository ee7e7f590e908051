"""An agent that only obeys, on any environment: a fresh hint at every step, the action that it raises most.

    python -m benchmarks.obey_only --env-id MiniGrid-DoorKey-8x8-v0 [--model embedded-language]

It learns nothing. It plays the episodes that trained policies are judged by, 100 from seed 900,000, and is judged as
they are. Hints are drawn at the temperature of `worker.pretraining.obey`: without a memory, one wrong hint that is
always the same would lead it back for ever. Nothing is written; benchmarks.guided_training has it as a row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import torch

from hintwise.language_model import load_language_model
from worker.evaluate import Evaluation, play_episodes
from worker.pretraining.obey import TEMPERATURE, obeyed
from worker.pretraining.reader import Reader
from worker.served_policy import ServedPolicy
from worker.text_env import NO_ARGUMENTS, State

FIRST_SEED, NUM_EPISODES = 900_000, 100
GUIDANCE_MODEL = "embedded-language"
"""What a service writes hints with unless it is told otherwise."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env-id", required=True)
    parser.add_argument("--env-kwargs", type=json.loads, default={})
    parser.add_argument("--model", default=GUIDANCE_MODEL)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reader = Reader(load_language_model(arguments.model))
    print(json.dumps(asdict(obey_only(reader, arguments.env_id, env_kwargs=arguments.env_kwargs))))


class Told(NamedTuple):
    """What the model is asked about."""

    task: str
    text: str
    actions: tuple[str, ...]


class Chosen(NamedTuple):
    """The number of a legal action."""

    action: int


class Answers(NamedTuple):
    """What is asked of a served policy, as far as an evaluation reads it."""

    results: list[Chosen]
    stale: bool = False


class Obedient:
    """Stands in an evaluation for the policy that a service serves.

    Args:
        reader: Of the guidance model.
    """

    policy_version = 0

    def __init__(self, reader: Reader) -> None:
        self._reader, self._num_asked = reader, 0

    def ask(self, states: Sequence[State], behaviour: object, *, task: str, seed: object) -> Answers:
        told = [Told(task, state.text, state.actions) for state in states]
        # As training asks for hints: with the legal actions.
        hints = self._reader.hints(told, temperature=TEMPERATURE, seed=self._num_asked, list_actions=True)
        self._num_asked += 1
        actions = obeyed(self._reader, told, hints)
        return Answers([Chosen(each.actions.index(action)) for each, action in zip(told, actions, strict=True)])


def obey_only(
    reader: Reader,
    env_id: str,
    *,
    env_kwargs: Mapping[str, Any] = NO_ARGUMENTS,
    memory: int = 0,
    num_episodes: int = NUM_EPISODES,
) -> Evaluation:
    """Returns what the hints of a model come to where they alone are obeyed.

    Args:
        reader: Of the model.
        env_id: Gymnasium id.
        env_kwargs: Arguments the environment is made with besides.
        memory: Observations of the episode that each text remembers.
        num_episodes: Episodes to play, all side by side.
    """
    return play_episodes(
        cast("ServedPolicy", Obedient(reader)),  # all of it that an evaluation without hints asks
        env_id,
        env_kwargs=env_kwargs,
        memory=memory,
        num_episodes=num_episodes,
        first_seed=FIRST_SEED,
        num_envs=num_episodes,
    )


if __name__ == "__main__":
    main()
