"""Prompt texts -> token ids, for every endpoint: faults name their item, much text leaves the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from hintwise.tokens import TextEncoder
from service.policy_runner import ScoredPrompt
from service.states import blamed_on

MANY_CHARS = 50_000
"""Texts longer than this together are tokenized in a thread, so that the event loop goes on answering."""

T = TypeVar("T")
Question = tuple[str, tuple[str, ...]]
"""A prompt and the phrases that may continue it."""


async def scored_prompts(
    encoder: TextEncoder, questions: Sequence[Question], place_of: Callable[[int], str]
) -> list[ScoredPrompt]:
    """Returns each prompt and its phrases as tokens.

    Args:
        encoder: Of the model that will read them.
        questions: (B,) prompts with phrases.
        place_of: Names question i as the caller's request knows it.

    Raises:
        InvalidRequest: One does not fit the model; the offence names its place.
    """
    distinct = {phrases for _, phrases in questions}

    def encode() -> list[ScoredPrompt]:
        known = {phrases: encoder.phrases(phrases) for phrases in distinct}
        i = 0
        with blamed_on(lambda: place_of(i)):
            for i in range(len(questions)):
                encoder.check_length(questions[i][0])
            ids = encoder.encode_all([text for text, _ in questions])
            prompts = [
                ScoredPrompt(prompt, known[phrases]) for prompt, (_, phrases) in zip(ids, questions, strict=True)
            ]
            for i in range(len(prompts)):
                encoder.check_fits(len(prompts[i].prompt), prompts[i].phrases.longest_row)
        return prompts

    num_chars = sum(len(text) for text, _ in questions)
    num_chars += sum(len(phrase) for phrases in distinct for phrase in phrases)
    return await off_the_event_loop_if_long(num_chars, encode)


async def off_the_event_loop_if_long(num_chars: int, encode: Callable[[], T]) -> T:
    """Returns what `encode` returns, having run it in a thread if there is much to do."""
    return await asyncio.to_thread(encode) if num_chars > MANY_CHARS else encode()
