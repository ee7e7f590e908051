"""How a time is told to a person."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Returns hours, minutes and seconds, as 1:03:07 or 3:07; - where nobody knows."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
