"""`POST /guidance`: states in, hints out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hintwise.prompts import guidance_prompt
from hintwise.schemas import GuidanceRequest
from service.action_draw import item_seeds
from service.encoding import off_the_event_loop_if_long
from service.engine import Engine
from service.hint_generator import HINTS_PER_ITEM, HintRequest
from service.states import State, blamed_on, states_of


async def guide(engine: Engine, request: GuidanceRequest, *, deadline: float) -> dict[str, Any]:
    """Returns the body of the answer (`GuidanceResponse`).

    Raises:
        InvalidRequest: An observation cannot be read; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    states = states_of(request)
    num_chars = sum(len(state.text) + len(state.task or "") + sum(map(len, state.actions or ())) for state in states)
    wanted = await off_the_event_loop_if_long(num_chars, lambda: _hint_requests(engine, request, states))
    written = await engine.guidance_queue.submit(
        wanted, deadline=deadline, place_of=lambda k: f"observations[{k // request.num_hints}]"
    )
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


def _hint_requests(engine: Engine, request: GuidanceRequest, states: Sequence[State]) -> list[HintRequest]:
    seeds, places = item_seeds(request.seed, len(states))
    wanted: list[HintRequest] = []
    encoder, i = engine.hints.encoder, 0
    texts = [guidance_prompt(state.text, task=state.task, actions=state.actions) for state in states]
    with blamed_on(lambda: f"observations[{i}]"):
        for i in range(len(texts)):
            encoder.check_length(texts[i])
        prompts = encoder.encode_all(texts)
        for i in range(len(texts)):
            encoder.check_fits(len(prompts[i]), request.max_new_tokens)
    for i, prompt in enumerate(prompts):
        for k in range(request.num_hints):
            item = int(places[i]) * HINTS_PER_ITEM + k
            wanted.append(HintRequest(prompt, request.max_new_tokens, request.temperature, int(seeds[i]), item))
    return wanted
