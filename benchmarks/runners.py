"""The service's policy runner as benchmarks use it: everything that knows its interface stands here."""

from __future__ import annotations

from collections.abc import Sequence

from hintwise.action_batch import Candidates, ScoredPrompt
from hintwise.language_model import LanguageModel
from service.action_draw import Choice
from service.answer_cache import AnswerCache
from service.policy_runner import ActionQuestion, PolicyRunner

MAX_CACHED_ANSWERS = 100_000
"""The service's default."""


def remembering_runner(model: LanguageModel) -> PolicyRunner:
    """Returns the runner as the service has it: equal prompts of a batch are scored once, and answers are kept."""
    return PolicyRunner(model, answers=AnswerCache(MAX_CACHED_ANSWERS))


def cacheless_runner(model: LanguageModel) -> PolicyRunner:
    """Returns a runner that keeps no answers."""
    return PolicyRunner(model)


def forgetful_runner(model: LanguageModel) -> PolicyRunner:
    """Returns a runner that scores every prompt it is asked, repeated ones as well."""
    return PolicyRunner(model, deduplicate=False)


FORGETFUL_SETTINGS = {"HINTWISE_DEDUPLICATE": "false", "HINTWISE_MAX_CACHED_ANSWERS": "0"}
"""The same for the service."""


def scored_prompts(runner: PolicyRunner, texts: Sequence[str], candidates: Candidates) -> list[ScoredPrompt]:
    """Returns what `PolicyRunner.score` takes."""
    return runner.encoder.scored(texts, [candidates] * len(texts))


def sampled_question(prompt: ScoredPrompt, seed: int) -> ActionQuestion:
    """Returns what `PolicyRunner.decide` takes: an action is sampled with this seed at temperature 1."""
    return ActionQuestion(prompt, Choice("sample", 1.0, 0.0, seed, 0))
