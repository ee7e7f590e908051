"""Answers of `POST /reward`, kept by question."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from hintwise.advising.asking import Asker, in_parts
from hintwise.advising.hints import MAX_KEPT
from hintwise.bounded_cache import BoundedCache
from hintwise.client import Client
from hintwise.errors import ScorerChanged
from hintwise.fields import MAX_REWARD_ITEMS
from hintwise.schemas import RewardItem, RewardResponse, RewardResult

Question = TypeVar("Question", bound=Hashable)


class Scores(Generic[Question]):
    """Answers of `POST /reward`, kept by question.

    Args:
        asker: Asks the service.
        scorer: Its name.
    """

    def __init__(self, asker: Asker, scorer: str) -> None:
        self._asker, self._scorer = asker, scorer
        self._sha256: str | None = None
        self._kept: BoundedCache[Question, RewardResult] = BoundedCache(MAX_KEPT)

    def of(self, items: Mapping[Question, RewardItem]) -> dict[Question, RewardResult | None]:
        """Returns an answer to each question; None where the service could not be asked.

        Raises:
            ScorerChanged: Another model answers than before.
        """
        answers = {question: self._kept.get(question) for question in items}
        unknown = [question for question, answer in answers.items() if answer is None]
        for few in in_parts(unknown, MAX_REWARD_ITEMS):
            asked = [items[question] for question in few]
            answer = self._asker.ask(partial(_rewards, items=asked, scorer=self._scorer))
            if answer is None:
                continue
            self._check(answer)
            for question, result in zip(few, answer.results, strict=True):
                answers[question] = self._kept.keep(question, result, 1)
        return answers

    def _check(self, answer: RewardResponse) -> None:
        if self._sha256 not in (None, answer.model_sha256):
            raise ScorerChanged(
                f"the service now scores with {answer.model} ({answer.model_sha256[:12]}), before with "
                f"{str(self._sha256)[:12]}; start the service with the same --scorer-model again, or start a new run"
            )
        self._sha256 = answer.model_sha256


def _rewards(client: Client, *, items: Sequence[RewardItem], scorer: str) -> RewardResponse:
    return client.reward(items, scorer=scorer)
