"""Whether two services wrote the same hints at temperature 0.

The rule: where two hints part, the model must give the next token of each the same logit within `MAX_GAP`, so that
rounding alone decided between them. One exception is counted apart: our service also ends a hint at the end of
its sentence, where it repeats itself or where it repeats the prompt, and `generate` does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import torch

from hintwise.language_model import LanguageModel
from hintwise.prompts import continuation
from hintwise.tokens import TextEncoder

MAX_GAP = 1e-3
MAX_SHARE_ENDED_EARLY = 0.02
"""Beyond, the two do not do the same job: a hint that ends early is less to write."""


class WrittenText(NamedTuple):
    """A hint as our service answered it."""

    text: str
    finish_reason: str


@dataclass
class Agreement:
    """How hints compare."""

    num_equal: int = 0
    num_rounded: int = 0
    """Which differ, and rounding decided."""
    num_ended_early: int = 0
    """Which our service ended, and which went on without it."""

    @property
    def num_compared(self) -> int:
        return self.num_equal + self.num_rounded + self.num_ended_early


def compare(
    model: LanguageModel,
    prompts: Sequence[str],
    ours: Sequence[WrittenText],
    theirs: Sequence[str],
    found: Agreement,
) -> None:
    """Adds to `found` how hints agree.

    Raises:
        RuntimeError: Some differ by more than rounding, or too many ended early.
    """
    for prompt, our, their in zip(prompts, ours, theirs, strict=True):
        if our.text == their:
            found.num_equal += 1
        elif our.finish_reason == "degenerate" or (our.finish_reason == "stop" and their.startswith(our.text)):
            found.num_ended_early += 1
        elif (gap := _gap(model, prompt, our.text, their)) <= MAX_GAP:
            found.num_rounded += 1
        else:
            raise RuntimeError(f"hints differ, {our.text!r} and {their!r}, by {gap:.3g} in the logits of {prompt!r}")
    if found.num_ended_early > MAX_SHARE_ENDED_EARLY * found.num_compared:
        raise RuntimeError(
            f"{found.num_ended_early} of {found.num_compared} hints ended early, so the services do not do the same "
            "job; pass a trained model"
        )


@torch.inference_mode()
def _gap(model: LanguageModel, prompt: str, text: str, other: str) -> float:
    """Returns how far apart the logits are of the first tokens in which two hints differ."""
    encoder = TextEncoder(model.tokenizer, max_tokens=model.max_tokens)
    start = len(encoder.encode(""))
    ids, others = (encoder.encode(continuation(each) + "\n")[start:] for each in (text, other))
    num_shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False))))
    before = torch.tensor([encoder.encode(prompt) + ids[:num_shared]], device=model.device)
    logits = model.model(input_ids=before).logits[0, -1]
    return abs(float(logits[ids[num_shared]] - logits[others[num_shared]]))
