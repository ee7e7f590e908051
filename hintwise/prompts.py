"""Task, observation and hint -> prompt text. Pure functions.

One layout serves every purpose, so that one model learns one format, and the prompt for a
hint is the beginning of the prompt for an action:

    task: Keep the pole upright.          left out without a task
    actions: push left, push right        only where a hint is asked for
    state: cart 10 speed 9 pole 12 turn 8
    hint: push right                      left out without a hint
    action:                               the model continues here with " push right"
"""

from __future__ import annotations

from collections.abc import Sequence

PROMPT_TEMPLATE_VERSION = 1
"""Rises whenever a prompt's text changes: policies trained on one version do not fit another."""

PROGRESS_ANSWERS = ("no", "yes")
"""The answers that `progress_prompt` asks for, in the order `not carried out, carried out`."""

_BEFORE_OBSERVATION = "state:"


def action_prompt(observation: str, *, task: str | None = None, hint: str | None = None) -> str:
    """Returns the prompt that an action phrase continues."""
    return f"{_line('task', task)}state: {observation}\n{_line('hint', hint)}action:"


def guidance_prompt(observation: str, *, task: str | None = None, actions: Sequence[str] | None = None) -> str:
    """Returns the prompt that a hint continues."""
    listed = ", ".join(actions) if actions else None
    return f"{_line('task', task)}{_line('actions', listed)}state: {observation}\nhint:"


def progress_prompt(observation: str, hint: str, *, task: str | None = None) -> str:
    """Returns the prompt that asks whether `hint` has been carried out in this state."""
    return f"{_line('task', task)}state: {observation}\nhint: {hint}\ndone:"


def shared_part(prompt: str) -> str:
    """Returns the beginning that a prompt has in common with others of its task: all before the observation."""
    before, found, _ = prompt.partition(_BEFORE_OBSERVATION)
    return before + found if found else ""


def continuation(phrase: str) -> str:
    """Returns `phrase` as the text that follows a prompt: byte-level tokenizers join the space to the word."""
    return f" {phrase}"


def _line(name: str, text: str | None) -> str:
    return f"{name}: {text}\n" if text else ""
