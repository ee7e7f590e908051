"""A state and what may follow it, as one row of tokens: the state is read once, each continuation alone.

    task: Drive ...            hint: move south to reach red   action: move south     a right hint
    state: at 1 0 pick red ◀── hint: please move north         action: move north     any hint
                           ◀── hint: red north the             action: move east      nonsense
                           ◀── action: move west                                      no hint
                           ◀── hint: pick up at red            done: no               progress

Another row has two states of a teacher's episode, one step apart, behind the task:

    task: Drive ...        ◀── state: at 1 0 ...    hint: move north to reach red    done:  ┐ the odds of yes
    state:                 ◀── state: at 0 0 ...    hint: move north to reach red    done:  ┘ should rise

Each continuation sees the beginning and itself, as if it stood behind it alone. What is learned:
the words of right hints, the action that a hint names, and, where no hint helps, every legal action
as likely as the others. Nothing is learned from a state's words, nor from those of other hints,
else the model would write them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hintwise.phrases import TokenIds
from hintwise.prompts import (
    PROGRESS_ANSWERS,
    action_prompt,
    continuation,
    guidance_prompt,
    progress_prompt,
    shared_part,
)
from hintwise.tokens import TextEncoder
from worker.hint_words import verb_phrase
from worker.pretraining.hints import NONSENSE_KINDS, Hints, right_hint
from worker.pretraining.purposes import Purpose
from worker.pretraining.states import State

TASK_SHARE = 0.75
"""Of the rows, those with a task."""
OTHER_TASK_SHARE = 0.15
"""Of these, those with the task of another world of the family: words that are new should not confuse."""
RISING_SHARE = 0.3
"""Of the states with a step of the teacher's, those that are read with what follows it."""
LISTED_SHARE = 0.2
"""Of the rows, those that list the actions in front of the state and ask for a hint alone."""
NUM_OTHER_HINTS = 2
NUM_NONSENSE = 2
NO_PROGRESS = 0.02
"""Potential of a hint that says nothing."""
PROGRESS_WEIGHT = 4.0
"""Of an answer about progress in the loss: a step changes its odds by little, and should be told all the same."""


class Target(NamedTuple):
    """A token that should be predicted at a column, with its weight in the loss."""

    column: int
    token: int
    weight: float


class Rise(NamedTuple):
    """Two columns where the odds of one token against another should rise from the earlier to the later."""

    earlier: int
    later: int
    token: int
    against: int


class Row(NamedTuple):
    """Tokens of a state and its continuations."""

    token_ids: TokenIds
    branches: tuple[int, ...]
    """0 for the state, then the number of the continuation that a token belongs to."""
    positions: tuple[int, ...]
    targets: tuple[Target, ...]
    rises: tuple[Rise, ...] = ()


class RowWriter:
    """Writes rows of one tokenizer.

    Args:
        encoder: Of the model's tokenizer.
        hints: Of all families.
        tasks: Of the worlds of each family.
    """

    def __init__(self, encoder: TextEncoder, hints: Hints, tasks: Mapping[str, Sequence[str]]) -> None:
        self._encoder = encoder
        self._hints = hints
        self._tasks = tasks

    def row(self, state: State, generator: random.Random) -> Row:
        """Returns a row with newly drawn continuations."""
        task = self._task(state, generator)
        nearing = [purpose for purpose in state.purposes if purpose.remaining] if state.next_text else []
        if nearing and generator.random() < RISING_SHARE:
            return self._rising(state, self._asked(state, generator.choice(nearing), generator), task)
        if state.right and generator.random() < LISTED_SHARE:
            prompt = guidance_prompt(state.text, task=task, actions=state.actions)
            draft = _Draft(self._encoder, prompt.removesuffix("hint:"))
            hint = right_hint(state, generator.choice(state.advised))
            draft.begin(prompt)
            draft.learn(continuation(hint) + "\n")
            return draft.row()
        draft = _Draft(self._encoder, action_prompt(state.text, task=task).removesuffix("action:"))
        self._add_obedience(draft, state, task, generator)
        self._add_nonsense(draft, state, task, generator)
        if state.purposes:
            self._add_progress(draft, state, task, generator)
        return draft.row()

    def _task(self, state: State, generator: random.Random) -> str | None:
        if generator.random() >= TASK_SHARE:
            return None
        return generator.choice(self._tasks[state.family]) if generator.random() < OTHER_TASK_SHARE else state.task

    def _rising(self, state: State, hint: str, task: str | None) -> Row:
        """Returns a row with a state and the next one of its episode, where `hint` is nearer."""
        earlier, later = (progress_prompt(text, hint, task=task) for text in (state.text, state.next_text))
        draft = _Draft(self._encoder, shared_part(earlier))
        draft.begin(earlier)
        column = draft.last_column
        draft.begin(later)
        no, yes = map(continuation, PROGRESS_ANSWERS)
        draft.learn_rise(column, draft.last_column, yes, no)
        return draft.row()

    def _add_obedience(self, draft: _Draft, state: State, task: str | None, generator: random.Random) -> None:
        if state.right:
            action = generator.choice(state.advised)
            hint = right_hint(state, action)
            before, _, after = action_prompt(state.text, task=task, hint=hint).rpartition(continuation(hint))
            draft.begin(before)
            draft.learn(continuation(hint) + "\n")
            draft.read(after.removeprefix("\n"))
            draft.learn(continuation(action))
        for _ in range(NUM_OTHER_HINTS):
            action = generator.choice(state.actions)
            hint = self._hints.books[state.family].any(action, generator)
            draft.begin(action_prompt(state.text, task=task, hint=hint))
            draft.learn(continuation(action))

    def _add_nonsense(self, draft: _Draft, state: State, task: str | None, generator: random.Random) -> None:
        drawn = [
            self._hints.nonsense(kind, state, generator)
            for kind in generator.choices(NONSENSE_KINDS, (3, 2, 1, 1), k=NUM_NONSENSE)
        ]
        for hint in [None, *(each for each in drawn if each)]:
            draft.begin(action_prompt(state.text, task=task, hint=hint))
            draft.learn_evenly([continuation(action) for action in state.actions], generator)

    def _add_progress(self, draft: _Draft, state: State, task: str | None, generator: random.Random) -> None:
        purpose = generator.choice(state.purposes)
        asked: list[tuple[str | None, float]] = [(self._asked(state, purpose, generator), purpose.potential)]
        if generator.random() < 0.3:
            asked.append((self._hints.nonsense(generator.choice(NONSENSE_KINDS), state, generator), NO_PROGRESS))
        for hint, potential in asked:
            if hint:
                draft.begin(progress_prompt(state.text, hint, task=task))
                no, yes = map(continuation, PROGRESS_ANSWERS)
                draft.learn_odds({no: PROGRESS_WEIGHT * (1 - potential), yes: PROGRESS_WEIGHT * potential})

    def _asked(self, state: State, purpose: Purpose, generator: random.Random) -> str:
        """Returns a hint with a purpose: how far that is depends on it alone, whichever step is advised."""
        if purpose.clause and generator.random() < 0.4:
            return verb_phrase(generator.choice(state.actions)) + purpose.clause
        return purpose.hint


