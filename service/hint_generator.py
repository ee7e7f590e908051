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

Where a hint ends is `hint_hygiene`'s to say. A line of which nothing is left is written once more
with other draws, behind the rest of its batch; at temperature 0 there are none, so it is reported
at once. Readers hear a token when it is sure to stay, and so nothing of a first attempt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedModel

from hintwise.errors import InferenceFailed
from hintwise.gpt2_writing import GPT2Writing
from hintwise.language_model import LanguageModel
from hintwise.phrases import TokenIds
from hintwise.tokens import TextEncoder
from service.batch_run import Steps
from service.growing_rows import GrowingRows
from service.hint_cache import HintCache
from service.hint_hygiene import UNFINISHED, HintWatch, Positions, echoable, says_something
from service.hint_reader import HintReader, NewToken
from service.hint_text import hint_text, token_pieces
from service.token_draw import TokenDraws, draw_tokens
from service.written_hint import DEGENERATE, WrittenHint

HINTS_PER_ITEM = 8
"""Room for the hints of one observation in the item number of a draw."""
SECOND_ATTEMPT = 1 << 15
"""Added to the step number of a draw: no hint has so many tokens."""
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
    seeded: bool = True
    """Whether the seed was named. One that was drawn for the request will not be asked for again."""

    @property
    def num_rows(self) -> int:
        return 1

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + self.max_new_tokens

    @property
    def is_repeatable(self) -> bool:
        """Returns whether the same hint may be asked for again."""
        return self.seeded or not self.temperature

    @property
    def same_hint(self) -> Hashable:
        """Returns what is equal for two requests only if their hints are the same; temperature 0 draws nothing."""
        draws = (self.temperature, self.seed, self.item) if self.temperature else ()
        return self.prompt, self.max_new_tokens, draws


@dataclass
class _Line:
    """A hint in the making, and all who asked for it."""

    requests: list[HintRequest] = field(default_factory=list)
    watch: HintWatch = field(init=False)
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)  # of each token
    num_heard: int = 0
    num_kept: int | None = None  # tokens that are the hint, once it has ended of itself
    attempt: int = 0

    @property
    def asked(self) -> HintRequest:
        """Returns one of the requests, which are alike in all that is written."""
        return self.requests[0]

    @property
    def is_wanted(self) -> bool:
        return any(not request.reader.left for request in self.requests)

    @property
    def is_whole(self) -> bool:
        return self.num_kept is not None or len(self.token_ids) == self.asked.max_new_tokens

    @property
    def grows(self) -> bool:
        return not self.is_whole and self.is_wanted

    def begin(self, watch: HintWatch, attempt: int) -> None:
        """Begins with no tokens."""
        self.watch, self.attempt = watch, attempt
        self.token_ids, self.log_probs, self.num_kept = [], [], None


