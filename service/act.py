"""`POST /act`: texts and legal actions in, one action each out, all from one policy version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hintwise.errors import InvalidRequest, Offence, Unavailable
from hintwise.prompts import action_prompt
from hintwise.schemas import ActRequest
from service.action_draw import draw_actions, item_seeds
from service.encoding import Question, scored_prompts
from service.engine import Engine
from service.policy_runner import ScoredPrompt, Scores
from service.states import State, states_of

MAX_RECOMPUTES = 3


async def act(engine: Engine, request: ActRequest, *, deadline: float) -> dict[str, Any]:
    """Returns the body of the answer (`ActResponse`).

    Raises:
        InvalidRequest: An item cannot be scored; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    states = states_of(request)
    items = await scored_prompts(engine.policy.encoder, _questions(request, states), _place)
    scores = await _score_under_one_version(engine, items, deadline)
    engine.metrics.act_observations.inc(len(items))
    return {
        "policy_version": scores[0].policy_version,
        "readout": engine.settings.readout,
        "results": _results(request, states, items, scores),
    }


def _questions(request: ActRequest, states: Sequence[State]) -> list[Question]:
    """Returns each state's prompt and legal actions."""
    hints = request.hints or [None] * len(states)
    questions = [
        (action_prompt(state.text, task=state.task, hint=hint), state.actions)
        for state, hint in zip(states, hints, strict=True)
        if state.actions is not None
    ]
    if len(questions) < len(states):
        raise InvalidRequest("the legal actions are missing", errors=[Offence("actions", "list them, or send env_id")])
    return questions


async def _score_under_one_version(engine: Engine, items: Sequence[ScoredPrompt], deadline: float) -> list[Scores]:
    """Returns scores that all come from one version.

    A large request travels in several batches, and a swap may fall between two of them: what
    the older version scored is then scored again.
    """
    scores = await engine.act_queue.submit(items, deadline=deadline, place_of=_place)
    for attempt in range(MAX_RECOMPUTES + 1):
        newest = max(score.policy_version for score in scores)
        stale = [i for i, score in enumerate(scores) if score.policy_version != newest]
        if not stale:
            return scores
        if attempt == MAX_RECOMPUTES:
            break
        engine.metrics.act_recomputed.inc(len(stale))
        again = [items[i] for i in stale]
        places = [_place(i) for i in stale]
        renewed = await engine.act_queue.submit(again, deadline=deadline, place_of=places.__getitem__)
        for i, score in zip(stale, renewed, strict=True):
            scores[i] = score
    raise Unavailable("the weights are swapped faster than this request is scored; send fewer observations at a time")


def _results(
    request: ActRequest, states: Sequence[State], items: Sequence[ScoredPrompt], scores: Sequence[Scores]
) -> list[dict[str, Any]]:
    num_actions = np.array([len(score.scores) for score in scores])
    padded = np.full((len(scores), num_actions.max()), -np.inf, dtype=np.float32)
    for row, score in zip(padded, scores, strict=True):
        row[: len(score.scores)] = score.scores
    draw = draw_actions(
        padded,
        num_actions,
        item_seeds(request.seed, len(scores)),
        mode=request.mode,
        temperature=request.temperature,
        epsilon=request.epsilon or 0.0,
    )
    return [
        {
            "action": index if state.numbers is None else state.numbers[index],
            "label": (state.actions or ())[index],
            "log_prob": log_prob,
            "log_probs": score.log_probs.tolist(),
            "scores": score.scores.tolist(),
            "value": score.value,
            "num_prompt_tokens": len(item.prompt),
        }
        for state, item, score, index, log_prob in zip(
            states, items, scores, draw.actions.tolist(), draw.log_probs.tolist(), strict=True
        )
    ]


def _place(index: int) -> str:
    return f"observations[{index}]"
