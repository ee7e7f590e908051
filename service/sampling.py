"""Seeded draws that depend on nothing but their keys.

A counter-based generator turns (seed, item, slot) into a uniform number without any state, so
that a draw is the same alone, in a batch, at any place of it, and after a restart.

Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox-4x32-10);
Gumbel-max: Maddison et al. 2014, A* sampling, eq. 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_ROUNDS = 10
LOW, WORD = np.uint64(0xFFFFFFFF), np.uint64(32)
MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
WEYL = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)  # golden ratio, sqrt(3) - 1
ROUND_STEPS = np.arange(NUM_ROUNDS, dtype=np.uint64)[:, None] * WEYL  # (rounds, 2), added to the key
PLAIN_ROUND_STEPS: list[list[int]] = ROUND_STEPS.tolist()
MAX_FEW = 8
"""Numbers for which plain integers are quicker: NumPy's price is by the step, however little there is to do."""

Words = NDArray[np.uint64]


def philox(counter: Words, key: Words) -> Words:
    """Returns (4, N, S) 32-bit words, in uint64 arrays, for counters (4, N, S) and keys (2, N, 1).

    A round multiplies words 0 and 2, and mixes the halves of the products with words 1 and 3 and the key. Both
    products are one step here: a draw is a few numbers, and NumPy's price is by the step.
    """
    multipliers = MULTIPLIERS[:, None, None]
    even, odd = counter[0::2], counter[1::2]
    for round_key in (key + ROUND_STEPS[:, :, None, None]) & LOW:
        product = multipliers * even
        even, odd = (product >> WORD)[::-1] ^ odd ^ round_key, (product & LOW)[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def uniforms(seeds: NDArray[np.int64], items: NDArray[np.int64], num_slots: int, *, stream: int) -> NDArray[np.float64]:
    """Returns (N, num_slots) numbers in the open interval (0, 1).

    Args:
        seeds: (N,) 0 <= seed < 2**53.
        items: (N,) place of each item under its seed.
        num_slots: Numbers per item; slot k is the same however many there are.
        stream: Keeps draws for different purposes apart.
    """
    if len(seeds) * num_slots <= MAX_FEW:
        keys = zip(seeds.tolist(), items.tolist(), strict=True)
        words = [[_first_word(slot, item, stream, seed) for slot in range(num_slots)] for seed, item in keys]
        return _between_0_and_1(np.array(words, dtype=np.uint64).reshape(len(seeds), num_slots))
    return _uniforms_at(seeds, items, np.arange(num_slots)[None], stream)


def _uniforms_at(
    seeds: NDArray[np.int64], items: NDArray[np.int64], slots: NDArray[np.int64], stream: int
) -> NDArray[np.float64]:
    """Returns (N, S) numbers for slots (1, S) or (N, S)."""
    seed, item = seeds.astype(np.uint64)[:, None], items.astype(np.uint64)[:, None]  # (N, 1)
    counter = np.empty((4, len(seeds), slots.shape[1]), dtype=np.uint64)
    counter[0], counter[1] = slots.astype(np.uint64), item & LOW
    counter[2], counter[3] = item >> WORD, stream
    return _between_0_and_1(philox(counter, np.stack([seed & LOW, seed >> WORD]))[0])


def gumbels(seeds: NDArray[np.int64], items: NDArray[np.int64], num_slots: int, *, stream: int) -> NDArray[np.float32]:
    """Returns (N, num_slots) standard Gumbel numbers: argmax(scores + gumbels) samples softmax(scores)."""
    return _gumbels_of(uniforms(seeds, items, num_slots, stream=stream))


def gumbels_at(
    seeds: NDArray[np.int64], items: NDArray[np.int64], slots: NDArray[np.int64], *, stream: int
) -> NDArray[np.float32]:
    """Returns (N,) of the numbers that `gumbels` returns: slot `slots[k]` of item k."""
    return _gumbels_of(_uniforms_at(seeds, items, slots[:, None], stream)[:, 0])


def _gumbels_of(uniform: NDArray[np.float64]) -> NDArray[np.float32]:
    return (-np.log(-np.log(uniform))).astype(np.float32)


def _first_word(slot: int, item: int, stream: int, seed: int) -> int:
    """Returns the first word that `philox` gives for this counter and key, in Python's own integers."""
    first, second, third, fourth = slot, item & 0xFFFFFFFF, item >> 32, stream
    for low, high in PLAIN_ROUND_STEPS:
        even, odd = 0xD2511F53 * first, 0xCD9E8D57 * third
        first, second = (odd >> 32) ^ second ^ (seed + low & 0xFFFFFFFF), odd & 0xFFFFFFFF
        third, fourth = (even >> 32) ^ fourth ^ ((seed >> 32) + high & 0xFFFFFFFF), even & 0xFFFFFFFF
    return first


def _between_0_and_1(words: Words) -> NDArray[np.float64]:
    uniform: NDArray[np.float64] = ((words >> np.uint64(8)).astype(np.float64) + 0.5) * 2.0**-24
    return uniform


MAX_GUMBEL = float(_gumbels_of(_between_0_and_1(np.array([LOW])))[0])
"""The largest number that `gumbels` returns: that of the largest word."""
