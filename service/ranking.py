"""Ranked hints: the frozen guidance model chooses among candidates.

    log_prob      sum_t log p(w_t | guidance prompt, w_<t)        temperature 1
    probability   softmax of log_prob over the candidates
    order         log_prob + T * g, descending                    g: standard Gumbel noise

The order at temperature T is a draw without replacement from softmax(log_prob / T); at 0 it is
the best first, the lower index on a tie. The token that would end the hint does not count: it
does not in a hint written freely either, which may end for want of room, so that both kinds of
hint have the same log_prob for the same tokens.

Source: Kool et al. 2019, Stochastic beams and where to find them, section 2.3 (Gumbel-top-k).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hintwise.action_batch import ScoredPrompt
from hintwise.describers import describer_for, hints_of
from hintwise.errors import InvalidRequest, Offence
from hintwise.phrases import PhraseSet
from hintwise.prompts import guidance_prompt
from hintwise.schemas import GuidanceRequest
from service.action_draw import STREAM_RANKING, item_seeds, log_softmax
from service.encoding import off_the_event_loop_if_long, scored_prompts
from service.engine import Engine
from service.sampling import gumbels
from service.states import State

Texts = tuple[str, ...]


async def ranked_hints(
    engine: Engine, request: GuidanceRequest, states: Sequence[State], *, deadline: float
) -> list[list[dict[str, Any]]]:
    """Returns `num_hints` of each state's candidates, as the answer lists them.

    Raises:
        InvalidRequest: No candidates, fewer than `num_hints`, or a prompt too long; offences name the field or item.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    listed = _candidates(request, states)
    _check_enough(request.num_hints, listed)
    prompts = [guidance_prompt(state.text, task=state.task, actions=state.actions) for state in states]
    questions = list(zip(prompts, listed, strict=True))
    whole = await scored_prompts(engine.ranker, questions, _place)
    num_chars = sum(len(candidate) for candidates in listed for candidate in candidates)
    max_tokens = engine.settings.max_batch_tokens
    parts, owners = await off_the_event_loop_if_long(num_chars, lambda: _parts(whole, max_tokens))
    answers = await engine.ranking_queue.submit(parts, deadline=deadline, place_of=lambda part: _place(owners[part]))
    scores: list[list[float]] = [[] for _ in states]
    for owner, answer in zip(owners, answers, strict=True):
        scores[owner] += answer.scores
    return _chosen(request, listed, scores)


def ranking(
    scores: Sequence[Sequence[float]], temperature: float, seeds: NDArray[np.int64], items: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Returns each item's candidates in the order they are chosen, as indices.

    Args:
        scores: (B,) lists of log-probabilities, of any lengths.
        temperature: 0 sorts; above, candidates are drawn without replacement.
        seeds: (B,) as `item_seeds` returns them.
        items: (B,) likewise.
    """
    noise = gumbels(seeds, items, max(map(len, scores)), stream=STREAM_RANKING).astype(np.float64)
    keys = [np.array(row) + temperature * noise[i, : len(row)] for i, row in enumerate(scores)]
    return [np.argsort(-key, kind="stable") for key in keys]


def _candidates(request: GuidanceRequest, states: Sequence[State]) -> list[Texts]:
    """Returns the candidate hints of each state."""
    if request.candidates is not None:
        return [tuple(request.candidates)] * len(states)
    if request.env_id is not None:
        return [tuple(hints_of(describer_for(request.env_id)))] * len(states)
    listed = [state.actions for state in states if state.actions is not None]
    if len(listed) < len(states):
        missing = Offence(
            "candidates", 'missing: mode "ranked" chooses among them; list some, or send env_id or actions'
        )
        raise InvalidRequest("the candidate hints are missing", errors=[missing])
    return listed


def _check_enough(num_hints: int, listed: Sequence[Texts]) -> None:
    for i, candidates in enumerate(listed):
        if len(candidates) < num_hints:
            told = f"{num_hints} distinct hints are wanted, but {_place(i)} has {len(candidates)} candidates"
            raise InvalidRequest("there are too few candidates", errors=[Offence("num_hints", told)])


def _parts(whole: Sequence[ScoredPrompt], max_tokens: int) -> tuple[list[ScoredPrompt], list[int]]:
    """Returns prompts with so few candidates each that one fits a batch, and the state each belongs to."""
    known: dict[tuple[PhraseSet, int], list[PhraseSet]] = {}  # prompts of one length share their parts
    parts: list[ScoredPrompt] = []
    owners: list[int] = []
    for owner, scored in enumerate(whole):
        phrases = cast("PhraseSet", scored.candidates)  # the guidance model has no head
        key = phrases, len(scored.prompt)
        if key not in known:
            known[key] = _split(phrases, len(scored.prompt), max_tokens)
        parts += [scored._replace(candidates=part) for part in known[key]]
        owners += [owner] * len(known[key])
    return parts, owners


def _split(phrases: PhraseSet, num_prompt_tokens: int, max_tokens: int) -> list[PhraseSet]:
    """Returns the candidates in runs of at most `max_tokens` padded tokens; a single one may need more."""
    if phrases.num_actions == 1 or phrases.num_rows * (num_prompt_tokens + phrases.num_row_tokens) <= max_tokens:
        return [phrases]
    middle = phrases.num_actions // 2
    halves = PhraseSet.of(phrases.token_ids[:middle]), PhraseSet.of(phrases.token_ids[middle:])
    return [part for half in halves for part in _split(half, num_prompt_tokens, max_tokens)]


def _chosen(
    request: GuidanceRequest, listed: Sequence[Texts], scores: Sequence[Sequence[float]]
) -> list[list[dict[str, Any]]]:
    orders = ranking(scores, request.temperature, *item_seeds(request.seed, len(scores)))
    chosen: list[list[dict[str, Any]]] = []
    for candidates, row, order in zip(listed, scores, orders, strict=True):
        probabilities = np.exp(log_softmax(np.array([row], dtype=np.float64)))[0].tolist()
        chosen.append(
            [
                {"text": candidates[k], "log_prob": row[k], "probability": probabilities[k], "finish_reason": "stop"}
                for k in order[: request.num_hints].tolist()
            ]
        )
    return chosen


def _place(index: int) -> str:
    return f"observations[{index}]"
