"""`POST /reward`: hints and transitions in, rewards out."""

from __future__ import annotations

from typing import Any

from hintwise.schemas import RewardRequest
from service.engine import Engine
from service.policy_runner import ScoredPrompt
from service.reward_scorer import Question, Scorer, scorer_named
from service.states import blamed_on


async def reward(engine: Engine, request: RewardRequest, *, deadline: float) -> dict[str, Any]:
    """Returns the body of the answer (`RewardResponse`).

    Raises:
        InvalidRequest: The scorer or an item is not usable; offences name it.
        Overloaded, DeadlineExceeded, InferenceFailed, Unavailable: As the queue says.
    """
    scorer = scorer_named(request.scorer)
    questions = _questions(scorer, request)
    prompts = {
        question: _encode(engine, place, question) for place, asked in enumerate(questions) for question in asked
    }
    answers = await engine.reward_queue.submit(list(prompts.values()), deadline=deadline)  # each distinct prompt once
    log_probs = {question: answer.log_probs.tolist() for question, answer in zip(prompts, answers, strict=True)}
    results = [
        scorer.result(item, [log_probs[question] for question in asked], request.gamma).model_dump()
        for item, asked in zip(request.items, questions, strict=True)
    ]
    model = engine.scorer.language_model
    return {"scorer": request.scorer, "model": model.name, "model_sha256": model.sha256, "results": results}


def _questions(scorer: Scorer, request: RewardRequest) -> list[list[Question]]:
    questions: list[list[Question]] = []
    with blamed_on(lambda: f"items[{len(questions)}]"):
        for item in request.items:
            questions.append(scorer.questions(item))  # noqa: PERF401 (its length tells where a failure was)
    return questions


def _encode(engine: Engine, place: int, question: Question) -> ScoredPrompt:
    text, phrases = question
    with blamed_on(lambda: f"items[{place}]"):
        prompt = engine.scorer.encoder.encode(text)
        phrase_set = engine.scorer.encoder.phrases(phrases)
        engine.scorer.encoder.check_fits(len(prompt), phrase_set.longest_row)
    return ScoredPrompt(prompt, phrase_set)
