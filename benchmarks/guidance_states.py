"""States whose texts a hint generator has never met, and the requests that ask about them.

Episodes of three worlds whose texts do not run out, with seeds from 700,000: a teacher's steps mixed with random ones.
No text comes twice, so neither kept hints nor equal prompts help anybody. (DoorKey-6x6 has fewer than a
thousand texts.) Beside them a stream in which texts repeat, as a learner meets them.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from typing import NamedTuple

from worker.pretraining.states import State, collect
from worker.pretraining.worlds import World, level, registered

FIRST_SEED = 700_000
STATES = 64
"""Of one request."""
MAX_NEW_TOKENS = 32
"""The service's default."""
NUM_ENVIRONMENTS = 8
REPEATING = level("DoorKey-8x8", 0.0)
WORLDS = (
    World("CartPole", "cart pole", 0.0, registered("CartPole-v1")),
    level("DoorKey-8x8", 0.0),
    level("GoToLocal", 0.0, package="BabyAI"),
)


class Question(NamedTuple):
    """One request's worth of states of one world."""

    task: str
    texts: tuple[str, ...]

    def body(self, *, temperature: float, seed: int) -> dict[str, object]:
        """Returns what `POST /guidance` is sent; the naive service reads the same."""
        return {
            "observations": self.texts,
            "task": self.task,
            "max_new_tokens": MAX_NEW_TOKENS,
            "temperature": temperature,
            "seed": seed,
        }


def questions(world: World, count: int, *, seed: int) -> list[Question]:
    """Returns `count` questions about distinct states.

    Raises:
        RuntimeError: The world has too few texts.
    """
    with redirect_stdout(sys.stderr):  # BabyAI reports the missions it throws away
        states = collect(world, count * STATES, first_seed=FIRST_SEED, generator=random.Random(seed))
    if len(states) < count * STATES:
        raise RuntimeError(f"{world.name} shows {len(states)} texts, {count * STATES} are needed; ask for fewer rounds")
    random.Random(seed).shuffle(states)  # else the states of a request are those of one episode
    return [_question(states[start : start + STATES]) for start in range(0, len(states), STATES)]


def repeating_questions(count: int, *, seed: int) -> list[Question]:
    """Returns what 8 environments of `REPEATING` ask in order, 8 steps a request, with uniformly random actions."""
    generator = random.Random(seed)
    task = REPEATING.open(FIRST_SEED, 0).describer.task
    players = [_played(REPEATING, FIRST_SEED + number, generator) for number in range(NUM_ENVIRONMENTS)]
    steps = range(STATES // NUM_ENVIRONMENTS)
    return [Question(task, tuple(next(player) for _ in steps for player in players)) for _ in range(count)]


def _played(world: World, first_seed: int, generator: random.Random) -> Iterator[str]:
    """Yields the texts of one environment, episode after episode, without end."""
    for seed in itertools.count(first_seed, NUM_ENVIRONMENTS):
        env, describer, _, _ = world.open(seed, 0)
        with closing(env):
            observation, _ = env.reset(seed=seed)
            ended = False
            while not ended:
                yield describer.describe(observation)
                action = generator.choice(describer.legal_actions(observation))
                observation, _, terminated, truncated, _ = env.step(action)
                ended = terminated or truncated


def _question(states: Sequence[State]) -> Question:
    return Question(states[0].task, tuple(state.text for state in states))
