"""Prompt texts -> token ids, for every endpoint: faults name their item, much text leaves the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from hintwise.action_batch import ScoredPrompt
from hintwise.errors import InvalidRequest
from hintwise.phrases import TokenIds
from hintwise.tokens import TextEncoder
from service.faults import ItemFaults
from service.policy_runner import PolicyRunner

MANY_CHARS = 2_000
"""Texts longer than this together, some 25 prompts, are tokenized in a thread. The tokenizer holds no lock of Python's
meanwhile: the event loop hands out the answers of one batch while the prompts of the next are read."""

T = TypeVar("T")
Actions = tuple[str, ...]
Question = tuple[str, Actions]
"""A prompt and the actions that may follow it."""


async def scored_prompts(
    runner: PolicyRunner, questions: Sequence[Question], place_of: Callable[[int], str]
) -> list[ScoredPrompt]:
    """Returns each prompt and its actions as the model will read them.

    Args:
        runner: Of the model that will read them.
        questions: (B,) prompts with actions.
        place_of: Names question i as the caller's request knows it.

    Raises:
        InvalidRequest: Some do not fit the model; offences name their places.
    """
    texts, actions = zip(*questions, strict=True)
    return await encoded(runner, texts, actions, place_of)


async def encoded(
    runner: PolicyRunner, texts: Sequence[str], actions: Sequence[Actions], place_of: Callable[[int], str]
) -> list[ScoredPrompt]:
    """Returns each prompt with the actions that may follow it, as the model will read them.

    Args:
        runner: Of the model that will read them.
        texts: (B,) prompts.
        actions: (B,) actions of each.
        place_of: Names prompt i as the caller's request knows it.

    Raises:
        InvalidRequest: Some do not fit the model; offences name their places.
    """
    distinct = set(actions)

    def encode() -> list[ScoredPrompt]:
        known = {each: runner.candidates(each) for each in distinct}
        candidates = [known[each] for each in actions]
        prompts = fitting_prompts(runner.encoder, texts, [each.num_positions for each in candidates], place_of)
        return list(map(ScoredPrompt, prompts, candidates, map(runner.encoder.num_shared_tokens, texts, prompts)))

    num_chars = sum(map(len, texts)) + sum(sum(map(len, each)) for each in distinct)
    return await off_the_event_loop_if_long(num_chars, encode)


def fitting_prompts(
    encoder: TextEncoder, texts: Sequence[str], num_to_follow: Sequence[int], place_of: Callable[[int], str]
) -> list[TokenIds]:
    """Returns the token ids of each prompt.

    Args:
        encoder: Of the model that will read them.
        texts: (B,) prompts.
        num_to_follow: (B,) tokens that the model must have room for behind each.
        place_of: Names prompt i as the caller's request knows it.

    Raises:
        InvalidRequest: Some do not fit the model; offences name their places.
    """
    with suppress(InvalidRequest):  # some text is too long: below, each is looked at by itself
        prompts = encoder.encode_all(texts)
        if max(map(len, prompts)) + max(num_to_follow) <= encoder.max_tokens:
            return prompts
    return _looked_at_one_by_one(encoder, texts, num_to_follow, place_of)


def _looked_at_one_by_one(
    encoder: TextEncoder, texts: Sequence[str], num_to_follow: Sequence[int], place_of: Callable[[int], str]
) -> list[TokenIds]:
    """Returns what `fitting_prompts` does, or raises for every prompt that does not fit."""
    faults = ItemFaults(place_of)

    def short_enough(i: int) -> int:
        encoder.check_length(texts[i])
        return i

    kept = faults.each(range(len(texts)), short_enough)
    prompts = dict(zip(kept, encoder.encode_all([texts[i] for i in kept]), strict=True))

    def fitting(i: int) -> TokenIds:
        encoder.check_fits(len(prompts[i]), num_to_follow[i])
        return prompts[i]

    fit = faults.each(kept, fitting)
    faults.raise_any()
    return fit


async def off_the_event_loop_if_long(num_chars: int, encode: Callable[[], T]) -> T:
    """Returns what `encode` returns, having run it in a thread if there is much to do."""
    return await asyncio.to_thread(encode) if num_chars > MANY_CHARS else encode()
