"""Request fields -> states: one text, task and list of legal actions per observation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import NamedTuple

from hintwise.describers import Describer, described_env_ids, describer_for
from hintwise.errors import InvalidRequest
from hintwise.schemas import ActRequest, GuidanceRequest
from service.faults import ItemFaults, blamed_on


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
        InvalidRequest: Observations cannot be read; offences name each.
    """
    describer = _describer(request.env_id)
    count = len(request.observations)
    default_task = describer.task if describer else None
    tasks = request.task if isinstance(request.task, list) else [request.task or default_task] * count
    texts = _texts(request.observations, describer)
    if request.actions is None:
        return [_described(request, i, texts[i], tasks[i], describer) for i in range(count)]
    if isinstance(request.actions[0], str):
        return list(map(State, texts, tasks, repeat(tuple(request.actions)), repeat(None)))
    return list(map(State, texts, tasks, map(tuple, request.actions), repeat(None)))


def _describer(env_id: str | None) -> Describer | None:
    if env_id is None:
        return None
    try:
        return describer_for(env_id)
    except InvalidRequest as error:
        raise blamed_on("env_id", error) from error


def _texts(observations: Sequence[object], describer: Describer | None) -> list[str]:
    """Returns every observation in words; raises for all that cannot be read."""
    texts = [observation for observation in observations if isinstance(observation, str)]
    if len(texts) == len(observations):
        return texts
    faults = ItemFaults("observations[{}]".format)
    texts = faults.each(range(len(observations)), lambda i: _text(observations[i], describer))
    faults.raise_any()
    return texts


def _text(observation: object, describer: Describer | None) -> str:
    if isinstance(observation, str):
        return observation
    if describer is None:
        raise InvalidRequest(f"not text; send text, or env_id, one of {', '.join(described_env_ids())}")
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
