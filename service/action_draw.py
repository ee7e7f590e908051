"""From scores to actions: the three modes of `POST /act`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hintwise.fields import MAX_SEED
from service.sampling import gumbels, uniforms

STREAM_ACTION, STREAM_EXPLORE, STREAM_HINT = 0, 1, 2
"""Which purpose a draw serves; two purposes never share numbers."""


class Draw(NamedTuple):
    actions: NDArray[np.int64]  # (N,)
    log_probs: NDArray[np.float64]  # (N,) of each action under the distribution that chose it


def draw_actions(
    scores: NDArray[np.float32],
    num_actions: NDArray[np.int64],
    seeds: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    mode: str,
    temperature: float,
    epsilon: float,
) -> Draw:
    """Returns one action per row of `scores`.

    Args:
        scores: (N, A); -inf beyond a row's own number of actions.
        num_actions: (N,) actions of each row.
        seeds: Seed and item number of each row, as `item_seeds` returns them.
        mode: `sample`, `greedy` or `epsilon`.
        temperature: Divides the scores in `sample`; 0 is greedy.
        epsilon: Probability of a uniform action in `epsilon`.
    """
    best = scores.argmax(axis=1)  # the lowest index on ties
    if mode == "epsilon":
        return _draw_epsilon(best, num_actions, seeds, epsilon)
    if mode == "greedy" or temperature == 0:
        return Draw(best, np.zeros(len(best)))
    with np.errstate(over="ignore"):  # next to nothing, a temperature leaves -inf, which is right
        scaled = (scores.astype(np.float64) - scores.max(axis=1, keepdims=True)) / temperature
    actions = (scaled + gumbels(*seeds, scores.shape[1], stream=STREAM_ACTION)).argmax(axis=1)
    return Draw(actions, log_softmax(scaled)[np.arange(len(actions)), actions])


def item_seeds(seed: int | Sequence[int] | None, num_items: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the seed and item number of each item, both (N,).

    A scalar s means (s, i) for item i. In a list, item i depends on seeds[i] alone, so that
    splitting a batch changes nothing. None draws a fresh seed.
    """
    if isinstance(seed, Sequence):
        return np.array(seed, dtype=np.int64), np.zeros(num_items, dtype=np.int64)
    drawn = secrets.randbelow(MAX_SEED) if seed is None else seed
    return np.full(num_items, drawn, dtype=np.int64), np.arange(num_items, dtype=np.int64)


def log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (N, A) log-probabilities; -inf stays -inf."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def _draw_epsilon(
    best: NDArray[np.int64],
    num_actions: NDArray[np.int64],
    seeds: tuple[NDArray[np.int64], NDArray[np.int64]],
    epsilon: float,
) -> Draw:
    """Returns a uniform action with probability epsilon, else the best; P(best) includes its uniform share."""
    chance, place = uniforms(*seeds, 2, stream=STREAM_EXPLORE).T
    actions = np.where(chance < epsilon, (place * num_actions).astype(np.int64), best)
    probability = epsilon / num_actions + np.where(actions == best, 1 - epsilon, 0.0)
    return Draw(actions, np.log(probability))
