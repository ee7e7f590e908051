"""Prompts of one length and candidates of two tokens, as benchmarks/engine.py scores them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.light_client import ACTIONS, TASK, random_observations
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder

NUM_PROMPT_TOKENS = 60
TWO_TOKENS = ("turn left", "move right", "pick up", "put down", "open door", "go away")
"""Two words each, and no two begin alike: the most that six candidates of two tokens can ask for."""


class Prompts(NamedTuple):
    """The texts of one batch, and the actions of each."""

    texts: list[str]
    actions: tuple[str, ...]


def prompts_of_60_tokens(encoder: TextEncoder, count: int, generator: random.Random) -> Prompts:
    """Returns distinct prompts of exactly 60 tokens each, from random words that are one token each."""
    words = _words(encoder)
    num_others = len(encoder.encode(action_prompt(words[0]))) - 1
    size = NUM_PROMPT_TOKENS - num_others
    texts = [action_prompt(" ".join(generator.choices(words, k=size))) for _ in range(count)]
    return Prompts(texts, TWO_TOKENS)


def cartpole_prompts(encoder: TextEncoder, count: int, generator: random.Random) -> Prompts:
    """Returns the prompts of CartPole descriptions with random numbers."""
    return Prompts([action_prompt(text, task=TASK) for text in random_observations(count, generator)], ACTIONS)


def check_lengths(prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> None:
    """Raises unless the tokenizer makes of the texts what the benchmark says of them."""
    lengths, sizes = {len(prompt) for prompt in prompts}, {len(candidate) for candidate in candidates}
    beginnings = {candidate[0] for candidate in candidates}
    if lengths != {NUM_PROMPT_TOKENS} or sizes != {2} or len(beginnings) < len(candidates):
        raise RuntimeError(
            f"this tokenizer gives prompts of {sorted(lengths)} tokens and candidates of {sorted(sizes)} with "
            f"{len(beginnings)} beginnings; pass GPT-2's own directory as --tokenizer"
        )


def _words(encoder: TextEncoder) -> list[str]:
    """Returns English-looking words that the tokenizer spells, with the space before them, as one token."""
    vocabulary = sorted(encoder.tokenizer.get_vocab())
    words = [token[1:] for token in vocabulary if token[:1] == "Ġ" and token[1:].isascii() and token[1:].islower()]
    return [word for word in words if len(word) > 2]
