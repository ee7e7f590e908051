"""Compares what the service answers with what a page shows."""

from __future__ import annotations

import pytest

ANYTHING = "..."
"""Shown where an answer differs from run to run."""


def assert_alike(given: object, shown: object) -> None:
    """Equal but for the last digits of numbers, which differ between machines."""
    if shown == ANYTHING:
        return
    if isinstance(shown, float):
        assert given == pytest.approx(shown, abs=2e-3)
    elif isinstance(shown, dict):
        assert isinstance(given, dict)
        assert given.keys() == shown.keys()
        for name in shown:
            assert_alike(given[name], shown[name])
    elif isinstance(shown, list):
        assert isinstance(given, list)
        assert len(given) == len(shown)
        for each in zip(given, shown, strict=True):
            assert_alike(*each)
    else:
        assert given == shown
