"""Writes hints token by token with the frozen guidance model. Runs on the inference thread.

Each hint is one line. Sequences of different lengths are padded on the left, so that all of
them grow at the right edge; masks and positions come from the lengths. Every token is drawn
with numbers that depend on (seed, item, hint, step) alone, so a hint does not change with the
batch it was written in.

Writing yields after every step, so that the thread serves others in between; the key-value
cache stays. A line whose reader has left counts as ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hintwise.errors import InferenceFailed
from hintwise.language_model import LanguageModel
from hintwise.phrases import TokenIds
from hintwise.tokens import TextEncoder
from service.action_draw import STREAM_HINT
from service.batch_run import Steps
from service.hint_reader import HintReader, NewToken
from service.hint_text import hint_text
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
    reader: HintReader = field(default_factory=HintReader)
    number: int = 0
    """Of this hint within its request, as its reader knows it."""

    @property
    def num_rows(self) -> int:
        return 1

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + self.max_new_tokens


class WrittenHint(NamedTuple):
    text: str
    token_ids: TokenIds
    log_prob: float
    finish_reason: Literal["stop", "length", "degenerate"]


@dataclass
class _Line:
    """A hint in the making."""

    request: HintRequest
    token_ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    stopped: bool = False

    @property
    def grows(self) -> bool:
        full = len(self.token_ids) == self.request.max_new_tokens
        return not (self.stopped or full or self.request.reader.left)


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
    def write(self, requests: Sequence[HintRequest]) -> Steps[list[WrittenHint]]:
        """Returns one hint per request, in order; yields between two steps.

        Raises:
            InferenceFailed: The model gave NaN or infinite numbers.
        """
        lines = [_Line(request) for request in requests]
        input_ids, mask = _pad_left([request.prompt for request in requests], self.language_model.device)
        cache, step = None, 0
        while True:
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
            input_ids = self._extend(lines, output.logits[:, -1].float(), step)
            if any(line.grows for line in lines):
                yield
            if not any(line.grows for line in lines):  # as they were, or since their readers left meanwhile
                return [self._finish(line) for line in lines]
            mask = torch.cat([mask, torch.ones_like(input_ids)], dim=1)
            step += 1

    def _extend(self, lines: Sequence[_Line], logits: Tensor, step: int) -> Tensor:
        """Draws one token for every line that still grows; returns the drawn ids, (B, 1)."""
        log_probs = torch.log_softmax(logits, dim=-1)  # (B, V)
        drawn = _draw(log_probs, [line.request for line in lines], step)
        chosen = log_probs.gather(1, drawn).squeeze(1).tolist()
        heard: dict[HintReader, list[NewToken]] = {}
        for line, token, log_prob in zip(lines, drawn.squeeze(1).tolist(), chosen, strict=True):
            if not line.grows:
                continue
            if not math.isfinite(log_prob):
                raise InferenceFailed("the guidance model's scores are not finite; name another model")
            line.stopped = token in self._stop_ids
            if line.stopped:
                continue
            line.token_ids.append(token)
            line.log_prob += log_prob
            if line.request.reader.listens:
                new = NewToken(line.request.number, len(line.token_ids) - 1, token)
                heard.setdefault(line.request.reader, []).append(new)
        for reader, tokens in heard.items():
            reader.hear(tokens)
        return drawn

    def _finish(self, line: _Line) -> WrittenHint:
        text = hint_text(self.language_model.tokenizer, line.token_ids)
        ended: Literal["stop", "length"] = "stop" if line.stopped else "length"
        return WrittenHint(text, tuple(line.token_ids), line.log_prob, ended if text else "degenerate")


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
