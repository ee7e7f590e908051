"""`POST /guidance`: states in, hints out, written token by token or chosen among candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hintwise.errors import InvalidRequest, Offence
from hintwise.prompts import guidance_prompt
from hintwise.schemas import GuidanceRequest
from service.action_draw import item_seeds
from service.encoding import fitting_prompts, off_the_event_loop_if_long
from service.engine import Engine
from service.hint_generator import HINTS_PER_ITEM, HintRequest
from service.hint_reader import HintReader
from service.ranking import ranked_hints
from service.states import State, states_of
from service.written_hint import WrittenHint


async def guide(
    engine: Engine, request: GuidanceRequest, *, deadline: float, reader: HintReader | None = None
) -> dict[str, Any]:
    """Returns the body of the answer (`GuidanceResponse`).

    Args:
        engine: What writes.
        request: What is asked.
        deadline: Event-loop time by which the hints must be there.
        reader: Hears tokens while they are drawn; hint k of observation i is number i * num_hints + k.

    Raises:
        InvalidRequest: An observation cannot be read, or a field does not fit the mode; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    if request.mode == "free" and request.candidates is not None:
        unfit = Offence("candidates", 'for mode "ranked" alone; leave them out, or set the mode')
        raise InvalidRequest("a field does not fit the mode", errors=[unfit])
    states = states_of(request)
    if request.mode == "ranked":
        hints = await ranked_hints(engine, request, states, deadline=deadline)
    else:
        hints = await _written_hints(engine, request, states, deadline, reader or HintReader())
    model = engine.hints.language_model
    return {
        "model": model.name,
        "model_sha256": model.sha256,
        "results": [{"hints": each} for each in hints],
    }


async def _written_hints(
    engine: Engine, request: GuidanceRequest, states: Sequence[State], deadline: float, reader: HintReader
) -> list[list[dict[str, Any]]]:
    count = request.num_hints
    num_chars = sum(len(state.text) + len(state.task or "") + sum(map(len, state.actions or ())) for state in states)
    wanted = await off_the_event_loop_if_long(num_chars, lambda: _hint_requests(engine, request, states, reader))
    try:
        written = await engine.guidance_queue.submit(
            wanted, deadline=deadline, place_of=lambda k: f"observations[{k // count}]"
        )
    finally:
        reader.left = True  # answered, too late or hung up: what is not written yet need not be
    hints = [_listed(hint) for hint in written]
    return [hints[start : start + count] for start in range(0, len(hints), count)]


def _listed(hint: WrittenHint) -> dict[str, Any]:
    return {"text": hint.text, "log_prob": hint.log_prob, "probability": None, "finish_reason": hint.finish_reason}


def _hint_requests(
    engine: Engine, request: GuidanceRequest, states: Sequence[State], reader: HintReader
) -> list[HintRequest]:
    seeds, places = item_seeds(request.seed, len(states))
    wanted: list[HintRequest] = []
    texts = [guidance_prompt(state.text, task=state.task, actions=state.actions) for state in states]
    room = [request.max_new_tokens] * len(texts)
    prompts = fitting_prompts(engine.hints.encoder, texts, room, "observations[{}]".format)
    for i, prompt in enumerate(prompts):
        for k in range(request.num_hints):
            item = int(places[i]) * HINTS_PER_ITEM + k
            wanted.append(
                HintRequest(
                    prompt,
                    request.max_new_tokens,
                    request.temperature,
                    int(seeds[i]),
                    item,
                    reader=reader,
                    number=len(wanted),
                    seeded=request.seed is not None,
                )
            )
    return wanted
