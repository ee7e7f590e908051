"""What a language model can do, measured on seeds from 1,000,000 on: `python -m worker pretrain --evaluate DIR`.

| column     | share or mean over held-out states                                                        |
| ---------- | ----------------------------------------------------------------------------------------- |
| hint       | written hints that name a right action                                                    |
| right      | right hints whose action is the likeliest                                                 |
| wrong      | hints that name a wrong action, and that one is the likeliest                             |
| swap       | right hints with left and right exchanged: the other action is the likeliest              |
| own        | with the model's own hint, a right action ranks above a random other                      |
| empty ...  | mean |tanh(log pi(a|s,h) - log pi(a|s))| over all legal actions, for hints that say nothing |
| rising     | steps of the teacher's episodes along which progress rises, the hint kept                 |
| obeyed     | episodes won by an agent that only does what the model's hints say                        |

`foreign` hints are other worlds' of the corpus, `unseen` ones of a world that no model of this corpus has read.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

from worker.hint_words import exchanged, named_action
from worker.pretraining.hints import HintBook, Hints, right_hint
from worker.pretraining.obey import play, summary
from worker.pretraining.reader import Reader
from worker.pretraining.states import State, episode_states
from worker.pretraining.targets import SPEECHLESS
from worker.pretraining.worlds import World
from worker.seeds import FIRST_EVALUATION_SEED

UNSEEN_HINTS = HintBook(["twist left", "twist right"], [" to swing the tip up"])
"""Of Acrobot, which is not in the corpus."""
FIRST_MEASURED_SEED = FIRST_EVALUATION_SEED + 100_000
FIRST_OBEYED_SEED = FIRST_EVALUATION_SEED + 110_000
"""Nobody looked at these seeds while the model that ships was made; at some from 900,000 and from 970,000 they did."""
MAX_STATES = 400
"""Of a world, that are measured."""
Row = dict[str, Any]


def measure(
    reader: Reader, worlds: Sequence[World], hints: Hints, *, episodes: int, report: Callable[[str], None]
) -> list[Row]:
    """Returns one row a world.

    Args:
        reader: Of the model.
        worlds: To measure.
        hints: Of the corpus: what is well formed.
        episodes: Of each world, mixed with random steps; as many again that the teacher plays alone.
        report: Is told when a world is done.
    """
    rows: list[Row] = []
    for world in worlds:
        generator = random.Random(f"evaluation {world.name}")
        seeds = range(FIRST_MEASURED_SEED, FIRST_MEASURED_SEED + episodes)
        states = _distinct([state for seed in seeds for state in episode_states(world, seed, generator)], generator)
        taught = [episode_states(world, seed + episodes, generator, max_mixed_steps=0) for seed in seeds]
        row: Row = {"world": world.name, "states": len(states)}
        row |= hint_accuracy(reader, states, generator)
        row |= obedience(reader, states, hints, generator)
        row |= speechless_rewards(reader, states, hints, generator)
        row |= progress_along(reader, taught) if world.progress else {}
        row |= summary(world, play(reader, world, range(FIRST_OBEYED_SEED, FIRST_OBEYED_SEED + episodes)))
        rows.append(row)
        report(f"{world.name}: hint {row['hint']:.1%}, wrong {row['wrong']:.1%}, return {row['mean_return']:.2f}")
    return rows


def hint_accuracy(reader: Reader, states: Sequence[State], generator: random.Random) -> Row:
    """Returns how often written hints are right, and rank a right action above a random other."""
    written = reader.hints(states)
    right = [named_action(hint, state.all_actions) in state.right for hint, state in zip(written, states, strict=True)]
    ranked: list[bool] = []
    for state, row in zip(states, reader.action_log_probs(states, written), strict=True):
        others = [k for k, action in enumerate(state.actions) if action not in state.right]
        legal = [state.actions.index(action) for action in state.right if action in state.actions]
        if others and legal:
            ranked.append(max(row[k] for k in legal) > row[generator.choice(others)])
    return {"hint": fmean(right), "own": _share(ranked)}


def obedience(reader: Reader, states: Sequence[State], hints: Hints, generator: random.Random) -> Row:
    """Returns how often the action that a hint names is the likeliest."""
    right = [(state, generator.choice([a for a in state.right if a in state.actions])) for state in states]
    wrong = [
        (state, generator.choice(others))
        for state in states
        if (others := [action for action in state.actions if action not in state.right])
    ]
    swapped = [
        (state, other) for state, action in right if (other := exchanged(action)) != action and other in state.actions
    ]
    return {
        "right": _obeyed(reader, right, [right_hint(state, action) for state, action in right]),
        "wrong": _obeyed(reader, wrong, [hints.books[state.family].any(action, generator) for state, action in wrong]),
        "swap": _obeyed(
            reader, swapped, [exchanged(right_hint(state, exchanged(action))) for state, action in swapped]
        ),
    }


def speechless_rewards(reader: Reader, states: Sequence[State], hints: Hints, generator: random.Random) -> Row:
    """Returns the mean |reward| of alignment for hints that name no action."""
    plain = reader.action_log_probs(states, [None] * len(states))
    measured: Row = {}
    for kind in SPEECHLESS:
        drawn = [_speechless(kind, state, hints, generator) for state in states]
        few = [i for i, hint in enumerate(drawn) if hint is not None]
        hinted = reader.action_log_probs([states[i] for i in few], [drawn[i] for i in few])
        rewards = [
            abs(math.tanh(with_hint - without))
            for i, row in zip(few, hinted, strict=True)
            for with_hint, without in zip(row, plain[i], strict=True)
        ]
        measured[kind] = _share(rewards)
    return measured


def progress_along(reader: Reader, episodes: Sequence[Sequence[State]]) -> Row:
    """Returns how often progress rises along the teacher's steps, and the range it stays in."""
    steps = [(state, after) for states in episodes for state, after in pairwise(states) if state.hint]
    if not steps:
        return {}
    hints = [state.hint for state, _ in steps]
    before = reader.potentials([state for state, _ in steps], hints)
    after = reader.potentials([state for _, state in steps], hints)
    rising = [later > earlier for earlier, later in zip(before, after, strict=True)]
    changing = [
        later > earlier
        for (state, follower), earlier, later in zip(steps, before, after, strict=True)
        if state.text != follower.text
    ]
    return {
        "rising": fmean(rising),
        "rising_where_text_changes": _share(changing),
        "least_potential": min(before + after),
        "largest_potential": max(before + after),
    }


def _speechless(kind: str, state: State, hints: Hints, generator: random.Random) -> str | None:
    if kind == "empty":
        return ""
    if kind == "unseen":
        return UNSEEN_HINTS.any(generator.choice(UNSEEN_HINTS.actions), generator)
    return hints.nonsense(kind, state, generator)


def _obeyed(reader: Reader, asked: Sequence[tuple[State, str]], hints: Sequence[str]) -> float | None:
    if not asked:
        return None
    rows = reader.action_log_probs([state for state, _ in asked], list(hints))
    return fmean(
        row.index(max(row)) == state.actions.index(action) for (state, action), row in zip(asked, rows, strict=True)
    )


def _share(values: Sequence[float]) -> float | None:
    """Returns the mean; None where nothing was measured."""
    return fmean(values) if values else None


def _distinct(states: Sequence[State], generator: random.Random) -> list[State]:
    """Returns states of different texts in which a teacher knows a legal right action."""
    known = {state.text: state for state in states if set(state.right) & set(state.actions)}
    return generator.sample(list(known.values()), min(MAX_STATES, len(known)))
