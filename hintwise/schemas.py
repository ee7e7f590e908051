"""Every body that crosses the wire, with its bounds and units.

| endpoint           | request            | answer             |
| ------------------ | ------------------ | ------------------ |
| `POST /act`        | `ActRequest`       | `ActResponse`      |
| `POST /guidance`   | `GuidanceRequest`  | `GuidanceResponse` |
| `POST /reward`     | `RewardRequest`    | `RewardResponse`   |
| `GET /weights`     |                    | `WeightsInfo`      |
| `PUT /weights`     | safetensors bytes, | `WeightsInfo`      |
|                    | or `WeightsPath`   |                    |
| `POST /weights/    |                    |                    |
|  rollback`         | `RollbackRequest`  | `WeightsInfo`      |
| `GET /info`        |                    | `ServiceInfo`      |
| any failure        |                    | `Problem`          |

Requests forbid unknown fields; answers ignore them, so an older client reads a newer service.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from hintwise.fields import (
    MAX_GUIDANCE_OBSERVATIONS,
    MAX_OBSERVATIONS,
    MAX_REWARD_ITEMS,
    ActionList,
    Actions,
    Candidates,
    Observation,
    Seed,
)

API_VERSION = 1


class Request(BaseModel):
    """A request body: an unknown field is an error, and "1" is no number, so a typo never passes in silence."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), strict=True)


class Answer(BaseModel):
    """An answer body: an unknown field is ignored, so the service may grow."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class ActRequest(Request):
    """Observations to act on, the legal actions, and how to choose among them."""

    observations: Annotated[list[Observation], Field(min_length=1, max_length=MAX_OBSERVATIONS)] = Field(
        description="Texts; with `env_id` also raw observations: a number, an array or an object."
    )
    actions: Actions | None = Field(
        default=None,
        description="Legal actions, distinct: one list for all, or one per observation. May be left out with `env_id`.",
    )
    env_id: str | None = Field(default=None, description="Environment that raw observations come from; see `/info`.")
    task: str | list[str | None] | None = Field(default=None, description="What to achieve: one, or one each.")
    hints: list[str | None] | None = Field(default=None, description="Advice, one per observation.")
    mode: Literal["sample", "greedy", "epsilon"] = "sample"
    epsilon: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        validate_default=True,  # whether it may be missing depends on `mode`
        description="Needed by mode `epsilon`: chance of a uniform action.",
    )
    temperature: float = Field(
        default=1.0, ge=0, le=100, allow_inf_nan=False, description="Divides the scores in mode `sample`; 0 is greedy."
    )
    seed: Seed | list[Seed] | None = Field(
        default=None, description="One for the request (item i draws from (seed, i)), or one per observation."
    )

    @field_validator("actions", "task", "hints", "seed")
    @classmethod
    def _check_length(cls, value: object, info: ValidationInfo) -> object:
        return _one_each(value, info)

    @field_validator("epsilon")
    @classmethod
    def _check_epsilon(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and info.data.get("mode") == "epsilon":
            raise ValueError('is missing: mode "epsilon" needs a number from 0 to 1')
        return value


class ActResult(Answer):
    """The action chosen for one observation, and the numbers behind the choice."""

    action: int = Field(description="Index into the request's action list, or the environment's action number.")
    label: str
    log_prob: float = Field(description="Natural log-probability of `action` under the distribution that chose it.")
    log_probs: list[float] = Field(description="log_softmax(scores) over the legal actions, temperature 1.")
    scores: list[float] = Field(description="Of the legal actions; their values Q where the policy has action values.")
    value: float = Field(description="Estimate of the discounted return from here: the critic's, or the largest Q.")
    num_prompt_tokens: int


class ActResponse(Answer):
    policy_version: int
    readout: Literal["phrase", "head"]
    results: list[ActResult]


class GuidanceRequest(Request):
    """States that want a hint."""

    observations: Annotated[list[Observation], Field(min_length=1, max_length=MAX_GUIDANCE_OBSERVATIONS)]
    actions: Actions | None = None
    env_id: str | None = None
    task: str | list[str | None] | None = None
    mode: Literal["free", "ranked"] = Field(
        default="free", description="`free`: the model writes hints token by token; `ranked`: it chooses candidates."
    )
    candidates: Candidates | None = Field(
        default=None,
        description="`ranked`: hints to choose from, one list for all. Default: the environment's own, or `actions`.",
    )
    num_hints: int = Field(default=1, ge=1, le=8, description="Hints per observation; `ranked`: distinct ones.")
    max_new_tokens: int = Field(default=32, ge=1, le=256)
    temperature: float = Field(default=0.7, ge=0, le=100, allow_inf_nan=False, description="0 is greedy.")
    seed: Seed | list[Seed] | None = None
    stream: bool = Field(default=False, description="Answer as server-sent events: `token`, then `done` or `error`.")

    @field_validator("actions", "task", "seed")
    @classmethod
    def _check_length(cls, value: object, info: ValidationInfo) -> object:
        return _one_each(value, info)


class Hint(Answer):
    """One piece of advice."""

    text: str
    log_prob: float = Field(description="Sum over the hint's tokens of their natural log-probability, temperature 1.")
    probability: float | None = Field(default=None, description="`ranked`: softmax of `log_prob` over the candidates.")
    finish_reason: Literal["stop", "length", "degenerate"]


class GuidanceResult(Answer):
    hints: list[Hint]


class GuidanceResponse(Answer):
    model: str
    model_sha256: str
    results: list[GuidanceResult]


class GuidanceToken(Answer):
    """The data of a `token` event: text that has just been added to a hint. A hint's pieces together are its text."""

    observation: int = Field(description="Index of the observation.")
    hint: int = Field(description="Index of the hint among those of the observation.")
    text: str


