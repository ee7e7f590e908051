"""`POST /reward`: hints and transitions in, rewards out."""

from __future__ import annotations

from typing import Any

from hintwise.schemas import RewardRequest
from service.encoding import Question, scored_prompts
from service.engine import Engine
from service.faults import ItemFaults
from service.reward_scorer import Scorer, scorer_named


async def reward(engine: Engine, request: RewardRequest, *, deadline: float) -> dict[str, Any]:
    """Returns the body of the answer (`RewardResponse`).

    Raises:
        InvalidRequest: The scorer or an item is not usable; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    scorer = scorer_named(request.scorer, engine.scorers)
    questions = _questions(scorer, request)
    first_asked: dict[Question, int] = {}
    for i, asked in enumerate(questions):
        for question in asked:
            first_asked.setdefault(question, i)
    distinct = list(first_asked)  # each prompt is scored once, however many items ask it

    def place_of(index: int) -> str:
        return f"items[{first_asked[distinct[index]]}]"

    prompts = await scored_prompts(engine.scorer, distinct, place_of)
    answers = await engine.reward_queue.submit(prompts, deadline=deadline, place_of=place_of)
    log_probs = {question: answer.log_probs for question, answer in zip(distinct, answers, strict=True)}
    results = [
        scorer.result(item, [log_probs[question] for question in asked], request.gamma).model_dump()
        for item, asked in zip(request.items, questions, strict=True)
    ]
    model = engine.scorer.language_model
    return {"scorer": request.scorer, "model": model.name, "model_sha256": model.sha256, "results": results}


def _questions(scorer: Scorer, request: RewardRequest) -> list[list[Question]]:
    faults = ItemFaults("items[{}]".format)
    questions = faults.each(range(len(request.items)), lambda i: scorer.questions(request.items[i]))
    faults.raise_any()
    return questions
