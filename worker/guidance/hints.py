"""The hint in force in each of N environments: asked for together, held for some steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hintwise.advising.asking import Asker
from hintwise.advising.hints import AskedHints, HintSource
from hintwise.advising.hints import State as Told
from hintwise.client import Client
from worker.text_env import State


def service_hints(client: Client, task: str | None) -> HintSource:
    """Returns the hints of the service's guidance model: the likeliest, the same for the same state, asked for once."""
    return AskedHints(asker_of(client), task, None)


def asker_of(client: Client) -> Asker:
    """Returns what asks by `client`, whose own limits hold; what it cannot get ends the run."""
    return Asker(client, timeout_s=0.0, on_failure="raise", instead="")


class Hints:
    """Which hint each environment goes by.

    Args:
        source: Where hints come from.
        num_envs: Environments.
        every: Steps that a hint is held; 0: as long as the episode.
    """

    def __init__(self, source: HintSource, num_envs: int, every: int) -> None:
        self._source, self._every = source, every
        self.in_force = [""] * num_envs
        self.ages = [0] * num_envs
        """Steps since each environment's episode began."""

    def follow(self, states: Mapping[int, State], began: Collection[int]) -> None:
        """Notes a step, and asks for the hints that are due, all in one request.

        Args:
            states: What each environment shows that moved or began.
            began: Those whose state is the first of an episode.
        """
        due = []
        for i in states:
            self.ages[i] = 0 if i in began else self.ages[i] + 1
            if i in began or self._ends(self.ages[i]):
                due.append(i)
        for i, hint in zip(due, self.of([states[i] for i in due]), strict=True):
            self.in_force[i] = hint

    def behind(self, finals: Mapping[int, State]) -> dict[int, str]:
        """Returns the hint in force in a state behind the last step of an episode; to be asked before `follow`."""
        due = [i for i in finals if self._ends(self.ages[i] + 1)]
        asked = dict(zip(due, self.of([finals[i] for i in due]), strict=True))
        return {i: asked.get(i, self.in_force[i]) for i in finals}

    def of(self, states: Sequence[State]) -> list[str]:
        """Returns a hint for each state, empty where there is none to give."""
        if not states:
            return []
        return [hint or "" for hint in self._source.hints([Told(state.text, state.actions) for state in states])]

    def _ends(self, age: int) -> bool:
        return bool(self._every) and age % self._every == 0
