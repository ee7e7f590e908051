"""States for the corpus: what a reader sees, what is right there, how far its hints have been carried out.

An episode begins with steps that mix the teacher's with random ones, so that rare states occur;
then the teacher plays it to the end, so that it is known when a hint has been carried out. Equal texts count once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

from hintwise.describers.describer import Describer
from worker.hint_words import verb_phrase
from worker.pretraining.purposes import Purpose, purposes_along
from worker.pretraining.worlds import MEMORY_REACH, World

MAX_MIXED_STEPS = 40
"""Steps of an episode before the teacher plays alone."""
MAX_TAUGHT_STEPS = 250
MAX_KEPT_TEXTS = 60
"""Of one episode, so that one long episode does not stand for its world."""
MAX_EPISODES = 20_000
"""Of a world that has few distinct texts."""
MAX_BARREN_EPISODES = 200
"""Episodes in a row that show nothing new: then the world has no more texts."""

Taught = dict[str, tuple[tuple[str, ...], str]]
"""What a teacher says to a text: right actions and a hint."""


class State(NamedTuple):
    """What a policy is asked about, and what its teacher says."""

    world: str
    family: str
    task: str
    text: str
    actions: tuple[str, ...]
    """Phrases of the legal actions."""
    all_actions: tuple[str, ...]
    right: tuple[str, ...]
    """Phrases of all optimal ones, the preferred first; empty where the teacher knows none."""
    advised: tuple[str, ...]
    """Of these, the ones that hints to learn from name."""
    hint: str
    purposes: tuple[Purpose, ...] = ()
    """How far hints are here, where the teacher plays alone."""
    next_text: str = ""
    """After the teacher's step, where each of `purposes` that was not carried out is nearer; empty where none is."""

    @property
    def clause(self) -> str:
        """Returns what the hint says behind its action."""
        phrase = verb_phrase(self.right[0]) if self.right else ""
        return self.hint.removeprefix(phrase) if phrase and self.hint.startswith(phrase) else ""


def collect(world: World, count: int, *, first_seed: int, generator: random.Random) -> list[State]:
    """Returns up to `count` states with distinct texts.

    Args:
        world: Whose episodes are played.
        count: Fewer are returned where the world has fewer texts.
        first_seed: Of the first episode; the next has the next seed.
        generator: Of the random steps.
    """
    found: dict[str, State] = {}
    taught: Taught = {}
    barren = 0
    for number in range(MAX_EPISODES):
        before = len(found)
        states = episode_states(world, first_seed + number, generator, taught=taught)
        if len(states) > MAX_KEPT_TEXTS:
            states = generator.sample(states, MAX_KEPT_TEXTS)
        for state in states:
            known = found.get(state.text)
            if known is None or (state.purposes and not known.purposes):
                found[state.text] = state
        barren = 0 if len(found) > before else barren + 1
        if len(found) >= count or barren == MAX_BARREN_EPISODES:
            break
    return list(found.values())[:count]


def episode_states(
    world: World,
    seed: int,
    generator: random.Random,
    *,
    max_mixed_steps: int = MAX_MIXED_STEPS,
    taught: Taught | None = None,
) -> list[State]:
    """Returns the states of one episode in order, less the one it ends in.

    Args:
        world: Whose episode it is.
        seed: Of the environment.
        generator: Of the random steps.
        max_mixed_steps: Bound of the steps that are not all the teacher's; 0 leaves all to the teacher.
        taught: What the teacher has said to the texts of this world, and will say; a planner takes its time.
    """
    episode = world.open(seed, MEMORY_REACH if generator.random() < world.memory else 0)
    env, describer, teacher, _ = episode
    num_mixed = generator.randint(0, max_mixed_steps)
    share_random = generator.choice((0.1, 0.3, 0.6, 1.0))
    taught = {} if taught is None else taught
    states: list[State] = []
    terminated = truncated = False
    reward = 0.0
    with closing(env):
        observation, _ = env.reset(seed=seed)
        for step in range(num_mixed + MAX_TAUGHT_STEPS):
            text = describer.describe(observation)
            if text not in taught:
                taught[text] = tuple(teacher.actions(observation)), teacher.hint(observation)
            state = state_of(world, describer, observation, *taught[text])
            states.append(state)
            mixed = step < num_mixed and generator.random() < share_random
            taken = generator.choice(state.actions if mixed or not state.right else state.advised)
            episode.see(observation)
            observation, reward, terminated, truncated, _ = env.step(describer.actions.index(taken))
            if terminated or truncated:
                break
    reached = terminated and not truncated and is_success(world, float(reward))
    return _with_purposes(states, num_mixed, reached=reached) if world.progress else states


def state_of(
    world: World, describer: Describer, observation: object, right: tuple[str, ...] = (), hint: str = ""
) -> State:
    """Returns what an observation is to a reader.

    Args:
        world: Whose observation it is.
        describer: Of its environment.
        observation: As the environment gives it.
        right: What a teacher says is right; nothing where none is asked.
        hint: What it advises.
    """
    return State(
        world=world.name,
        family=world.family,
        task=describer.task,
        text=describer.describe(observation),
        actions=tuple(describer.actions[k] for k in describer.legal_actions(observation)),
        all_actions=tuple(describer.actions),
        right=right,
        advised=right if world.any_right else right[:1],
        hint=hint,
    )


def is_success(world: World, reward: float) -> bool:
    """Returns whether an episode ended at its goal: Gymnasium ends some at their failures, too."""
    return reward > 0 or not world.rewards_success


def _with_purposes(states: Sequence[State], num_mixed: int, *, reached: bool) -> list[State]:
    """Returns the states, those with purposes that the teacher alone played."""
    first = min(num_mixed, max(0, len(states) - 1))
    advice = [(state.hint, state.clause) for state in states[first:]]
    known = purposes_along(advice, reached=reached) if all(hint for hint, _ in advice) else [[] for _ in advice]
    texts = [state.text for state in states[first:]]
    taught = [
        state._replace(purposes=tuple(few), next_text=after if after != state.text else "")
        for state, few, after in zip(states[first:], known, [*texts[1:], ""], strict=True)
    ]
    return [*states[:first], *taught]
