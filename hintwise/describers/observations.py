"""Raw observations -> Python numbers, or an error that names the one that is wrong.

Observations arrive from an environment as NumPy arrays and over the wire as whatever JSON held.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite

import numpy as np

from hintwise.errors import InvalidRequest


class NumberReader:
    """Reads observations that are an array of numbers.

    Args:
        env_id: Environment to name in errors.
        names: What each number is, in order, for errors.
        shape: Shape of the array; () for a bare number. Default: one row of the named numbers.
    """

    def __init__(self, env_id: str, names: Sequence[str], shape: tuple[int, ...] | None = None) -> None:
        self._env_id = env_id
        self._names = names
        self._shape = (len(names),) if shape is None else shape

    def read(self, observation: object) -> list[float]:
        """Returns the numbers of one observation, flattened in C order.

        Raises:
            InvalidRequest: The shape is another, or an entry is not a finite number.
        """
        values = self._flat(observation, self._shape)
        return [
            value if type(value) is float and isfinite(value) else self._number(i, value)  # most are: a short way
            for i, value in enumerate(values)
        ]

    def _flat(self, value: object, shape: tuple[int, ...]) -> Sequence[object]:
        if isinstance(value, np.ndarray):
            if value.shape != shape:
                raise self._misshapen(f"an array of shape {value.shape}")
            flat: list[object] = value.ravel().tolist()
            return flat
        if not shape:
            return [value]
        if not isinstance(value, list | tuple):
            raise self._misshapen(f"a value of type {type(value).__name__}")
        if len(value) != shape[0]:
            raise self._misshapen(str(len(value)))
        return value if len(shape) == 1 else [number for part in value for number in self._flat(part, shape[1:])]

    def _misshapen(self, found: str) -> InvalidRequest:
        numbers = f"{len(self._names)} numbers" if len(self._names) > 1 else "1 number"
        expected = f"{numbers} ({', '.join(self._names)})" if len(self._shape) == 1 else f"shape {self._shape}"
        return InvalidRequest(f"{self._env_id} observations have {expected}; got {found}")

    def _number(self, i: int, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
            raise InvalidRequest(f"number {i} ({self._names[i]}) is of type {type(value).__name__}; expected a number")
        try:
            number = float(value)
        except OverflowError:  # JSON knows integers that no float holds
            number = inf
        if not isfinite(number):
            raise InvalidRequest(f"number {i} ({self._names[i]}) is {number}; observations must be finite")
        return number


class IntegerReader:
    """Reads observations that are one integer, counted from 0.

    Args:
        env_id: Environment to name in errors.
        name: What the integer is, for errors.
    """

    def __init__(self, env_id: str, name: str) -> None:
        self._name = name
        self._numbers = NumberReader(env_id, [name], ())

    def read(self, observation: object, count: int) -> int:
        """Returns the integer of one observation; 3.0 is one, since JSON knows no difference.

        Args:
            observation: As the environment gives it, or as JSON holds it.
            count: How many there are: it is below.

        Raises:
            InvalidRequest: It is not an integer from 0 to `count` - 1.
        """
        if type(observation) is int and 0 <= observation < count:  # most are: a short way
            return observation
        [number] = self._numbers.read(observation)
        return whole_number(self._name, number, 0, count - 1)


def whole_number(name: str, number: float, first: int, last: int) -> int:
    """Returns `number` as an integer from `first` to `last`.

    Raises:
        InvalidRequest: It is none.
    """
    if not number.is_integer() or not first <= number <= last:
        raise InvalidRequest(f"{name} is {number:g}; expected an integer from {first} to {last}")
    return int(number)
