"""Compares what the service answers with what a page shows."""

from __future__ import annotations

import json

import pytest

ANYTHING = "..."
"""Shown where an answer differs from run to run."""


DATA = "data: "
SAME = 1e-5
"""By how much log-probabilities of the same weights may differ, of one near 0."""


def assert_text_alike(given: str, shown: str) -> None:
    """The same lines, but for the last digits of numbers in the JSON of a server-sent event."""
    lines = given.splitlines(), shown.splitlines()
    assert len(lines[0]) == len(lines[1]), given
    for ours, theirs in zip(*lines, strict=True):
        if ours.startswith(f"{DATA}{{") and theirs.startswith(f"{DATA}{{"):
            assert_alike(json.loads(ours.removeprefix(DATA)), json.loads(theirs.removeprefix(DATA)), SAME)
        else:
            assert ours == theirs


def assert_alike(given: object, shown: object, tolerance: float = 2e-3) -> None:
    """Equal but for the last digits of numbers, which differ between machines."""
    if shown == ANYTHING:
        return
    if isinstance(shown, float):
        assert given == pytest.approx(shown, abs=tolerance)
    elif isinstance(shown, dict):
        assert isinstance(given, dict)
        assert given.keys() == shown.keys()
        for name in shown:
            assert_alike(given[name], shown[name], tolerance)
    elif isinstance(shown, list):
        assert isinstance(given, list)
        assert len(given) == len(shown)
        for each in zip(given, shown, strict=True):
            assert_alike(*each, tolerance)
    else:
        assert given == shown
