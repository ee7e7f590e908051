"""What turns one environment's observations and actions into words."""

from __future__ import annotations

from typing import Any, Protocol


class Describer(Protocol):
    """Words for one environment. Any object with these five is a describer; there is nothing to inherit.

    One may also have `hints`, distinct pieces of advice that a hint is chosen among: see `hints_of`.

    Shapes: one observation in, one text out, without a batch axis; A actions.
    """

    @property
    def env_id(self) -> str:
        """Environment that is described, as Gymnasium names it."""

    @property
    def task(self) -> str:
        """What to achieve. Constant: a mission that varies between episodes belongs in `describe`."""

    @property
    def actions(self) -> list[str]:
        """A distinct phrases; phrase k names the environment's action k."""

    def describe(self, observation: object) -> str:
        """Returns one observation as text: the same text for the same observation, always.

        Args:
            observation: As the environment gives it, or as JSON holds it: number, list or array.

        Raises:
            InvalidRequest: It is not an observation of this environment; says which part is wrong.
        """

    def legal_actions(self, observation: object) -> list[int]:
        """Returns the actions that may be taken now: 1 to A distinct numbers from 0 to A - 1."""


def hints_of(describer: Describer) -> list[str]:
    """Returns the hints that may be given in this environment: the describer's own, else its actions."""
    hints: list[str] = getattr(describer, "hints", describer.actions)
    return hints


class Environment(Protocol):
    """The part of a single Gymnasium environment that a describer reads; wrapped or not."""

    @property
    def spec(self) -> Any: ...

    @property
    def observation_space(self) -> Any: ...

    @property
    def action_space(self) -> Any: ...

    @property
    def unwrapped(self) -> Any: ...
