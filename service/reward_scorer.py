"""Language reward: how a hint and a transition become a number.

A scorer turns an item into prompts with candidate phrases, and the phrases' log-probabilities
under the frozen scorer model into a result:

    alignment   tanh(log pi(a|s,h) - log pi(a|s))                  in [-1, 1]
    progress    gamma * Phi(s',h') - Phi(s,h), Phi = p("yes")      Phi in [0, 1]

Source: progress is potential-based, Ng, Harada & Russell 1999, theorem 1, as long as the hint
stays the same within the episode; Phi is 0 after a terminal state.

Other packages add theirs: `scorer_plugins`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from hintwise.errors import InvalidRequest, Offence
from hintwise.prompts import PROGRESS_ANSWERS, action_prompt, progress_prompt
from hintwise.schemas import RewardItem, RewardResult
from service.encoding import Question

T = TypeVar("T")


class Scorer(Protocol):
    """A reward from a frozen model's log-probabilities."""

    def questions(self, item: RewardItem) -> list[Question]:
        """Returns the prompts that `result` needs answers to.

        Raises:
            InvalidRequest: The item lacks what this scorer needs; offences name its fields.
        """
        ...

    def result(self, item: RewardItem, answers: Sequence[Sequence[float]], gamma: float) -> RewardResult:
        """Returns the reward, given each question's log-probabilities over its phrases."""
        ...


class Alignment:
    """How much the hint raises the log-probability of the action taken over no hint."""

    def questions(self, item: RewardItem) -> list[Question]:
        actions = _needed("actions", item.actions, "alignment compares the action with the legal ones")
        action = _needed("action", item.action, "alignment scores the action taken")
        if action not in actions:
            raise _missing("action", f"{action!r} is not among actions")
        phrases = tuple(actions)
        with_hint = action_prompt(item.observation, task=item.task, hint=item.hint)
        without = action_prompt(item.observation, task=item.task)
        return [(with_hint, phrases), (without, phrases)]

    def result(self, item: RewardItem, answers: Sequence[Sequence[float]], gamma: float) -> RewardResult:
        index = (item.actions or []).index(item.action or "")
        hinted, plain = answers
        return RewardResult(reward=math.tanh(hinted[index] - plain[index]))


class Progress:
    """How much further the hint has been carried out, as a potential difference."""

    def questions(self, item: RewardItem) -> list[Question]:
        hint = item.hint or ""
        now = (progress_prompt(item.observation, hint, task=item.task), PROGRESS_ANSWERS)
        if item.terminated:
            return [now]
        next_observation = _needed("next_observation", item.next_observation, "progress compares it with observation")
        next_hint = hint if item.next_hint is None else item.next_hint
        return [now, (progress_prompt(next_observation, next_hint, task=item.task), PROGRESS_ANSWERS)]

    def result(self, item: RewardItem, answers: Sequence[Sequence[float]], gamma: float) -> RewardResult:
        potential = math.exp(answers[0][1])
        next_potential = 0.0 if item.terminated else math.exp(answers[1][1])
        reward = gamma * next_potential - potential
        return RewardResult(reward=reward, potential=potential, next_potential=next_potential)


BUILT_IN_SCORERS: dict[str, Callable[[], Scorer]] = {"alignment": Alignment, "progress": Progress}


def scorer_named(name: str, scorers: Mapping[str, Callable[[], Scorer]]) -> Scorer:
    """Returns the scorer called `name`.

    Raises:
        InvalidRequest: There is none; the message lists them.
    """
    if name not in scorers:
        raise InvalidRequest(
            f"no scorer is called {name!r}", errors=[Offence("scorer", f"choose one of {', '.join(scorers)}")]
        )
    return scorers[name]()


def _needed(name: str, value: T | None, reason: str) -> T:
    if value is None:
        raise _missing(name, f"missing: {reason}")
    return value


def _missing(name: str, message: str) -> InvalidRequest:
    return InvalidRequest("an item lacks what the scorer needs", errors=[Offence(name, message)])