class _Draft:
    """A row in the making."""

    def __init__(self, encoder: TextEncoder, trunk: str) -> None:
        self._encode = encoder.encode
        self._trunk = trunk
        self._token_ids = list(self._encode(trunk))
        self._num_trunk = len(self._token_ids)
        self._branches = [0] * self._num_trunk
        self._positions = list(range(self._num_trunk))
        self._targets: list[Target] = []
        self._rises: list[Rise] = []

    @property
    def last_column(self) -> int:
        """Where the token was added last."""
        return len(self._token_ids) - 1

    def begin(self, prompt: str) -> None:
        """Begins a continuation with a whole prompt that starts with the state."""
        if not prompt.startswith(self._trunk):
            raise ValueError(f"{prompt!r} does not begin with {self._trunk!r}")
        self._branch = self._branches[-1] + 1
        self._next_position = self._num_trunk
        self.read(prompt.removeprefix(self._trunk))

    def read(self, text: str) -> None:
        """Adds text that nothing is learned from."""
        self._add(self._encode(text))

    def learn(self, text: str) -> None:
        """Adds text whose every token is to be predicted."""
        for token in self._encode(text):
            self._target({token: 1.0})
            self._add([token])

    def learn_odds(self, odds: dict[str, float]) -> None:
        """Has one-token texts predicted with these odds; none of them is added."""
        self._target({self._encode(text)[0]: share for text, share in odds.items()})

    def learn_evenly(self, texts: Sequence[str], generator: random.Random) -> None:
        """Has all texts predicted, each as likely, and adds one of them, less its last token."""
        all_ids = [self._encode(text) for text in texts]
        drawn = generator.choice(all_ids)
        for depth in range(len(drawn)):
            alike = [ids for ids in all_ids if ids[:depth] == drawn[:depth] and len(ids) > depth]
            odds: dict[int, float] = {}
            for ids in alike:
                odds[ids[depth]] = odds.get(ids[depth], 0.0) + 1 / len(alike)
            self._target(odds)
            if depth + 1 < len(drawn):
                self._add([drawn[depth]])

    def learn_rise(self, earlier: int, later: int, text: str, against: str) -> None:
        """Has the odds of one one-token text against another rise from one column to another."""
        self._rises.append(Rise(earlier, later, self._encode(text)[0], self._encode(against)[0]))

    def row(self) -> Row:
        """Returns what has been added."""
        return Row(
            tuple(self._token_ids),
            tuple(self._branches),
            tuple(self._positions),
            tuple(self._targets),
            tuple(self._rises),
        )

    def _target(self, odds: dict[int, float]) -> None:
        column = self.last_column
        self._targets += [Target(column, token, weight) for token, weight in odds.items()]

    def _add(self, token_ids: Sequence[int]) -> None:
        self._token_ids += token_ids
        self._branches += [self._branch] * len(token_ids)
        self._positions += range(self._next_position, self._next_position + len(token_ids))
        self._next_position += len(token_ids)
