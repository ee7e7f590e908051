"""`POST /guidance`: states in, hints out."""

from __future__ import annotations

from typing import Any

from hintwise.prompts import guidance_prompt
from hintwise.schemas import GuidanceRequest
from service.action_draw import item_seeds
from service.engine import Engine
from service.hint_generator import HINTS_PER_ITEM, HintRequest
from service.states import blamed_on, states_of


async def guide(engine: Engine, request: GuidanceRequest, *, deadline: float) -> dict[str, Any]:
    """Returns the body of the answer (`GuidanceResponse`).

    Raises:
        InvalidRequest: An observation cannot be read; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    written = await engine.guidance_queue.submit(_hint_requests(engine, request), deadline=deadline)
    hints = [
        {"text": hint.text, "log_prob": hint.log_prob, "probability": None, "finish_reason": hint.finish_reason}
        for hint in written
    ]
    count = request.num_hints
    model = engine.hints.language_model
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "results": [{"hints": hints[start : start + count]} for start in range(0, len(hints), count)],
    }


def _hint_requests(engine: Engine, request: GuidanceRequest) -> list[HintRequest]:
    states = states_of(request)
    seeds, places = item_seeds(request.seed, len(states))
    wanted: list[HintRequest] = []
    i = 0
    with blamed_on(lambda: f"observations[{i}]"):
        for i, state in enumerate(states):
            prompt = engine.hints.encoder.encode(guidance_prompt(state.text, task=state.task, actions=state.actions))
            engine.hints.encoder.check_fits(len(prompt), request.max_new_tokens)
            for k in range(request.num_hints):
                item = int(places[i]) * HINTS_PER_ITEM + k
                wanted.append(HintRequest(prompt, request.max_new_tokens, request.temperature, int(seeds[i]), item))
    return wanted
