"""A hint as its model wrote it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from hintwise.phrases import TokenIds


class WrittenHint(NamedTuple):
    text: str
    token_ids: TokenIds
    log_prob: float  # sum over `token_ids`, at temperature 1
    finish_reason: Literal["stop", "length", "degenerate"]


DEGENERATE = WrittenHint("", (), 0.0, "degenerate")
"""What is left of a text that says nothing: a sum over no tokens is 0."""
