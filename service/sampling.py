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
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)  # golden ratio, sqrt(3) - 1
LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)

Words = NDArray[np.uint64]


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Returns four 32-bit words, in uint64 arrays, for counters and keys of one broadcastable shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(NUM_ROUNDS):
        product0, product2 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (product2 >> WORD) ^ c1 ^ k0,
            product2 & LOW,
            (product0 >> WORD) ^ c3 ^ k1,
            product0 & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


def uniforms(seeds: NDArray[np.int64], items: NDArray[np.int64], num_slots: int, *, stream: int) -> NDArray[np.float64]:
    """Returns (N, num_slots) numbers in the open interval (0, 1).

    Args:
        seeds: (N,) 0 <= seed < 2**53.
        items: (N,) place of each item under its seed.
        num_slots: Numbers per item; slot k is the same however many there are.
        stream: Keeps draws for different purposes apart.
    """
    seed = seeds.astype(np.uint64)[:, None]
    item = items.astype(np.uint64)[:, None]
    slot = np.arange(num_slots, dtype=np.uint64)[None, :]
    counter = slot, item & LOW, item >> WORD, np.full_like(slot, stream)
    words = philox(counter, (seed & LOW, seed >> WORD))[0]
    return ((words >> np.uint64(8)).astype(np.float64) + 0.5) * 2.0**-24


def gumbels(seeds: NDArray[np.int64], items: NDArray[np.int64], num_slots: int, *, stream: int) -> NDArray[np.float32]:
    """Returns (N, num_slots) standard Gumbel numbers: argmax(scores + gumbels) samples softmax(scores)."""
    return (-np.log(-np.log(uniforms(seeds, items, num_slots, stream=stream)))).astype(np.float32)
