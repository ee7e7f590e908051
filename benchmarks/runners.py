"""The service's policy runner as benchmarks use it: everything that knows its interface stands here."""

from __future__ import annotations

from hintwise.action_head import Candidates, ScoredPrompt
from hintwise.language_model import LanguageModel
from hintwise.tokens import TokenIds
from service.action_draw import Choice
from service.policy_runner import ActionQuestion, PolicyRunner


def remembering_runner(model: LanguageModel) -> PolicyRunner:
    """Returns the runner as the service has it: equal prompts of a batch are scored once, and answers are kept."""
    return PolicyRunner(model)


def cacheless_runner(model: LanguageModel) -> PolicyRunner:
    """Returns a runner that keeps no answers."""
    return PolicyRunner(model, max_cached_answers=0)


def forgetful_runner(model: LanguageModel) -> PolicyRunner:
    """Returns a runner that scores every prompt it is asked, repeated ones as well."""
    return PolicyRunner(model, deduplicate=False, max_cached_answers=0)


FORGETFUL_SETTINGS = {"HINTWISE_DEDUPLICATE": "false", "HINTWISE_MAX_CACHED_ANSWERS": "0"}
"""The same for the service."""


def scored_prompt(prompt: TokenIds, candidates: Candidates) -> ScoredPrompt:
    """Returns what `PolicyRunner.score` takes."""
    return ScoredPrompt(prompt, candidates)


def sampled_question(prompt: TokenIds, candidates: Candidates, seed: int) -> ActionQuestion:
    """Returns what `PolicyRunner.decide` takes: an action is sampled with this seed at temperature 1."""
    return ActionQuestion(prompt, candidates, Choice("sample", 1.0, 0.0, seed, 0))
