"""`POST /act`: texts and legal actions in, one action each out, all from one policy version."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from hintwise.errors import InvalidRequest, Offence, Unavailable
from hintwise.prompts import action_prompt
from hintwise.schemas import ActRequest
from hintwise.tokens import TextEncoder
from service.action_draw import draw_actions, item_seeds
from service.engine import Engine
from service.policy_runner import ScoredPrompt, Scores
from service.states import State, blamed_on, states_of

MANY_CHARS = 50_000
"""Texts longer than this together are tokenized in a thread, so that the event loop keeps answering."""
MAX_RECOMPUTES = 3


async def act(engine: Engine, request: ActRequest, *, deadline: float) -> dict[str, Any]:
    """Returns the body of the answer (`ActResponse`).

    Raises:
        InvalidRequest: An item cannot be scored; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    states = states_of(request)
    items = await encode_states(engine.policy.encoder, request, states)
    scores = await _score_under_one_version(engine, items, deadline)
    engine.metrics.act_observations.inc(len(items))
    return {
        "policy_version": scores[0].policy_version,
        "readout": engine.settings.readout,
        "results": _results(request, states, items, scores),
    }


async def encode_states(encoder: TextEncoder, request: ActRequest, states: Sequence[State]) -> list[ScoredPrompt]:
    """Returns each state's prompt and phrases as tokens, and refuses what does not fit the model."""
    if sum(len(state.text) for state in states) > MANY_CHARS:
        return await asyncio.to_thread(_encode, encoder, request, states)
    return _encode(encoder, request, states)


def _encode(encoder: TextEncoder, request: ActRequest, states: Sequence[State]) -> list[ScoredPrompt]:
    actions = [state.actions for state in states if state.actions is not None]
    if len(actions) < len(states):
        raise InvalidRequest("the legal actions are missing", errors=[Offence("actions", "list them, or send env_id")])
    hints = request.hints or [None] * len(states)
    texts = [action_prompt(state.text, task=state.task, hint=hint) for state, hint in zip(states, hints, strict=True)]
    items: list[ScoredPrompt] = []
    i = 0
    with blamed_on(lambda: f"observations[{i}]"):
        for i in range(len(texts)):
            encoder.check_length(texts[i])
        prompts = encoder.encode_all(texts)
        for i in range(len(texts)):
            phrases = encoder.phrases(actions[i])
            encoder.check_fits(len(prompts[i]), phrases.longest_row)
            items.append(ScoredPrompt(prompts[i], phrases))
    return items


async def _score_under_one_version(engine: Engine, items: Sequence[ScoredPrompt], deadline: float) -> list[Scores]:
    """Returns scores that all come from one version.

    A large request travels in several batches, and a swap may fall between two of them: what
    the older version scored is then scored again.
    """
    scores = await engine.act_queue.submit(items, deadline=deadline)
    for _ in range(MAX_RECOMPUTES):
        newest = max(score.policy_version for score in scores)
        stale = [i for i, score in enumerate(scores) if score.policy_version != newest]
        if not stale:
            return scores
        engine.metrics.act_recomputed.inc(len(stale))
        renewed = await engine.act_queue.submit([items[i] for i in stale], deadline=deadline)
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
