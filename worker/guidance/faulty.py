"""Guidance that fails on purpose, to see what a fault costs. Nobody is told of it: not the gate, not the policy.

    dies        from the middle of the run on no hint comes and nothing is scored: a service that went away
    flatters    the scorer says the most there is, reward 1 and potential 1, whatever was done

A hint that is in force when its source dies is held for as long as it would have been. What is not scored earns
nothing: it costs no penalty, and a potential that is no longer told of is taken back, as at an end. Whether a source
has died follows from the steps that were taken, so that a resumed run needs no record of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from hintwise.advising.hints import Hint, HintSource
from hintwise.advising.hints import State as Told
from hintwise.client import Client
from hintwise.schemas import RewardItem, RewardResponse, RewardResult
from worker.guidance.earnings import Earnings, Move
from worker.guidance.settings import FaultyGuidance
from worker.text_env import State

LIVES_FOR = 0.5
"""Share of the run after which a source that dies is dead."""

IsDead = Callable[[], bool]


class Flatterer(Client):
    """Stands for a client whose scorer pays the most for whatever was done."""

    def __init__(self) -> None:
        return  # it asks nobody

    def reward(
        self, items: Iterable[RewardItem | Mapping[str, object]], *, scorer: str = "alignment", gamma: float = 0.99
    ) -> RewardResponse:
        results = [RewardResult(reward=1.0, potential=1.0) for _ in items]
        return RewardResponse(scorer=scorer, model="flatterer", model_sha256="", results=results)


class DyingHints:
    """Hints that come until their source dies.

    Args:
        source: Where they come from.
        is_dead: Tells whether it has died.
    """

    def __init__(self, source: HintSource, is_dead: IsDead) -> None:
        self._source, self._is_dead = source, is_dead

    def hints(self, states: Sequence[Told]) -> list[Hint]:
        return [None] * len(states) if self._is_dead() else self._source.hints(states)


class DyingEarnings:
    """Reward for following hints until nothing is scored any more: then no state has a hint to be scored by.

    Args:
        pays: What pays until then.
        is_dead: Tells whether the scorer has died.
    """

    def __init__(self, pays: Earnings, is_dead: IsDead) -> None:
        self._pays, self._is_dead = pays, is_dead

    def begin(self, states: Mapping[int, State]) -> None:
        self._pays.begin(states)  # an episode that begins now has no hint to be scored by

    def follow(self, moves: Mapping[int, Move]) -> dict[int, float]:
        return self._pays.follow(
            {
                i: move._replace(before=self._scored(move.before), after=move.after and self._scored(move.after))
                for i, move in moves.items()
            }
        )

    def memory(self, i: int) -> float:
        return self._pays.memory(i)

    def remember(self, i: int, memory: float) -> None:
        self._pays.remember(i, memory)

    def _scored(self, state: State) -> State:
        return state._replace(advice="") if self._is_dead() else state


def mortal(
    source: HintSource, pays: Earnings | None, faulty: FaultyGuidance, progress: Callable[[], float]
) -> tuple[HintSource, Earnings | None]:
    """Returns what gives hints and what pays for them, both of which die where guidance does.

    Args:
        source: Of the hints.
        pays: For following them.
        faulty: How guidance fails.
        progress: Tells what share of the run has passed.
    """
    if faulty != "dies":
        return source, pays

    def is_dead() -> bool:
        return progress() >= LIVES_FOR

    return DyingHints(source, is_dead), pays and DyingEarnings(pays, is_dead)
