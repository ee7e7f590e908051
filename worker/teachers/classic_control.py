"""Teachers of classic control: controllers over the bins that the text shows.

| environment      | rule                                                                              |
| ---------------- | --------------------------------------------------------------------------------- |
| `CartPole-v1`    | push to the side that 0.1 cart + 0.2 speed + 1 pole + 0.3 turn (SI units) points to |
| `MountainCar-v0` | push the way the car rolls: each push adds energy                                 |

A bin stands for the value in its middle. Nobody teaches Acrobot: it stays unseen.
"""

from __future__ import annotations

from hintwise.describers.classic_control import CartPole, MountainCar
from hintwise.describers.numbers import MIDDLE_BIN, POWER

CART_POLE_WEIGHTS = {"cart": (0.1, 2.4), "speed": (0.2, 3.0), "pole": (1.0, 0.2095), "turn": (0.3, 3.0)}
"""Weight and limit of each number; the limits are those of the describer."""
EVEN_WITHIN = 0.01
"""A pull so small calls for neither side: who pushes the other way there holds the pole as long."""
VALLEY_BIN = 15
"""Of the car's place: the bottom of the valley is at -0.52, between 15 and 16."""


class CartPoleTeacher:
    """A linear controller; both pushes are right where the numbers are nearly even."""

    def __init__(self) -> None:
        self._describer = CartPole()

    def actions(self, observation: object) -> list[str]:
        left, right = self._describer.actions
        bins = _bins(self._describer.describe(observation))
        pull = sum(weight * bin_centre(bins[name], limit) for name, (weight, limit) in CART_POLE_WEIGHTS.items())
        preferred, other = (right, left) if pull > 0 else (left, right)
        return [preferred, other] if abs(pull) < EVEN_WITHIN else [preferred]

    def hint(self, observation: object) -> str:
        return self.actions(observation)[0]


class MountainCarTeacher:
    """Pumps energy; at rest either push begins a swing."""

    def __init__(self) -> None:
        self._describer = MountainCar()

    def actions(self, observation: object) -> list[str]:
        left, _, right = self._describer.actions
        bins = _bins(self._describer.describe(observation))
        if bins["speed"] == MIDDLE_BIN:
            return [right, left] if bins["car"] <= VALLEY_BIN else [left, right]
        return [right] if bins["speed"] > MIDDLE_BIN else [left]

    def hint(self, observation: object) -> str:
        return self.actions(observation)[0]


def bin_centre(number: int, limit: float) -> float:
    """Returns the value in the middle of a bin that `signed_bin` gave."""
    share = abs(number - MIDDLE_BIN) / MIDDLE_BIN
    size = limit * float(share ** (1 / POWER))
    return size if number >= MIDDLE_BIN else -size


def _bins(text: str) -> dict[str, int]:
    words = text.split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=True)}
