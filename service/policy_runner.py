"""The forward passes. Runs on the inference thread alone; nothing else touches a model.

questions ─▶ distinct prompts ─▶ answers kept ─────────────┐
                              └▶ the rest: one forward ────┴▶ scores ─▶ draws
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import NamedTuple, Protocol

import numpy as np
import torch

from hintwise import weights
from hintwise.action_batch import Candidates, ScoredPrompt
from hintwise.bounded_cache import BoundedCache
from hintwise.errors import InferenceFailed
from hintwise.language_model import LanguageModel
from hintwise.phrases import TokenIds
from hintwise.policy import Policy
from hintwise.scoring import score_distinct
from hintwise.tokens import TextEncoder
from hintwise.trunk_forward import Prefix
from hintwise.weights import StateDict
from service.action_draw import Choice, draw_actions
from service.answer_cache import AnswerCache, Scores
from service.loaded_trunk import LoadedTrunk

MAX_PREFIX_TOKENS = 4_096
"""Of all prefixes whose keys and values are kept; a service meets few tasks at a time."""


class ActionQuestion(NamedTuple):
    """A prompt whose action is to be chosen."""

    scored: ScoredPrompt
    choice: Choice

    @property
    def num_rows(self) -> int:
        return self.scored.num_rows

    @property
    def num_tokens(self) -> int:
        return self.scored.num_tokens


class Decision(NamedTuple):
    """The action chosen for one prompt, and why."""

    action: int  # index into the candidate actions
    log_prob: float  # under the distribution that chose it
    scores: Scores
    policy_version: int


class Recorded(Protocol):
    """Weights as the store knows them."""

    @property
    def policy_version(self) -> int: ...
    @property
    def sha256(self) -> str: ...


class PolicyRunner:
    """Scores actions with one policy, whose weights can be swapped between two batches.

    Args:
        language_model: The trunk. The policy takes its weights over.
        alpha: Exponent of the phrase length.
        beta: Inverse temperature of the phrase scores.
        head_actions: The list that a head is built for; None scores phrases.
        answers: Where finished answers are kept; by default none are.
        deduplicate: Whether equal prompts of a batch share one row. Off, nothing is kept either: to measure against.

    Attributes:
        policy_version: Number of the weights in place.
        loaded_trunk: What adapters change.
        digest: Of the weights in place; in every key of what is kept.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        *,
        alpha: float = 0.0,
        beta: float = 1.0,
        head_actions: Sequence[str] | None = None,
        answers: AnswerCache | None = None,
        deduplicate: bool = True,
    ) -> None:
        self.language_model = language_model
        self.loaded_trunk = LoadedTrunk(language_model)
        self.encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        self.policy = Policy(language_model, alpha=alpha, beta=beta, head_actions=head_actions)
        self.policy_version = 0
        self.digest = language_model.sha256
        self._answers = answers or AnswerCache(0)
        self._deduplicate = deduplicate
        self._prefixes: BoundedCache[tuple[str, TokenIds], Prefix] = BoundedCache(MAX_PREFIX_TOKENS)
        self._swapping = False

    def candidates(self, actions: tuple[str, ...]) -> Candidates:
        """Returns actions as the policy takes them.

        Raises:
            InvalidRequest: The policy's head was not built for one of them; the offence names `actions`.
        """
        return self.policy.candidates(self.encoder, actions)

    def swap(self, state: StateDict, commit: Callable[[], Recorded]) -> None:
        """Serves checked weights from the next batch on.

        Args:
            state: The new weights, staged; holds the old ones afterwards.
            commit: Called with the new weights in place, before any batch meets them. What it scores is
                neither kept nor answered from what was kept. Returns what they are recorded as;
                where it raises, the old weights are put back and serve on.
        """
        weights.exchange(self.policy, state)
        self._swapping = True
        try:
            recorded = commit()
        except BaseException:
            weights.exchange(self.policy, state)
            raise
        finally:
            self._swapping = False
        self.policy_version, self.digest = recorded.policy_version, recorded.sha256

    def score(self, items: Sequence[ScoredPrompt]) -> list[Scores]:
        """Returns the scores of each item, in order.

        Raises:
            InferenceFailed: The model gave NaN or infinite numbers.
        """
        if self._swapping or not self._deduplicate:
            return self._forward(items)
        answers, new = self._answers.find(self.digest, items)
        if new:
            made = list(zip(new, self._forward(new), strict=True))
            self._answers.keep(self.digest, made)
            answers.update(made)
        return [answers[each] for each in items]

    def decide(self, items: Sequence[ActionQuestion]) -> list[Decision]:
        """Returns one action per item, in order.

        The draw happens here, and not where the answers are written: one draw then serves all requests of a
        batch, and many small steps on the event loop's thread would each take Python's lock from this one.

        Raises:
            InferenceFailed: The model gave NaN or infinite numbers.
        """
        scores = self.score([item.scored for item in items])
        counts = np.array([item.scored.candidates.num_actions for item in items])
        table = np.full((len(items), counts.max()), -np.inf, dtype=np.float32)
        table[np.arange(table.shape[1]) < counts[:, None]] = [x for each in scores for x in each.scores]
        draw = draw_actions(table, counts, [item.choice for item in items])
        versions = repeat(self.policy_version)
        return list(map(Decision, draw.actions.tolist(), draw.log_probs.tolist(), scores, versions))

    @torch.inference_mode()
    def _forward(self, prompts: Sequence[ScoredPrompt]) -> list[Scores]:
        """Returns the answers to prompts, whether they were given before or not."""
        output = score_distinct(self.policy, prompts, prefix_of=None if self._swapping else self._prefix)
        told = output.scores, output.log_probs, output.values
        scores, log_probs, values = (tensor.cpu().numpy() for tensor in told)
        counts = [each.candidates.num_actions for each in prompts]
        legal = np.arange(scores.shape[1]) < np.array(counts)[:, None]
        if not (np.isfinite(values).all() and np.isfinite(scores[legal]).all()):
            raise InferenceFailed("the model's scores are not finite; serve other weights")
        rows = zip(counts, scores.tolist(), log_probs.tolist(), values.tolist(), strict=True)
        return [Scores(row[:count], logs[:count], value) for count, row, logs, value in rows]

    def _prefix(self, prefix: TokenIds) -> Prefix:
        """Returns the prefix under the weights in place, encoded once."""
        key = self.digest, prefix
        return self._prefixes.get(key) or self._prefixes.keep(key, self.policy.encode_prefix(prefix), len(prefix))
