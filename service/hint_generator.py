"""Writes hints token by token with the frozen guidance model. Runs on the inference thread.

    prompts    rows read    lines that grow              rows read at the next step
    a b a a    a b          a·7  b·1  a·5  (a·7 again)   a7 b1 a5
                            a·7  -    a·5                a7 a5

A prompt is read once, however many hints continue it, and a hint that two requests would draw
with the same numbers is written once for both. Each hint is one line. Every token is drawn with
numbers that depend on (seed, item, hint, step) alone, so a hint does not change with the batch
it was written in. Lines that have ended leave the batch once they are a good part of it.

Writing yields after every step, so that the thread serves others in between; the key-value
cache stays. A line whose readers have left counts as ended.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
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
from service.growing_rows import GrowingRows
from service.hint_reader import HintReader, NewToken
from service.hint_text import hint_text
from service.sampling import gumbels

HINTS_PER_ITEM = 8
"""Room for the hints of one observation in the item number of a draw."""
MAX_IDLE_SHARE = 0.25
"""Rows that nobody continues stay until there are more: to leave is to copy the cache of those who stay."""


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

    @property
    def same_hint(self) -> Hashable:
        """Returns what is equal for two requests only if their hints are the same; temperature 0 draws nothing."""
        draws = (self.temperature, self.seed, self.item) if self.temperature else ()
        return self.prompt, self.max_new_tokens, draws


class WrittenHint(NamedTuple):
    text: str
    token_ids: TokenIds
    log_prob: float
    finish_reason: Literal["stop", "length", "degenerate"]


@dataclass
class _Line:
    """A hint in the making, and all who asked for it."""

    requests: list[HintRequest] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    stopped: bool = False

    @property
    def asked(self) -> HintRequest:
        """Returns one of the requests, which are alike in all that is written."""
        return self.requests[0]

    @property
    def grows(self) -> bool:
        full = len(self.token_ids) == self.asked.max_new_tokens
        return not (self.stopped or full) and any(not request.reader.left for request in self.requests)


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
        lines: dict[Hashable, _Line] = {}
        for request in requests:
            lines.setdefault(request.same_hint, _Line()).requests.append(request)
        yield from self._grow(lines.values())
        written = {same_hint: self._finish(line) for same_hint, line in lines.items()}
        return [written[request.same_hint] for request in requests]

    def _grow(self, lines: Iterable[_Line]) -> Steps[None]:
        """Adds tokens to the lines until every one has ended."""
        growing = [line for line in lines if line.grows]
        if not growing:
            return  # every reader left while the batch waited
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(line.asked.prompt for line in growing))}
        places = [row_of[line.asked.prompt] for line in growing]  # the row that each line continues
        rows = GrowingRows(self.language_model, list(row_of))
        while growing:
            self._extend(growing, rows.read(self._model)[places])
            if any(line.grows for line in growing):
                yield
            # Asked once, for both lists: a reader may leave at any moment.
            on = [place for place, line in enumerate(growing) if line.grows]
            growing, places = [growing[k] for k in on], [places[k] for k in on]
            if growing:
                places = _thinned(rows, places)
                tokens = {place: line.token_ids[-1] for place, line in zip(places, growing, strict=True)}
                rows.append([tokens.get(row, 0) for row in range(len(rows))])

    def _extend(self, lines: Sequence[_Line], logits: Tensor) -> None:
        """Draws one token for every line from its logits, (B, V)."""
        log_probs = torch.log_softmax(logits, dim=-1)
        drawn = _draw(log_probs, lines)
        chosen = log_probs.gather(1, drawn).squeeze(1).tolist()
        heard: dict[HintReader, list[NewToken]] = {}
        for line, token, log_prob in zip(lines, drawn.squeeze(1).tolist(), chosen, strict=True):
            if not math.isfinite(log_prob):
                raise InferenceFailed("the guidance model's scores are not finite; name another model")
            line.stopped = token in self._stop_ids
            if line.stopped:
                continue
            line.token_ids.append(token)
            line.log_prob += log_prob
            for request in line.requests:
                if request.reader.listens:
                    new = NewToken(request.number, len(line.token_ids) - 1, token)
                    heard.setdefault(request.reader, []).append(new)
        for reader, tokens in heard.items():
            reader.hear(tokens)

    def _finish(self, line: _Line) -> WrittenHint:
        text = hint_text(self.language_model.tokenizer, line.token_ids)
        ended: Literal["stop", "length"] = "stop" if line.stopped else "length"
        return WrittenHint(text, tuple(line.token_ids), line.log_prob, ended if text else "degenerate")


def _thinned(rows: GrowingRows, places: list[int]) -> list[int]:
    """Gives each line a row of its own, and drops idle rows if they are many; returns where the lines are then."""
    distinct = len(set(places))
    if distinct == len(places) and len(rows) - distinct <= MAX_IDLE_SHARE * len(rows):
        return places
    rows.select(places)
    return list(range(len(places)))


def _draw(log_probs: Tensor, lines: Sequence[_Line]) -> Tensor:
    """Returns (B, 1) token ids: Gumbel-max at each line's temperature, argmax at 0."""
    # argmax(log p / T + g) = argmax(log p + T g); at T = 0 the noise need not be made, which takes a while
    scores = log_probs.clone()
    if warm := [row for row, line in enumerate(lines) if line.asked.temperature]:
        seeds = np.array([lines[row].asked.seed for row in warm], dtype=np.int64)
        steps = np.array([(lines[row].asked.item << 16) + len(lines[row].token_ids) for row in warm], dtype=np.int64)
        noise = torch.from_numpy(gumbels(seeds, steps, scores.shape[1], stream=STREAM_HINT)).to(scores.device)
        temperatures = torch.tensor([lines[row].asked.temperature for row in warm], device=scores.device)
        scores[warm] += temperatures.unsqueeze(1) * noise
    return scores.argmax(dim=-1, keepdim=True)


def _stop_ids(language_model: LanguageModel) -> frozenset[int]:
    """Returns the tokens that end a hint: the end of text, and every token with a line break in it."""
    tokenizer = language_model.tokenizer
    ids = range(len(tokenizer))
    breaks = {i for i, text in zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True) if "\n" in text}
    return frozenset(breaks | {i for i in tokenizer.all_special_ids if i is not None})
