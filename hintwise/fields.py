"""Field types of the wire that need a check of their own, and the limits they keep."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema

MAX_OBSERVATIONS = 1024
MAX_GUIDANCE_OBSERVATIONS = 256
MAX_REWARD_ITEMS = 1024
MAX_ACTIONS = 256
MAX_CANDIDATES = MAX_ACTIONS
MAX_SEED = 2**53 - 1
"""Largest integer that every JSON reader keeps exactly."""

MAX_PHRASE_CHARS = 1_000


def check_actions(actions: list[Any]) -> list[Any]:
    """Returns the action list, or one list per observation, when each is a legal choice.

    A validator of its own, since a union of two list types would report every fault twice.
    """
    if not actions:
        raise ValueError(f"is empty; list 1 to {MAX_ACTIONS} actions")
    if isinstance(actions[0], list):
        for i, listed in enumerate(actions):
            _check_action_list(listed, f"list {i} ")
    else:
        _check_action_list(actions, "")
    return actions


def check_action_list(actions: list[Any]) -> list[Any]:
    """Returns one list of actions when it is a legal choice."""
    _check_action_list(actions, "")
    return actions


def check_candidates(candidates: list[Any]) -> list[Any]:
    """Returns one list of candidate hints when it is a legal choice."""
    _check_action_list(candidates, "", "candidates")
    return candidates


def check_observation(observation: object) -> object:
    """Returns an observation whose type the wire knows."""
    if isinstance(observation, bool) or not isinstance(observation, str | int | float | list | dict):
        raise ValueError("expected a text, or with env_id a number, an array or an object")
    return observation


_ACTION_LIST_SCHEMA = {
    "type": "array",
    "items": {"type": "string", "maxLength": MAX_PHRASE_CHARS},
    "minItems": 1,
    "maxItems": MAX_ACTIONS,
    "uniqueItems": True,
}
Actions = Annotated[
    list[Any],
    AfterValidator(check_actions),
    WithJsonSchema({"anyOf": [_ACTION_LIST_SCHEMA, {"type": "array", "items": _ACTION_LIST_SCHEMA}]}),
]
Candidates = Annotated[list[Any], AfterValidator(check_candidates), WithJsonSchema(_ACTION_LIST_SCHEMA)]
ActionList = Annotated[list[Any], AfterValidator(check_action_list), WithJsonSchema(_ACTION_LIST_SCHEMA)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)]
Observation = Annotated[
    Any,
    AfterValidator(check_observation),
    WithJsonSchema({"anyOf": [{"type": kind} for kind in ("string", "number", "array", "object")]}),
]


def _check_action_list(actions: object, place: str, name: str = "actions") -> None:
    """Raises unless `actions` is 1 to 256 distinct, visible texts; `place` and `name` say which list it is."""
    if not isinstance(actions, list) or not all(isinstance(action, str) for action in actions):
        raise ValueError(f"{place}must be a list of texts, and all entries of {name} of one kind")
    if not 1 <= len(actions) <= MAX_ACTIONS:
        raise ValueError(f"{place}has {len(actions)} {name}; list 1 to {MAX_ACTIONS}")
    seen: dict[str, int] = {}
    for i, action in enumerate(actions):
        if not action.strip():
            raise ValueError(f"{place}entry {i} is empty")
        if len(action) > MAX_PHRASE_CHARS:
            raise ValueError(f"{place}entry {i} has {len(action)} characters; the limit is {MAX_PHRASE_CHARS}")
        if action in seen:
            raise ValueError(f"{place}entry {i} repeats entry {seen[action]}: {action!r}; {name} must be distinct")
        seen[action] = i
