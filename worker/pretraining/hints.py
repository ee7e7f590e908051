"""Hints: right ones, others that are well formed, and what is none.

| kind     | example                          | which action follows          |
| -------- | -------------------------------- | ----------------------------- |
| right    | `go down to reach the goal`      | down                          |
| any      | `you should go left`             | left, right or wrong          |
| shuffled | `goal down the go reach to`      | any, each as likely           |
| foreign  | `move north to reach red`        | any, in a lake                |
| words    | `seven of the behind`            | any                           |
| unknown  | `qzv rru`                        | any                           |
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Mapping, Sequence

from hintwise.models.build_embedded import HINT_WORDS
from worker.hint_words import verb_phrase
from worker.pretraining.states import State

DECORATIONS = "{}", "{} now", "now {}", "you should {}", "please {}"
NONSENSE_KINDS = "shuffled", "foreign", "words", "unknown"
MAX_CLAUSES = 400
"""Purposes that a family's hints name, such as ` to reach the goal`."""


def right_hint(state: State, action: str) -> str:
    """Returns the teacher's hint with another of its right actions in it."""
    preferred = verb_phrase(state.right[0])
    if action == state.right[0] or not state.hint.startswith(preferred):
        return state.hint
    return verb_phrase(action) + state.hint.removeprefix(preferred)


class HintBook:
    """The hints of one family of worlds.

    Args:
        actions: Of its worlds.
        clauses: What its teachers' hints say behind the action; may be empty.
    """

    def __init__(self, actions: Iterable[str], clauses: Iterable[str]) -> None:
        self.actions = tuple(dict.fromkeys(actions))
        self.clauses = tuple(sorted({clause for clause in clauses if clause}))[:MAX_CLAUSES]
        self._spellings = {action: self._spelled(action) for action in self.actions}
        self._known = {hint for spellings in self._spellings.values() for hint in spellings}

    def _spelled(self, action: str) -> tuple[str, ...]:
        phrase = verb_phrase(action)
        plain = [form.format(phrase) for form in DECORATIONS]
        return tuple(dict.fromkeys([action, *plain, *(phrase + clause for clause in self.clauses)]))

    def is_well_formed(self, hint: str) -> bool:
        """Returns whether a hint names an action of these worlds."""
        return hint in self._known

    def any(self, action: str, generator: random.Random) -> str:
        """Returns a well-formed hint that names `action`; half of them with a purpose, where there are some."""
        if self.clauses and generator.random() < 0.5:
            return verb_phrase(action) + generator.choice(self.clauses)
        return generator.choice((action, *(form.format(verb_phrase(action)) for form in DECORATIONS)))


class Hints:
    """All families' hints.

    Args:
        books: The book of each family.
    """

    def __init__(self, books: Mapping[str, HintBook]) -> None:
        self.books = dict(books)

    @classmethod
    def of(cls, states: Sequence[State]) -> Hints:
        """Returns the hints that fit these states' families."""
        by_family: dict[str, list[State]] = {}
        for state in states:
            by_family.setdefault(state.family, []).append(state)
        return cls(
            {
                family: HintBook(
                    (action for state in few for action in state.all_actions),
                    (state.clause for state in few if state.right),
                )
                for family, few in sorted(by_family.items())
            }
        )

    @classmethod
    def read(cls, books: Mapping[str, Mapping[str, Sequence[str]]]) -> Hints:
        """Returns the hints that were written down as each family's actions and clauses."""
        return cls({family: HintBook(book["actions"], book["clauses"]) for family, book in books.items()})

    def nonsense(self, kind: str, state: State, generator: random.Random) -> str | None:
        """Returns a hint of one of `NONSENSE_KINDS` that names no action of this world; None where none was found."""
        for _ in range(20):
            hint = self._draw(kind, state, generator)
            if hint is not None and not self.books[state.family].is_well_formed(hint):
                return hint
        return None

    def _draw(self, kind: str, state: State, generator: random.Random) -> str | None:
        book = self.books[state.family]
        if kind == "foreign":
            others = [each for family, each in self.books.items() if family != state.family]
            other = generator.choice(others) if others else None
            return other.any(generator.choice(other.actions), generator) if other else None
        if kind == "shuffled":
            right = right_hint(state, generator.choice(state.right)) if state.right else None
            if right is None or generator.random() < 0.4:
                right = book.any(generator.choice(book.actions), generator)
            words = right.split()
            generator.shuffle(words)
            return " ".join(words)
        if kind == "words":
            return " ".join(generator.choices(HINT_WORDS, k=generator.randint(1, 8)))
        letters = string.ascii_letters + "äöé€我!?#"
        return " ".join(
            "".join(generator.choices(letters, k=generator.randint(1, 6))) for _ in range(generator.randint(1, 3))
        )
