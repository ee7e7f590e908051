"""What knows the next right action of one environment."""

from __future__ import annotations

from typing import Protocol


class Teacher(Protocol):
    """Right actions and a hint, from nothing but what the environment's description shows.

    A teacher remembers nothing and sees no hidden state: two observations with the same text get the same answers.
    """

    def actions(self, observation: object) -> list[str]:
        """Returns the phrases of all optimal next actions, the preferred one first; empty where it knows none.

        Args:
            observation: As the environment gives it, or as JSON holds it.

        Raises:
            InvalidRequest: It is not an observation of this environment; says which part is wrong.
        """

    def hint(self, observation: object) -> str:
        """Returns one short sentence of advice that names the preferred action; empty where `actions` is."""
