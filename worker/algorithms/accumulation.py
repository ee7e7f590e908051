"""The gradient of a minibatch, a part after another: activations of one part at a time are in memory.

mean over the minibatch  =  sum over its parts of  (size of the part / size of the minibatch) * mean over the part
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Measured = dict[str, float]
LossOf = Callable[[NDArray[np.int64]], tuple[Tensor, Measured]]


def accumulate(loss_of: LossOf, size: int, num_parts: int, *, largest: frozenset[str] = frozenset()) -> Measured:
    """Adds the gradient of a minibatch's loss to its parameters', and returns what was measured of the whole.

    Args:
        loss_of: Given places in the minibatch, returns the mean loss there, and numbers that are means too.
        size: Places of the minibatch.
        num_parts: As many parts, as equal as can be; none is empty.
        largest: Names of numbers that are not means but largest values.
    """
    measured: Measured = {}
    for part in np.array_split(np.arange(size), min(num_parts, size)):
        share = len(part) / size
        loss, numbers = loss_of(part)
        (loss * share).backward()
        measured = {name: _joined(measured, name, value, share, largest) for name, value in numbers.items()}
    return measured


def _joined(so_far: Mapping[str, float], name: str, value: float, share: float, largest: frozenset[str]) -> float:
    if name in largest:
        return max(so_far.get(name, value), value)
    return so_far.get(name, 0.0) + share * value
