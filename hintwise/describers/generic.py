"""Any environment with Discrete actions, whose numbers nobody has named.

| observation space | text                                                                    |
| ----------------- | ----------------------------------------------------------------------- |
| `Box`             | `x0 12 x1 20 ...`: a bin per number, in C order                         |
| `Discrete`        | `state 17`: the integer itself                                          |
| `MultiDiscrete`   | `x0 3 x1 1 ...`: the integers themselves, in C order                    |

It reads spaces by their class names and attributes, so this package needs no Gymnasium.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

from hintwise.describers.describer import Environment
from hintwise.describers.numbers import MIDDLE_BIN, signed_bin, squashed_bin, uniform_bin
from hintwise.describers.observations import NumberReader, whole_number
from hintwise.errors import InvalidRequest

MAX_NUMBERS = 64
"""Each number is about three tokens; beyond this a list of numbers is no description."""

UNBOUNDED = 2**31 - 1
"""Bounds from here on count as none: environments write the largest number of some type for infinity."""

Word = Callable[[float], int]


class Layout(NamedTuple):
    """How one observation space is put into words: N names and words."""

    shape: tuple[int, ...]
    names: list[str]
    words: list[Word]


class GenericDescriber:
    """Describes an environment by its spaces alone.

    Args:
        env: A single environment with Discrete actions and a Box, Discrete or MultiDiscrete
            observation of at most 64 numbers.

    Raises:
        InvalidRequest: It has other spaces.
    """

    task = "Collect as much reward as you can."

    def __init__(self, env: Environment) -> None:
        self.env_id: str = env.spec.id if env.spec else type(env.unwrapped).__name__
        self.actions = [f"action {k}" for k in range(_num_actions(self.env_id, env.action_space))]
        self.hints = list(self.actions)
        shape, self._names, self._words = _layout(self.env_id, env.observation_space)
        self._numbers = NumberReader(self.env_id, self._names, shape)

    def describe(self, observation: object) -> str:
        numbers = self._numbers.read(observation)
        described = zip(self._names, self._words, numbers, strict=True)
        return " ".join(f"{name} {word(number)}" for name, word, number in described)

    def legal_actions(self, observation: object) -> list[int]:
        return list(range(len(self.actions)))


def _num_actions(env_id: str, space: Any) -> int:
    if not _is(space, "Discrete"):
        raise _unsupported(env_id, f"the action space {space}; only Discrete actions are supported")
    if space.start != 0:
        raise _unsupported(env_id, f"actions numbered from {space.start}; action k must be number k, so start from 0")
    return int(space.n)


def _layout(env_id: str, space: Any) -> Layout:
    if _is(space, "Discrete"):
        return Layout((), ["state"], [_integer("state", space.start, space.n)])
    if not _is(space, "Box") and not _is(space, "MultiDiscrete"):
        raise _unsupported(env_id, f"the observation space {space}; Box, Discrete and MultiDiscrete are supported")
    count = prod(space.shape)
    if not 1 <= count <= MAX_NUMBERS:
        raise _unsupported(env_id, f"observations of {count} numbers; 1 to {MAX_NUMBERS} are supported")
    names = [f"x{i}" for i in range(count)]
    if _is(space, "Box"):
        bounds = zip(space.low.ravel().tolist(), space.high.ravel().tolist(), strict=True)
        return Layout(space.shape, names, [_binned(low, high) for low, high in bounds])
    integers = zip(names, space.start.ravel().tolist(), space.nvec.ravel().tolist(), strict=True)
    return Layout(space.shape, names, [_integer(name, start, n) for name, start, n in integers])


def _binned(low: float, high: float) -> Word:
    if low <= -UNBOUNDED or high >= UNBOUNDED:
        return squashed_bin
    if low == high:  # a constant, and nothing to divide by
        return lambda value: MIDDLE_BIN
    return partial(signed_bin, limit=high) if low == -high else partial(uniform_bin, low=low, high=high)


def _integer(name: str, start: int, n: int) -> Word:
    return partial(whole_number, name, first=int(start), last=int(start + n - 1))


def _is(space: Any, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(space).__mro__)


def _unsupported(env_id: str, what: str) -> InvalidRequest:
    own = "write a describer of your own for it, see docs/describers.md"
    return InvalidRequest(f"{env_id} has {what}; {own}")
