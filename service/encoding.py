"""Prompt texts -> token ids, for every endpoint: faults name their item, much text leaves the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from hintwise.action_batch import ScoredPrompt
from hintwise.phrases import TokenIds
from hintwise.tokens import TextEncoder
from service.faults import ItemFaults
from service.policy_runner import PolicyRunner

MANY_CHARS = 50_000
"""Texts longer than this together are tokenized in a thread, so that the event loop goes on answering."""

T = TypeVar("T")
Question = tuple[str, tuple[str, ...]]
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
    distinct = {actions for _, actions in questions}

    def encode() -> list[ScoredPrompt]:
        known = {actions: runner.candidates(actions) for actions in distinct}
        candidates = [known[actions] for _, actions in questions]
        texts, longest = [text for text, _ in questions], [each.num_positions for each in candidates]
        prompts = fitting_prompts(runner.encoder, texts, longest, place_of)
        shared = map(runner.encoder.num_shared_tokens, texts, prompts)
        return [ScoredPrompt(*each) for each in zip(prompts, candidates, shared, strict=True)]

    num_chars = sum(len(text) for text, _ in questions)
    num_chars += sum(len(action) for actions in distinct for action in actions)
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
