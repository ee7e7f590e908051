"""Numbers -> words: the bins 0 to 40, spelled as plain integers.

A short integer is one token, in GPT-2's tokenizer and in our own, so a bin costs a prompt one
token. Few words are soon learned, but control needs fine ones around zero: hence 41, an odd
number, so that zero has a word of its own, and bins that narrow towards it.

| range            | function       | bin                                                           |
| ---------------- | -------------- | ------------------------------------------------------------- |
| -limit to +limit | `signed_bin`   | 20 + round(20 z), z = sign(v) * |v|**0.7, v = value / limit   |
| low to high      | `uniform_bin`  | round(40 (value - low) / (high - low))                        |
| without bounds   | `squashed_bin` | `signed_bin` of v = value / (1 + |value|), with limit 1       |

Values outside a range fall into its end bins. A value exactly between two bins goes to the even
one, as Python's `round` has it; that is what keeps bin(-x) == 40 - bin(x).
"""

from __future__ import annotations

from math import isfinite

from hintwise.errors import InvalidRequest

NUM_BINS = 41
MAX_BIN = NUM_BINS - 1
MIDDLE_BIN = MAX_BIN // 2
"""The word for zero in a range that is symmetric around it."""

POWER = 0.7
"""Below 1, so bins are finer near zero, where control is decided."""


def signed_bin(value: float, limit: float) -> int:
    """Returns the bin of a value in the symmetric range from -limit to +limit, finer near zero.

    Raises:
        InvalidRequest: The value is not finite.
    """
    share = _finite(value) / limit
    steps = round(MIDDLE_BIN * float(min(abs(share), 1.0) ** POWER))
    return MIDDLE_BIN + steps if share > 0 else MIDDLE_BIN - steps


def uniform_bin(value: float, low: float, high: float) -> int:
    """Returns the bin of a value in the range from low to high, evenly spaced.

    Raises:
        InvalidRequest: The value is not finite.
    """
    share = (_finite(value) - low) / (high - low)
    return round(MAX_BIN * min(max(share, 0.0), 1.0))


def squashed_bin(value: float) -> int:
    """Returns the bin of a value that has no bounds: fine around zero, ever coarser away from it.

    Raises:
        InvalidRequest: The value is not finite.
    """
    return signed_bin(_finite(value) / (1.0 + abs(value)), 1.0)


def _finite(value: float) -> float:
    if not isfinite(value):
        raise InvalidRequest(f"{value} has no bin; observations must be finite")
    return value