class HintGenerator:
    """Writes hints with one frozen model.

    Args:
        language_model: Its weights never change.
        cache: Hints that were written before.
    """

    def __init__(self, language_model: LanguageModel, cache: HintCache | None = None) -> None:
        self.language_model = language_model
        self.encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        self._model = _writing(language_model.model)
        self._cache = cache or HintCache(0)
        self._pieces = token_pieces(language_model.tokenizer)
        self._stop_ids = _stop_ids(language_model, self._pieces)

    @torch.inference_mode()
    def write(self, requests: Sequence[HintRequest]) -> Steps[list[WrittenHint]]:
        """Returns one hint per request, in order; yields between two steps.

        Raises:
            InferenceFailed: The model gave NaN or infinite numbers.
        """
        lines: dict[Hashable, _Line] = {}
        for request in requests:
            lines.setdefault(request.same_hint, _Line()).requests.append(request)
        digest = self.language_model.sha256
        written = self._cache.find(digest, {each: len(line.requests) for each, line in lines.items()})
        new = {each: line for each, line in lines.items() if each not in written}
        yield from self._attempt(new.values(), 0)
        made = {each: self._finish(line) for each, line in new.items()}
        again = {each: line for each, line in new.items() if made[each] is DEGENERATE and _may_try_again(line)}
        if again:
            yield
            yield from self._attempt(again.values(), 1)
            made |= {each: self._finish(line) for each, line in again.items()}
        kept = {each: hint for each, hint in made.items() if _may_be_kept(new[each], hint)}
        self._cache.keep(digest, kept)
        written |= made
        return [written[request.same_hint] for request in requests]

    def _attempt(self, lines: Iterable[_Line], attempt: int) -> Steps[None]:
        """Writes lines from their beginning."""
        lines = list(lines)
        prompts = {prompt: echoable(prompt, self._pieces) for prompt in {line.asked.prompt for line in lines}}
        for line in lines:
            line.begin(self._watch(prompts[line.asked.prompt]), attempt)
        yield from self._grow(lines)

    def _watch(self, prompt: Positions) -> HintWatch:
        return HintWatch(self._pieces, prompt)

    def _grow(self, lines: Iterable[_Line]) -> Steps[None]:
        """Adds tokens to the lines until every one has ended."""
        growing = [line for line in lines if line.grows]
        if not growing:
            return  # every reader left while the batch waited
        # The longest first: neighbours of similar length need little padding.
        prompts = sorted(dict.fromkeys(line.asked.prompt for line in growing), key=len, reverse=True)
        row_of = {prompt: row for row, prompt in enumerate(prompts)}
        places = [row_of[line.asked.prompt] for line in growing]  # the row that each line continues
        rows = GrowingRows(self.language_model, prompts)
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
        drawn = draw_tokens(log_probs, _draws(lines))
        chosen = log_probs.gather(1, drawn).squeeze(1).tolist()
        heard: dict[HintReader, list[NewToken]] = {}
        for line, token, log_prob in zip(lines, drawn.squeeze(1).tolist(), chosen, strict=True):
            if not math.isfinite(log_prob):
                raise InferenceFailed("the guidance model's scores are not finite; name another model")
            if token in self._stop_ids:
                line.num_kept = len(line.token_ids)
                continue
            line.token_ids.append(token)
            line.log_probs.append(log_prob)
            line.num_kept = line.watch.add(token)
            for request, new in self._news(line):
                heard.setdefault(request.reader, []).extend(new)
        for reader, tokens in heard.items():
            reader.hear(tokens)

    def _news(self, line: _Line) -> Iterable[tuple[HintRequest, list[NewToken]]]:
        """Yields what each listener may hear now: tokens that stay, once they say something."""
        listening = [request for request in line.requests if request.reader.listens]
        if not listening:
            return
        sure = line.watch.num_sure if line.num_kept is None else line.num_kept
        if not line.num_heard and not self._says_something(line.token_ids[:sure]):
            return
        places = range(line.num_heard, sure)
        line.num_heard = max(line.num_heard, sure)
        for request in listening:
            yield request, [NewToken(request.number, place, line.token_ids[place]) for place in places]

    def _says_something(self, token_ids: Sequence[int]) -> bool:
        text = hint_text(self.language_model.tokenizer, token_ids) if token_ids else ""
        return says_something(text.rstrip(UNFINISHED))

    def _finish(self, line: _Line) -> WrittenHint:
        num_kept = len(line.token_ids) if line.num_kept is None else line.num_kept
        token_ids = tuple(line.token_ids[:num_kept])
        text = hint_text(self.language_model.tokenizer, token_ids)
        if not says_something(text):
            return DEGENERATE
        ended = line.num_kept is not None or line.watch.ends_a_sentence
        return WrittenHint(text, token_ids, sum(line.log_probs[:num_kept]), "stop" if ended else "length")


def _writing(model: PreTrainedModel) -> Callable[..., Any]:
    """Returns what reads growing rows, called as transformers' models are."""
    return GPT2Writing(cast("GPT2LMHeadModel", model)) if GPT2Writing.can_run(model) else model


def _may_try_again(line: _Line) -> bool:
    """Returns whether there are other draws, and somebody who waits for them."""
    return line.asked.temperature > 0 and line.is_wanted


def _may_be_kept(line: _Line, hint: WrittenHint) -> bool:
    """Returns whether a hint is what everyone who asks for it would get."""
    # Who leaves before the second attempt must not take it from those who ask later.
    tried = hint is not DEGENERATE or line.attempt == 1 or not line.asked.temperature
    return line.is_whole and tried and line.asked.is_repeatable


def _thinned(rows: GrowingRows, places: list[int]) -> list[int]:
    """Gives each line a row of its own, and drops idle rows if they are many; returns where the lines are then."""
    distinct = len(set(places))
    if distinct == len(places) and len(rows) - distinct <= MAX_IDLE_SHARE * len(rows):
        return places
    rows.select(places)
    return list(range(len(places)))


def _draws(lines: Sequence[_Line]) -> TokenDraws:
    """Returns how the next token of each line is drawn."""
    return TokenDraws(
        temperatures=np.array([line.asked.temperature for line in lines], dtype=np.float32),
        seeds=np.array([line.asked.seed for line in lines], dtype=np.int64),
        steps=np.array([_step_number(line) for line in lines], dtype=np.int64),
    )


def _step_number(line: _Line) -> int:
    return (line.asked.item << 16) + line.attempt * SECOND_ATTEMPT + len(line.token_ids)


def _stop_ids(language_model: LanguageModel, pieces: Sequence[str]) -> frozenset[int]:
    """Returns the tokens that end a hint: the end of text, and every token with a line break in it."""
    breaks = {token for token, piece in enumerate(pieces) if "\n" in piece}
    return frozenset(breaks | {i for i in language_model.tokenizer.all_special_ids if i is not None})
