"""Finished answers, so that a prompt that was scored once is not scored again under the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hintwise.action_batch import Candidates, ScoredPrompt
from hintwise.bounded_cache import BoundedCache
from hintwise.phrases import TokenIds


class Scores(NamedTuple):
    """What a model says about one prompt with A candidate actions."""

    scores: list[float]  # (A,)
    log_probs: list[float]  # (A,)
    value: float


class AnswerCache:
    """Keeps answers by (weights digest, prompt, actions); the oldest go first.

    Args:
        max_answers: How many are kept; 0 keeps none.
        on_lookups: Told the hits and misses of every batch.
    """

    def __init__(self, max_answers: int, on_lookups: Callable[[int, int], None] = lambda hits, misses: None) -> None:
        self._kept: BoundedCache[tuple[str, TokenIds, Candidates], Scores] = BoundedCache(max_answers)
        self._max_answers = max_answers
        self._on_lookups = on_lookups

    def find(self, digest: str, prompts: Sequence[ScoredPrompt]) -> dict[ScoredPrompt, Scores]:
        """Returns the answers that the weights of `digest` gave before to some of distinct prompts."""
        if not self._max_answers:
            return {}
        looked_up = [(each, self._kept.get((digest, each.prompt, each.candidates))) for each in prompts]
        found = {prompt: answer for prompt, answer in looked_up if answer is not None}
        self._on_lookups(len(found), len(prompts) - len(found))
        return found

    def keep(self, digest: str, answers: dict[ScoredPrompt, Scores]) -> None:
        """Keeps answers that the weights of `digest` have given."""
        if self._max_answers:
            for each, answer in answers.items():
                self._kept.keep((digest, each.prompt, each.candidates), answer, 1)
