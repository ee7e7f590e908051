"""From scores to actions: the three modes of `POST /act`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hintwise.fields import MAX_SEED
from service.sampling import gumbels, uniforms

STREAM_ACTION, STREAM_EXPLORE, STREAM_HINT, STREAM_RANKING = 0, 1, 2, 3
"""Which purpose a draw serves; two purposes never share numbers."""


class Choice(NamedTuple):
    """How one action is chosen from its scores."""

    mode: Literal["sample", "greedy", "epsilon"]
    temperature: float  # divides the scores in `sample`; 0 is greedy
    epsilon: float  # probability of a uniform action in `epsilon`
    seed: int
    item: int  # place under the seed, as `item_seeds` returns it


class Draw(NamedTuple):
    actions: NDArray[np.int64]  # (N,)
    log_probs: NDArray[np.float64]  # (N,) of each action under the distribution that chose it


def draw_actions(scores: NDArray[np.float32], num_actions: NDArray[np.int64], choices: Sequence[Choice]) -> Draw:
    """Returns one action per row of `scores`.

    Args:
        scores: (N, A); -inf beyond a row's own number of actions.
        num_actions: (N,) actions of each row.
        choices: (N,) how each is chosen.
    """
    actions, log_probs = scores.argmax(axis=1), np.zeros(len(choices))  # greedy: the lowest index on ties
    ways: dict[Callable[..., Draw], list[int]] = {}
    for i, choice in enumerate(choices):
        if choice.mode == "epsilon":
            ways.setdefault(_explore, []).append(i)
        elif choice.mode == "sample" and choice.temperature > 0:
            ways.setdefault(_sample, []).append(i)
    for draw, rows in ways.items():
        actions[rows], log_probs[rows] = draw(scores[rows], num_actions[rows], [choices[i] for i in rows])
    return Draw(actions, log_probs)


def item_seeds(seed: int | Sequence[int] | None, num_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the seed and item number of each item, both (N,).

    A scalar s means (s, i) for item i. In a list, item i depends on seeds[i] alone, so that
    splitting a batch changes nothing. None draws a fresh seed.
    """
    seeds, places = item_keys(seed, num_items)
    return np.array(seeds, dtype=np.int64), np.array(places, dtype=np.int64)


def item_keys(seed: int | Sequence[int] | None, num_items: int) -> tuple[Sequence[int], Sequence[int]]:
    """Returns what `item_seeds` does, as plain integers."""
    if isinstance(seed, Sequence):
        return seed, [0] * num_items
    drawn = secrets.randbelow(MAX_SEED) if seed is None else seed
    return [drawn] * num_items, range(num_items)


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (N, A) log-probabilities; -inf stays -inf."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def _sample(scores: NDArray[np.float32], num_actions: NDArray[np.int64], choices: Sequence[Choice]) -> Draw:
    """Returns draws from softmax(scores / temperature)."""
    temperatures = np.array([choice.temperature for choice in choices])[:, None]
    with np.errstate(over="ignore"):  # next to nothing, a temperature leaves -inf, which is right
        scaled = (scores.astype(np.float64) - scores.max(axis=1, keepdims=True)) / temperatures
    actions = (scaled + gumbels(*_keys(choices), scores.shape[1], stream=STREAM_ACTION)).argmax(axis=1)
    return Draw(actions, log_softmax(scaled)[np.arange(len(actions)), actions])


def _explore(scores: NDArray[np.float32], num_actions: NDArray[np.int64], choices: Sequence[Choice]) -> Draw:
    """Returns a uniform action with probability epsilon, else the best; P(best) includes its uniform share."""
    epsilon, best = np.array([choice.epsilon for choice in choices]), scores.argmax(axis=1)
    chance, place = uniforms(*_keys(choices), 2, stream=STREAM_EXPLORE).T
    actions = np.where(chance < epsilon, (place * num_actions).astype(np.int64), best)
    probability = epsilon / num_actions + np.where(actions == best, 1 - epsilon, 0.0)
    return Draw(actions, np.log(probability))


def _keys(choices: Sequence[Choice]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.array([choice.seed for choice in choices]), np.array([choice.item for choice in choices])
