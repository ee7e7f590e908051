"""A hint as part of an observation: words for those who read words, an action's number for those who read numbers.

| observation                   | form `text`                         | form `action`                                  |
| ----------------------------- | ----------------------------------- | ---------------------------------------------- |
| a text                        | the text, a line `hint: ...` behind | `{"observation": text, "hint": one-hot}`       |
| numbers, pixels, anything     | `{"observation": ..., "hint": ...}` | `{"observation": ..., "hint": one-hot}`        |
| a dictionary                  | the same with `"hint"`              | the same with `"hint"`, one-hot                |

One-hot: as many numbers as actions, 1 for the one that the hint names first; all 0 without a hint, or where it names
none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Text

from hintwise.wrappers.texts import BETWEEN, joined_space

HintForm: TypeAlias = Literal["text", "action"]
OBSERVATION, HINT = "observation", "hint"


class HintPart:
    """Adds hints to the observations of one space.

    Args:
        space: Of observations without a hint.
        form: `text` or `action`; None: text for texts, else the action.
        hint_space: Of the hints.
        action_phrases: Of all actions.

    Raises:
        ValueError: The form is unknown, or needs names for the actions; or the observation has a hint already.
    """

    def __init__(
        self, space: gymnasium.Space[Any], form: HintForm | None, hint_space: Text, action_phrases: Sequence[str]
    ) -> None:
        self._form = form or ("text" if isinstance(space, Text) else "action")
        if self._form not in ("text", "action"):
            raise ValueError(f'form is {form!r}; choose "text" or "action"')
        if self._form == "action" and not action_phrases:
            raise ValueError('hints as actions need names for the actions: pass describer=, or form="text"')
        if isinstance(space, Dict) and HINT in space.spaces:
            raise ValueError("observations have a hint already")
        self._joined = isinstance(space, Text) and self._form == "text"
        self._is_dict = isinstance(space, Dict)
        self._num_actions = len(action_phrases)
        self._patterns = [re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE) for phrase in action_phrases]
        if self._form == "text" and hint_space.min_length:
            raise ValueError("hint_space must hold the empty text, which is no hint: give it min_length=0")
        self.space = self._with_hint(space, hint_space)

    def _with_hint(self, space: gymnasium.Space[Any], hint_space: Text) -> gymnasium.Space[Any]:
        if self._joined and isinstance(space, Text):
            return joined_space(space, hint_space)
        part = hint_space if self._form == "text" else Box(0.0, 1.0, (self._num_actions,), np.float32)
        parts = space.spaces if isinstance(space, Dict) else {OBSERVATION: space}
        return Dict({**parts, HINT: part})

    def add(self, observation: Any, hint: str) -> Any:
        """Returns an observation with a hint; with an empty one, as there is none."""
        if self._joined:
            return f"{observation}{BETWEEN}{hint}" if hint else observation
        part = hint if self._form == "text" else self._one_hot(hint)
        return {**(observation if self._is_dict else {OBSERVATION: observation}), HINT: part}

    def _one_hot(self, hint: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        numbers = np.zeros(self._num_actions, np.float32)
        found = [(match.start(), -len(match[0]), k) for k, p in enumerate(self._patterns) if (match := p.search(hint))]
        if found:
            numbers[min(found)[-1]] = 1.0  # the earliest, of two at one place the longer
        return numbers
