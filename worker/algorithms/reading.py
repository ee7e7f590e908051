"""What a policy says of many prompts, without gradients: of each once, some at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from worker.buffers import Floats

READ_AT_ONCE = 256
"""Prompts of one forward."""
Asked = TypeVar("Asked", bound=Hashable)


@torch.no_grad()
def read_distinct(asked: Sequence[Asked], read: Callable[[Sequence[Asked]], Tensor]) -> Floats:
    """Returns (B, ...) what `read` says of each; what comes twice is read once.

    Args:
        asked: (B,), at least one.
        read: Maps (b,) to (b, ...), b up to `READ_AT_ONCE`.
    """
    place_of: dict[Asked, int] = {}
    places = [place_of.setdefault(each, len(place_of)) for each in asked]
    distinct = list(place_of)
    parts = [read(distinct[i : i + READ_AT_ONCE]) for i in range(0, len(distinct), READ_AT_ONCE)]
    return torch.cat(parts).double().cpu().numpy()[places]
