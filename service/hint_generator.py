"""Writes hints token by token with the frozen guidance model. Runs on the inference thread.

Each hint is one line. Sequences of different lengths are padded on the left, so that all of
them grow at the right edge; masks and positions come from the lengths. Every token is drawn
with numbers that depend on (seed, item, hint, step) alone, so a hint does not change with the
batch it was written in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hintwise.language_model import LanguageModel
from hintwise.tokens import TextEncoder, TokenIds
from service.action_draw import STREAM_HINT
from service.sampling import gumbels

HINTS_PER_ITEM = 8
"""Room for the hints of one observation in the item number of a draw."""


@dataclass(frozen=True)
class HintRequest:
    """One hint to write."""

    prompt: TokenIds
    max_new_tokens: int
    temperature: float
    seed: int
    item: int

    @property
    def num_rows(self) -> int:
        return 1

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + self.max_new_tokens


class WrittenHint(NamedTuple):
    text: str
    log_prob: float
    finish_reason: Literal["stop", "length", "degenerate"]


@dataclass
class _Line:
    """A hint in the making."""

    token_ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    stopped: bool = False


class HintGenerator:
    """Writes hints with one frozen model.

    Args:
        language_model: Its weights never change.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self.language_model = language_model
        self.encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        self._model = language_model.model
        self._stop_ids = _stop_ids(language_model)

    @torch.inference_mode()
    def write(self, requests: Sequence[HintRequest]) -> list[WrittenHint]:
        """Returns one hint per request, in order."""
        lines = [_Line() for _ in requests]
        input_ids, mask = _pad_left([request.prompt for request in requests], self.language_model.device)
        cache = None
        for step in range(max(request.max_new_tokens for request in requests)):
            # A line that has ended grows on with the batch, unread; it must not run out of positions.
            positions = (mask.cumsum(-1) - 1).clamp(0, self.language_model.max_tokens - 1)[:, -input_ids.shape[1] :]
            output = self._model(
                input_ids=input_ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            drawn = self._extend(lines, requests, output.logits[:, -1].float(), step)
            if all(line.stopped for line in lines):
                break
            input_ids = drawn
            mask = torch.cat([mask, torch.ones_like(drawn)], dim=1)
        return [self._finish(line) for line in lines]

    def _extend(self, lines: Sequence[_Line], requests: Sequence[HintRequest], logits: Tensor, step: int) -> Tensor:
        """Draws one token for every line that still grows; returns the drawn ids, (B, 1)."""
        log_probs = torch.log_softmax(logits, dim=-1)  # (B, V)
        drawn = _draw(log_probs, requests, step)
        chosen = log_probs.gather(1, drawn).squeeze(1).tolist()
        for line, request, token, log_prob in zip(lines, requests, drawn.squeeze(1).tolist(), chosen, strict=True):
            if line.stopped or len(line.token_ids) == request.max_new_tokens:
                continue
            line.stopped = token in self._stop_ids
            if not line.stopped:
                line.token_ids.append(token)
                line.log_prob += log_prob
        return drawn

    def _finish(self, line: _Line) -> WrittenHint:
        text = str(self.language_model.tokenizer.decode(line.token_ids, skip_special_tokens=True)).strip()
        if not text:
            return WrittenHint(text, line.log_prob, "degenerate")
        return WrittenHint(text, line.log_prob, "stop" if line.stopped else "length")


def _draw(log_probs: Tensor, requests: Sequence[HintRequest], step: int) -> Tensor:
    """Returns (B, 1) token ids: Gumbel-max at each request's temperature, argmax at 0."""
    seeds = np.array([request.seed for request in requests], dtype=np.int64)
    steps = np.array([(request.item << 16) + step for request in requests], dtype=np.int64)
    noise = torch.from_numpy(gumbels(seeds, steps, log_probs.shape[1], stream=STREAM_HINT)).to(log_probs.device)
    temperatures = torch.tensor([request.temperature for request in requests], device=log_probs.device).unsqueeze(1)
    # argmax(log p / T + g) = argmax(log p + T g), which is also right at T = 0
    return (log_probs + temperatures * noise).argmax(dim=-1, keepdim=True)


def _stop_ids(language_model: LanguageModel) -> frozenset[int]:
    """Returns the tokens that end a hint: the end of text, and every token with a line break in it."""
    tokenizer = language_model.tokenizer
    ids = range(len(tokenizer))
    breaks = {i for i, text in zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True) if "\n" in text}
    return frozenset(breaks | {i for i in tokenizer.all_special_ids if i is not None})


def _pad_left(prompts: Sequence[TokenIds], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns ids and mask, both (B, T), with every prompt at the right edge."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids.to(device), mask.to(device)