class RewardItem(Request):
    """A hint and the transition that followed it."""

    hint: str | None = Field(description="The advice; null or empty is none.")
    observation: str
    actions: ActionList | None = Field(
        default=None, description="Legal actions in `observation`; `alignment` needs them."
    )
    action: str | None = Field(default=None, description="The action taken, one of `actions`.")
    next_observation: str | None = Field(default=None, description="`progress` needs it unless `terminated`.")
    next_hint: str | None = Field(default=None, description="The hint in force afterwards; default: `hint`.")
    terminated: bool = False
    task: str | None = None


class RewardRequest(Request):
    scorer: str = Field(default="alignment", description="`alignment` or `progress`; `/info` lists them.")
    gamma: float = Field(default=0.99, ge=0, le=1, allow_inf_nan=False, description="The learner's own discount.")
    items: Annotated[list[RewardItem], Field(min_length=1, max_length=MAX_REWARD_ITEMS)]


class RewardResult(Answer):
    reward: float
    potential: float | None = Field(default=None, description="Phi(observation, hint) in [0, 1].")
    next_potential: float | None = None


class RewardResponse(Answer):
    scorer: str
    model: str
    model_sha256: str
    results: list[RewardResult]


class WeightsPath(Request):
    """A push of weights that lie on the service's own disk."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"path": "/srv/runs/7/policy.safetensors"}]})

    path: str = Field(description="Absolute path of a safetensors file in a directory that the operator allowed.")


class RollbackRequest(Request):
    """Which version serves again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"policy_version": 11}]})

    policy_version: int = Field(strict=True, description="One of `retained_versions` of `GET /weights`.")


class WeightsInfo(Answer):
    """The weights that answer `/act` now."""

    policy_version: int
    sha256: str = Field(description="Hex digest of the safetensors file of this version.")
    num_parameters: int
    architecture: str
    tokenizer_sha256: str
    retained_versions: list[int]
    created_at: datetime
    durable: bool = Field(description="True once this version would survive a power cut, not a crash alone.")


class ModelInfo(Answer):
    name: str
    sha256: str
    architecture: str
    num_parameters: int
    max_prompt_tokens: int


class Limits(Answer):
    """What one request may ask, and what the service holds."""

    max_observations: int
    max_guidance_observations: int
    max_reward_items: int
    max_actions: int
    max_body_bytes: int
    max_weights_bytes: int
    max_batch_tokens: int
    max_queue_observations: int
    max_request_timeout_ms: int
    default_request_timeout_ms: int


class ServiceInfo(Answer):
    api_version: int
    policy_version: int
    readout: str = Field(description="`phrase` or `head`: how the policy's actions are read from the model.")
    head_actions: list[str] | None = Field(
        default=None, description="The actions that a head answers for, all or some of them; null for `phrase`."
    )
    prompt_template_version: int
    device: str
    policy: ModelInfo
    guidance: ModelInfo
    scorer: ModelInfo
    scorers: list[str]
    env_ids: list[str]
    limits: Limits


class ProblemEntry(Answer):
    field: str
    message: str


class Problem(Answer):
    """A failure, as RFC 9457 lays it out (`application/problem+json`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[ProblemEntry] = []


def _one_each(value: object, info: ValidationInfo) -> object:
    """Returns `value`, and refuses a list whose length is not the number of observations."""
    observations = info.data.get("observations")  # missing where they are wrong themselves
    for_all = info.field_name == "actions" and isinstance(value, list) and isinstance(value[0], str)
    if isinstance(value, list) and not for_all and observations is not None and len(value) != len(observations):
        raise ValueError(f"has {len(value)} entries for {len(observations)} observations")
    return value
