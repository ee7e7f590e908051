"""Hints of a guidance model, kept by the state that they are about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from hintwise.advising.asking import Asker, in_parts
from hintwise.bounded_cache import BoundedCache
from hintwise.client import Client
from hintwise.describers import Describer, hints_of
from hintwise.fields import MAX_GUIDANCE_OBSERVATIONS
from hintwise.schemas import GuidanceResponse

MAX_KEPT = 100_000
"""Answers that are kept, by text."""

GUIDANCE_ARGUMENTS = ("mode", "candidates", "max_new_tokens", "temperature", "seed")
"""Of `Client.guidance`, what a wrapper's user may choose."""
GREEDY: Mapping[str, Any] = {"temperature": 0.0}
Hint: TypeAlias = str | None
"""A piece of advice; empty where the model has none to give, None where it could not be asked."""


class State(NamedTuple):
    """One environment in words."""

    text: str
    actions: tuple[str, ...]
    """Phrases of the legal actions; empty where nobody knows any."""


class HintSource(Protocol):
    """Where hints come from."""

    def hints(self, states: Sequence[State]) -> list[Hint]:
        """Returns a hint for each state."""


class OneHint:
    """The same hint for every state.

    Args:
        hint: It.
    """

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def hints(self, states: Sequence[State]) -> list[Hint]:
        return [self._hint] * len(states)


class AskedHints:
    """Hints of the service's guidance model. The same state has the same hint, always: what was asked once is kept.

    Args:
        asker: Asks the service.
        task: Of the environments.
        arguments: Some of `GUIDANCE_ARGUMENTS`, as `Client.guidance` takes them; without any the likeliest hint.

        describer: Of the environments; its hints are what `ranked` chooses among, unless `arguments` say.

    Raises:
        ValueError: An argument is another.
    """

    def __init__(
        self,
        asker: Asker,
        task: str | None,
        arguments: Mapping[str, Any] | None,
        *,
        describer: Describer | None = None,
    ) -> None:
        for name in arguments or ():
            if name not in GUIDANCE_ARGUMENTS:
                raise ValueError(f"guidance has {name!r}; it may have {', '.join(GUIDANCE_ARGUMENTS)}")
        self._asker, self._task, self._arguments = asker, task, {**GREEDY, **(arguments or {})}
        if self._arguments.get("mode") == "ranked" and describer is not None:
            self._arguments.setdefault("candidates", hints_of(describer))
        self._sha256 = ""
        self._kept: BoundedCache[State, str] = BoundedCache(MAX_KEPT)

    def hints(self, states: Sequence[State]) -> list[Hint]:
        unknown = list(dict.fromkeys(state for state in states if self._kept.get(state) is None))
        answered: dict[State, Hint] = {state: self._kept.get(state) for state in states}
        for few in in_parts(unknown, MAX_GUIDANCE_OBSERVATIONS):
            answered |= zip(few, self._asked(few), strict=True)
        return [answered[state] for state in states]

    def _asked(self, states: Sequence[State]) -> Iterator[Hint]:
        answer = self._asker.ask(partial(self._guidance, states=states))
        if answer is None:
            yield from [None] * len(states)
            return
        if answer.model_sha256 != self._sha256:  # another model: what the one before said is not its word
            self._sha256, self._kept = answer.model_sha256, BoundedCache(MAX_KEPT)
        for state, result in zip(states, answer.results, strict=True):
            hint = result.hints[0]
            yield self._kept.keep(state, "" if hint.finish_reason == "degenerate" else hint.text, 1)

    def _guidance(self, client: Client, *, states: Sequence[State]) -> GuidanceResponse:
        actions = [list(state.actions) for state in states] if all(state.actions for state in states) else None
        # One seed for each state: a draw then depends on the state, and not on who asks beside it.
        seeds = [int(self._arguments.get("seed", 0))] * len(states)
        texts = [state.text for state in states]
        return client.guidance(texts, actions, task=self._task, **{**self._arguments, "seed": seeds})
