"""Request fields -> states: one text, task and list of legal actions per observation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from hintwise.describers import DESCRIBED_ENV_IDS, Describer, describer_for
from hintwise.errors import InvalidRequest, Offence
from hintwise.schemas import ActRequest, GuidanceRequest


class State(NamedTuple):
    """What one observation says, and what may be done in it."""

    text: str
    task: str | None
    actions: tuple[str, ...] | None
    numbers: tuple[int, ...] | None
    """The environment's numbers of `actions`; None where the request listed the actions itself."""


def states_of(request: ActRequest | GuidanceRequest) -> list[State]:
    """Returns one state per observation of the request.

    Raises:
        InvalidRequest: An observation cannot be read; offences name it.
    """
    describer = _describer(request.env_id)
    count = len(request.observations)
    default_task = describer.task if describer else None
    tasks = request.task if isinstance(request.task, list) else [request.task or default_task] * count
    texts = [_text(i, observation, describer) for i, observation in enumerate(request.observations)]
    if request.actions is None:
        return [_described(request, i, texts[i], tasks[i], describer) for i in range(count)]
    if isinstance(request.actions[0], str):
        shared = tuple(request.actions)
        return [State(text, task, shared, None) for text, task in zip(texts, tasks, strict=True)]
    lists = map(tuple, request.actions)
    return [State(text, task, actions, None) for text, task, actions in zip(texts, tasks, lists, strict=True)]


@contextmanager
def blamed_on(where: Callable[[], str]) -> Iterator[None]:
    """Puts the place that `where` returns in front of the fields an `InvalidRequest` names, or names it alone.

    A function, so that one block around a loop can tell which item it was at.
    """
    try:
        yield
    except InvalidRequest as error:
        place = where()
        named = [Offence(f"{place}.{field}", message) for field, message in error.errors]
        raise InvalidRequest(
            error.detail if named else "the request is not valid", errors=named or [Offence(place, error.detail)]
        ) from error


def _describer(env_id: str | None) -> Describer | None:
    if env_id is None:
        return None
    with blamed_on(lambda: "env_id"):
        return describer_for(env_id)


def _text(index: int, observation: object, describer: Describer | None) -> str:
    if isinstance(observation, str):
        return observation
    place = f"observations[{index}]"
    if describer is None:
        raise InvalidRequest(
            "raw observations need env_id",
            errors=[Offence(place, f"not text; send text, or env_id, one of {', '.join(DESCRIBED_ENV_IDS)}")],
        )
    with blamed_on(lambda: place):
        return describer.describe(observation)


def _described(
    request: ActRequest | GuidanceRequest, index: int, text: str, task: str | None, describer: Describer | None
) -> State:
    """Returns a state whose actions come from the describer, where there is one."""
    if describer is None:
        return State(text, task, None, None)
    observation = request.observations[index]
    everything: Sequence[int] = range(len(describer.actions))
    numbers = everything if isinstance(observation, str) else describer.legal_actions(observation)
    return State(text, task, tuple(describer.actions[k] for k in numbers), tuple(numbers))
