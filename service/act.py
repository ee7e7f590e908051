"""`POST /act`: texts and legal actions in, one action each out, all from one policy version."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from hintwise.action_head import HeadActions
from hintwise.describers import describer_for
from hintwise.errors import InvalidRequest, Offence, Unavailable
from hintwise.prompts import action_prompt
from hintwise.schemas import ActRequest
from service.action_draw import Choice, item_keys
from service.encoding import encoded
from service.engine import Engine
from service.policy_runner import ActionQuestion, Decision
from service.states import State, states_of

MAX_RECOMPUTES = 3


async def act(engine: Engine, request: ActRequest, *, deadline: float) -> dict[str, Any]:
    """Returns the body of the answer (`ActResponse`).

    Raises:
        InvalidRequest: An item cannot be scored; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    states = states_of(request)
    texts, actions = _prompts(request, states)
    _check_head_answers(engine.policy.policy.head_actions, request, states)
    prompts = await encoded(engine.policy, texts, actions, _place)
    items = list(map(ActionQuestion, prompts, _choices(request)))
    decisions = await _decide_under_one_version(engine, items, deadline)
    engine.metrics.act_observations.inc(len(items))
    return {
        "policy_version": decisions[0].policy_version,
        "readout": engine.settings.readout,
        "results": [_result(*each) for each in zip(states, items, decisions, strict=True)],
    }


def _choices(request: ActRequest) -> list[Choice]:
    """Returns how each observation's action is to be chosen."""
    seeds, places = item_keys(request.seed, len(request.observations))
    ways = map(repeat, (request.mode, request.temperature, request.epsilon or 0.0))
    return list(map(Choice, *ways, seeds, places))


def _prompts(request: ActRequest, states: Sequence[State]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns each state's prompt and legal actions."""
    actions = [state.actions for state in states if state.actions is not None]
    if len(actions) < len(states):
        raise InvalidRequest("the legal actions are missing", errors=[Offence("actions", "list them, or send env_id")])
    hints = request.hints or [None] * len(states)
    texts = [action_prompt(state.text, task=state.task, hint=hint) for state, hint in zip(states, hints, strict=True)]
    return texts, actions


def _check_head_answers(head: HeadActions | None, request: ActRequest, states: Sequence[State]) -> None:
    """Raises unless the policy's head, where it has one, was built for the legal actions of every state.

    An environment's whole list has to be the head's: one that merely contains it was built for another task.
    """
    if head is None:
        return
    if request.actions is None and request.env_id is not None:
        described = HeadActions(describer_for(request.env_id).actions)
        if described.actions != head.actions:
            message = f"its actions are {described}, but the policy's head answers for {head}"
            raise InvalidRequest("the policy's head was built for other actions", errors=[Offence("env_id", message)])
    one_each = request.actions is not None and isinstance(request.actions[0], list)
    first_asked = {state.actions or (): i for i, state in reversed(list(enumerate(states)))}
    for actions, i in first_asked.items():
        head.columns(actions, place=f"actions[{i}]" if one_each else "actions")


async def _decide_under_one_version(engine: Engine, items: Sequence[ActionQuestion], deadline: float) -> list[Decision]:
    """Returns decisions that all come from one version.

    A large request travels in several batches, and a swap may fall between two of them: what
    the older version scored is then scored again.
    """
    decisions = await engine.act_queue.submit(items, deadline=deadline, place_of=_place)
    for attempt in range(MAX_RECOMPUTES + 1):
        first = decisions[0].policy_version
        if all(decision.policy_version == first for decision in decisions):
            return decisions
        serving = engine.policy.policy_version  # not the highest of them: after a rollback that is the old one
        stale = [i for i, decision in enumerate(decisions) if decision.policy_version != serving]
        if attempt == MAX_RECOMPUTES:
            break
        engine.metrics.act_recomputed.inc(len(stale))
        again = [items[i] for i in stale]
        places = [_place(i) for i in stale]
        renewed = await engine.act_queue.submit(again, deadline=deadline, place_of=places.__getitem__)
        for i, decision in zip(stale, renewed, strict=True):
            decisions[i] = decision
    raise Unavailable("the weights are swapped faster than this request is scored; send fewer observations at a time")


def _result(state: State, item: ActionQuestion, decision: Decision) -> dict[str, Any]:
    index, scores = decision.action, decision.scores
    return {
        "action": index if state.numbers is None else state.numbers[index],
        "label": (state.actions or ())[index],
        "log_prob": decision.log_prob,
        "log_probs": scores.log_probs,
        "scores": scores.scores,
        "value": scores.value,
        "num_prompt_tokens": len(item.scored.prompt),
    }


def _place(index: int) -> str:
    return f"observations[{index}]"
