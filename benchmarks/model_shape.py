"""How much arithmetic scoring actions really needs, from the shape of a GPT-2 alone.

Counted are the matrix products, two operations a multiplication with addition; layer norms, GELU and softmax
are a few operations a number and are left out. With width H, inner width I, vocabulary V, L layers, a prompt of
P tokens and candidates whose readings (all but each one's last token) share their beginnings in a tree of N
nodes, node n standing at depth d_n = 1, 2, ...:

    tokens          T = P + N                      each prompt token and each node is read once
    pairs           S = P (P + 1) / 2 + sum_n (P + d_n)          a query and a key it may see
    positions       M = 1 + N                      where a next token is scored: last prompt token and nodes

    a layer but the last     T (2 H 3H + 2 H H + 4 H I) + 4 H S
    the last layer           T 2 H 2H              keys and values of all tokens
                             M (2 H H + 2 H H + 4 H I) + 4 H S_M      queries, projection and MLP of M positions
                             S_M = P + sum_n (P + d_n)
    logits                   M 2 H V

That is for one prompt read on its own: nothing is shared between observations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple


class ModelShape(NamedTuple):
    """The sizes that decide a GPT-2's arithmetic."""

    num_layers: int
    width: int
    inner_width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """Returns the shape of a transformers GPT-2 configuration."""
        return cls(config.n_layer, config.n_embd, config.n_inner or 4 * config.n_embd, config.vocab_size)


class Product(NamedTuple):
    """A matrix product (M, K) @ (K, N)."""

    m: int
    k: int
    n: int

    @property
    def flop(self) -> int:
        return 2 * self.m * self.k * self.n


def depths_of_nodes(candidates: Sequence[Sequence[int]]) -> list[int]:
    """Returns the depth of each node in the tree of all candidates' readings.

    Args:
        candidates: Token ids of each, at least one; its last token is predicted, never read.
    """
    beginnings = {tuple(ids[:depth]) for ids in candidates for depth in range(1, len(ids))}
    return sorted(map(len, beginnings))


def needed_products(
    shape: ModelShape, num_observations: int, num_prompt_tokens: int, depths: Sequence[int]
) -> Counter[Product]:
    """Returns the products of weights that one batch needs, attention left out, and how often each occurs."""
    _, width, inner, vocabulary = shape
    tokens = num_observations * (num_prompt_tokens + len(depths))
    positions = num_observations * (1 + len(depths))
    counted: Counter[Product] = Counter()
    for rows, times in ((tokens, shape.num_layers - 1), (positions, 1)):
        if times:
            counted[Product(rows, width, width)] += times
            counted[Product(rows, width, inner)] += times
            counted[Product(rows, inner, width)] += times
    if shape.num_layers > 1:
        counted[Product(tokens, width, 3 * width)] += shape.num_layers - 1
    counted[Product(tokens, width, 2 * width)] += 1
    counted[Product(positions, width, width)] += 1
    counted[Product(positions, width, vocabulary)] += 1
    return counted


def needed_flop(shape: ModelShape, num_observations: int, num_prompt_tokens: int, depths: Sequence[int]) -> int:
    """Returns the operations that scoring a batch needs, as the module's formula counts them.

    Args:
        shape: The model's sizes.
        num_observations: Prompts in the batch.
        num_prompt_tokens: Tokens of each prompt.
        depths: As `depths_of_nodes` returns them for the candidates of each prompt.
    """
    of_weights = sum(
        product.flop * times
        for product, times in needed_products(shape, num_observations, num_prompt_tokens, depths).items()
    )
    of_nodes = sum(num_prompt_tokens + depth for depth in depths)
    of_prompt = num_prompt_tokens * (num_prompt_tokens + 1) // 2
    pairs = (shape.num_layers - 1) * (of_prompt + of_nodes) + num_prompt_tokens + of_nodes
    return of_weights + num_observations * 4 * shape.width * pairs
