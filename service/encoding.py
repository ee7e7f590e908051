"""Prompt texts -> token ids, for every endpoint: faults name their item, much text leaves the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from service.policy_runner import PolicyRunner, ScoredPrompt
from service.states import blamed_on

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
        InvalidRequest: One does not fit the model; the offence names its place.
    """
    encoder = runner.encoder
    distinct = {actions for _, actions in questions}

    def encode() -> list[ScoredPrompt]:
        known = {actions: runner.candidates(actions) for actions in distinct}
        i = 0
        with blamed_on(lambda: place_of(i)):
            for i in range(len(questions)):
                encoder.check_length(questions[i][0])
            ids = encoder.encode_all([text for text, _ in questions])
            prompts = [
                ScoredPrompt(prompt, known[actions]) for prompt, (_, actions) in zip(ids, questions, strict=True)
            ]
            for i in range(len(prompts)):
                encoder.check_fits(len(prompts[i].prompt), prompts[i].candidates.longest_row)
        return prompts

    num_chars = sum(len(text) for text, _ in questions)
    num_chars += sum(len(action) for actions in distinct for action in actions)
    return await off_the_event_loop_if_long(num_chars, encode)


async def off_the_event_loop_if_long(num_chars: int, encode: Callable[[], T]) -> T:
    """Returns what `encode` returns, having run it in a thread if there is much to do."""
    return await asyncio.to_thread(encode) if num_chars > MANY_CHARS else encode()
