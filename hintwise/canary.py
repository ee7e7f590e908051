"""The canary: a few prompts that travel with the weights, and the log-probs the trainer has for them.

    trainer   canary_of(policy, encoder, prompts, actions) ─▶ metadata `hintwise.canary`
    service   parse ─▶ encode ─▶ score with the new weights ─▶ check

A service whose numbers differ from the trainer's (another tokenizer file, kernel, precision or
prompt) would let a learner train on wrong probabilities in silence. With a canary the push is
refused instead, and says which action differs by how much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hintwise.action_batch import ScoredPrompt
from hintwise.errors import InvalidRequest, Offence, WeightsRejected
from hintwise.fields import Actions
from hintwise.scoring import score
from hintwise.tokens import TextEncoder

if TYPE_CHECKING:
    from hintwise.policy import Policy

METADATA_KEY = "hintwise.canary"
MAX_PROMPTS = 64
MAX_PADDED_TOKENS = 4_096
"""Rows times the longest row: what one batch of the service holds by default, and answers wait no longer for."""
TOLERANCE = 1e-5
LARGE_MODEL_PARAMETERS = 100_000_000
LARGE_MODEL_FACTOR = 10.0
"""Sums over more terms round more."""
MAX_NAMED = 8

FiniteNumber = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class Canary(BaseModel):
    """Prompts, the actions that may continue each, and their log-probabilities."""

    model_config = ConfigDict(extra="forbid")

    prompts: list[str] = Field(min_length=1, max_length=MAX_PROMPTS)
    actions: Actions
    log_probs: list[list[FiniteNumber]]

    @property
    def phrases(self) -> list[tuple[str, ...]]:
        """The actions of each prompt."""
        if isinstance(self.actions[0], list):
            return [tuple(listed) for listed in self.actions]
        return [tuple(self.actions)] * len(self.prompts)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.phrases) != len(self.prompts):
            raise ValueError(f"actions has {len(self.phrases)} lists for {len(self.prompts)} prompts")
        if len(self.log_probs) != len(self.prompts):
            raise ValueError(f"log_probs has {len(self.log_probs)} lists for {len(self.prompts)} prompts")
        for i, (phrases, log_probs) in enumerate(zip(self.phrases, self.log_probs, strict=True)):
            if len(phrases) != len(log_probs):
                raise ValueError(f"log_probs[{i}] has {len(log_probs)} numbers for {len(phrases)} actions")
        return self


def canary_of(
    policy: Policy, encoder: TextEncoder, prompts: Sequence[str], actions: Sequence[tuple[str, ...]]
) -> str | None:
    """Returns the metadata entry `hintwise.canary` for the weights that `policy` holds now.

    Prompts from the end are left out where all of them are more than a service takes.

    Args:
        policy: Its log-probabilities, in fp32, are what the service is compared with.
        encoder: Of the policy's model.
        prompts: (B,) whole prompts, as `hintwise.prompts.action_prompt` builds them.
        actions: (B,) the legal actions after each.

    Returns:
        JSON; None where not one prompt is small enough.

    Raises:
        InvalidRequest: A prompt does not fit the model.
    """
    candidates = [policy.candidates(encoder, phrases) for phrases in actions[:MAX_PROMPTS]]
    encoded = encoder.scored(prompts[:MAX_PROMPTS], candidates)
    while encoded and _padded_tokens(encoded) > MAX_PADDED_TOKENS:
        encoded.pop()
    if not encoded:
        return None
    with torch.no_grad():
        log_probs = score(policy, encoded).log_probs.tolist()
    lists = [list(phrases) for phrases in actions[: len(encoded)]]
    canary = Canary(
        prompts=list(prompts[: len(encoded)]),
        actions=lists,
        log_probs=[row[: len(phrases)] for row, phrases in zip(log_probs, lists, strict=True)],
    )
    return canary.model_dump_json()


def parse(text: str) -> Canary:
    """Returns the canary that metadata holds.

    Raises:
        WeightsRejected: It is not one; offences name its fields.
    """
    try:
        return Canary.model_validate_json(text)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
    named = [Offence(_place(fault["loc"]), fault["msg"].removeprefix("Value error, ")) for fault in faults[:MAX_NAMED]]
    raise WeightsRejected("the canary in the metadata cannot be read", errors=named)


def encode(canary: Canary, policy: Policy, encoder: TextEncoder) -> list[ScoredPrompt]:
    """Returns the canary's prompts as tokens.

    Raises:
        WeightsRejected: A prompt or an action does not fit the policy, or all of them together are too much.
    """
    encoded: list[ScoredPrompt] = []
    for i, (prompt, phrases) in enumerate(zip(canary.prompts, canary.phrases, strict=True)):
        try:
            (each,) = encoder.scored([prompt], [policy.candidates(encoder, phrases)])
            encoder.check_fits(len(each.prompt), each.candidates.num_positions)
        except InvalidRequest as error:
            raise _rejected("the canary does not fit the policy", f"prompts[{i}]", str(error)) from error
        encoded.append(each)
    if (num_tokens := _padded_tokens(encoded)) > MAX_PADDED_TOKENS:
        raise _rejected(
            "the canary is too large",
            "prompts",
            f"{num_tokens} padded tokens, but at most {MAX_PADDED_TOKENS} are scored; send fewer or shorter prompts",
        )
    return encoded


def tolerance(log_prob: float, *, beta: float, num_parameters: int) -> float:
    """Returns how far a log-probability may lie from `log_prob`: 1e-5 * max(1, beta) * (1 + |log_prob|).

    Above 100 million parameters ten times that.
    """
    factor = LARGE_MODEL_FACTOR if num_parameters > LARGE_MODEL_PARAMETERS else 1.0
    return TOLERANCE * factor * max(1.0, beta) * (1 + abs(log_prob))


def check(canary: Canary, log_probs: Sequence[Sequence[float]], *, beta: float, num_parameters: int) -> None:
    """Raises unless `log_probs` agree with the canary's.

    Args:
        canary: What the trainer has.
        log_probs: (B, A) what the service has for the same prompts and actions.
        beta: Inverse temperature of the weights that were scored.
        num_parameters: Of the policy's model.

    Raises:
        WeightsRejected: They do not; offences name prompt and action, the first few of them.
    """
    offences = [
        Offence(
            f"{METADATA_KEY}.log_probs[{i}][{k}]",
            f"{canary.phrases[i][k]!r} after {canary.prompts[i][:200]!r}: sent {given:.8g}, found {found:.8g}",
        )
        for i, (theirs, ours) in enumerate(zip(canary.log_probs, log_probs, strict=True))
        for k, (given, found) in enumerate(zip(theirs, ours, strict=True))
        if not abs(found - given) <= tolerance(given, beta=beta, num_parameters=num_parameters)
    ]
    if offences:
        raise WeightsRejected(
            f"this service scores {len(offences)} of the canary's actions differently from the sender; compare both "
            "sides' versions of hintwise, torch and the model, and their devices",
            errors=offences[:MAX_NAMED],
        )


def _padded_tokens(encoded: Sequence[ScoredPrompt]) -> int:
    return sum(each.num_rows for each in encoded) * max(each.num_tokens for each in encoded)


def _rejected(detail: str, place: str, message: str) -> WeightsRejected:
    return WeightsRejected(detail, errors=[Offence(f"{METADATA_KEY}.{place}", message)])


def _place(location: Sequence[int | str]) -> str:
    """Returns a location as one writes it in code: `hintwise.canary.log_probs[0][1]`."""
    return METADATA_KEY + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
