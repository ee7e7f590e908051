"""Finished answers, so that a prompt that was scored once is not scored again under the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hintwise.action_batch import Candidates, ScoredPrompt
from hintwise.bounded_cache import BoundedCache
from hintwise.phrases import TokenIds


class Scores(NamedTuple):
    """What a model says about one prompt with A candidate actions."""

    scores: list[float]  # (A,)
    log_probs: list[float]  # (A,)
    value: float


class Lookups(NamedTuple):
    """What became of the prompts of one batch."""

    hits: int  # answered before under these weights
    repeats: int  # equal to another of the batch
    misses: int  # run by the model


class AnswerCache:
    """Keeps answers by (weights digest, prompt, actions); the oldest go first.

    Args:
        max_answers: How many are kept, of up to 16 actions each: one of more counts for several. 0 keeps none.
        on_lookups: Told of every batch.
    """

    def __init__(self, max_answers: int, on_lookups: Callable[[Lookups], None] = lambda lookups: None) -> None:
        self._kept: BoundedCache[tuple[str, TokenIds, Candidates], Scores] = BoundedCache(max_answers)
        self._max_answers = max_answers
        self._on_lookups = on_lookups

    def find(
        self, digest: str, prompts: Sequence[ScoredPrompt]
    ) -> tuple[dict[ScoredPrompt, Scores], list[ScoredPrompt]]:
        """Returns the answers that the weights of `digest` gave before, and the prompts without one, each once."""
        distinct = dict.fromkeys(prompts)
        known: dict[ScoredPrompt, Scores] = {}
        if self._max_answers:
            looked_up = ((each, self._kept.get((digest, each.prompt, each.candidates))) for each in distinct)
            known = {each: scores for each, scores in looked_up if scores is not None}
        new = [each for each in distinct if each not in known] if known else list(distinct)
        self._on_lookups(Lookups(len(known), len(prompts) - len(distinct), len(new)))
        return known, new

    def keep(self, digest: str, answers: Iterable[tuple[ScoredPrompt, Scores]]) -> None:
        """Keeps answers that the weights of `digest` have given."""
        if self._max_answers:
            for each, scores in answers:
                self._kept.keep((digest, each.prompt, each.candidates), scores, 1 + len(scores.scores) // 17)
