"""Asks a language model what the service would ask it: hints, scores, progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from hintwise.language_model import LanguageModel
from hintwise.phrases import TokenIds
from hintwise.policy import Policy
from hintwise.prompts import PROGRESS_ANSWERS, action_prompt, guidance_prompt, progress_prompt
from hintwise.scoring import score
from hintwise.tokens import TextEncoder

MAX_NEW_TOKENS = 32
MAX_ROWS = 256


class Readable(Protocol):
    """What is asked about: a state of the corpus, or of any environment."""

    @property
    def task(self) -> str: ...

    @property
    def text(self) -> str: ...

    @property
    def actions(self) -> tuple[str, ...]:
        """Phrases of the legal actions."""


class Reader:
    """One frozen model.

    Args:
        language_model: As `load_language_model` returns it.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self._language_model = language_model
        self._encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        self._policy = Policy(language_model)

    def hints(
        self, states: Sequence[Readable], *, temperature: float = 0.0, seed: int = 0, list_actions: bool = False
    ) -> list[str]:
        """Returns the hint that the model writes for each state; the likeliest words at temperature 0."""
        prompts = self._encoder.encode_all(
            [
                guidance_prompt(state.text, task=state.task, actions=state.actions if list_actions else None)
                for state in states
            ]
        )
        generator = torch.Generator().manual_seed(seed)
        by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # so that little is padding
        written = [""] * len(prompts)
        for start in range(0, len(by_length), MAX_ROWS):
            few = by_length[start : start + MAX_ROWS]
            for i, text in zip(few, self._continued([prompts[i] for i in few], temperature, generator), strict=True):
                written[i] = text
        return written

    def action_log_probs(self, states: Sequence[Readable], hints: Sequence[str | None]) -> list[list[float]]:
        """Returns log pi(a|s,h) over each state's legal actions, as `/reward` scores them."""
        texts = [
            action_prompt(state.text, task=state.task, hint=hint) for state, hint in zip(states, hints, strict=True)
        ]
        return self._log_probs(texts, [state.actions for state in states])

    def potentials(self, states: Sequence[Readable], hints: Sequence[str]) -> list[float]:
        """Returns the probability of `yes` to the question whether the hint has been carried out."""
        texts = [progress_prompt(state.text, hint, task=state.task) for state, hint in zip(states, hints, strict=True)]
        rows = self._log_probs(texts, [PROGRESS_ANSWERS] * len(texts))
        return [float(torch.tensor(row[1]).exp()) for row in rows]

    @torch.inference_mode()
    def _log_probs(self, texts: Sequence[str], actions: Sequence[tuple[str, ...]]) -> list[list[float]]:
        rows: list[list[float]] = []
        for start in range(0, len(texts), MAX_ROWS):
            part = slice(start, start + MAX_ROWS)
            candidates = [self._policy.candidates(self._encoder, each) for each in actions[part]]
            output = score(self._policy, self._encoder.scored(texts[part], candidates))
            rows += [row[: len(each)] for row, each in zip(output.log_probs.tolist(), actions[part], strict=True)]
        return rows

    @torch.inference_mode()
    def _continued(self, prompts: Sequence[TokenIds], temperature: float, generator: torch.Generator) -> list[str]:
        """Returns what follows each prompt, up to the end of the line."""
        tokenizer = self._language_model.tokenizer
        ends = {self._encoder.encode("\n")[0], tokenizer.eos_token_id}
        ids, mask = _pad_left(prompts)
        cache = None
        grown: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        for _ in range(MAX_NEW_TOKENS):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = self._language_model.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            ids = _drawn(output.logits[:, -1], temperature, generator)
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            for i, [token] in enumerate(ids.tolist()):
                ended[i] = ended[i] or token in ends
                if not ended[i]:
                    grown[i].append(token)
            if all(ended):
                break
        return [str(tokenizer.decode(each)).strip() for each in grown]


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Returns (B, 1) tokens: the likeliest at temperature 0, else drawn by the Gumbel-max trick."""
    if temperature:
        uniform = torch.rand(logits.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
        logits = logits - temperature * torch.log(-torch.log(uniform))
    return logits.argmax(-1, keepdim=True)


def _pad_left(prompts: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
    """Returns ids and mask, both (B, T), with every prompt at the right edge."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
