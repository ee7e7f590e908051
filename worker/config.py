"""Every setting of the worker, once: `--total-steps` is HINTWISE_TOTAL_STEPS is `total_steps` in TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeAlias, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from hintwise.describers.memory import MAX_REACH
from worker.algorithms.hyperparameters import (
    HYPERPARAMETERS,
    A2CHyperparameters,
    Algorithm,
    DQNHyperparameters,
    PPOHyperparameters,
    SARSAHyperparameters,
    defaults_of,
)
from worker.guidance.settings import GuidanceSettings, HintEvery
from worker.lora_settings import LoraSettings
from worker.seeds import FIRST_EVALUATION_SEED, FIRST_VALIDATION_SEED, NUM_TRAINING_SEEDS
from worker.service_settings import ServiceSettings

EvalMode: TypeAlias = Literal["greedy", "sample"]
POSITIONAL = {"positional": True}
NUM_KEPT = 5
"""Checkpoints, unless said."""
CHANGEABLE = frozenset(
    {
        "total_steps",
        "run_dir",
        "resume",
        "checkpoint_every",
        "keep_checkpoints",
        "eval_episodes",
        "eval_mode",
        "service_url",
        "service_timeout_s",
        "request_timeout_s",
        "model",  # the checkpoint's own architecture and tokenizer are compared instead
        "guidance_model",  # what it answers with is
        "readout",  # so is its own
        "device",
        "gradient_accumulation",
        "num_threads",
        "env_workers",
        "env_timeout_s",
    }
)
"""Settings that a resumed run may change: they do not enter its numbers, or only decide where it ends."""


def _json_object(value: object) -> object:
    """Returns what a text holds as JSON; a TOML file gives a table, which is an object already."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_constant=_no_json)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'is not JSON ({error}); write an object such as {{"is_slippery": false}}') from error
    if not isinstance(value, dict):
        raise ValueError('expected a JSON object such as {"is_slippery": false}')
    return value


def _no_json(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")


EnvId = Annotated[str, Field(min_length=1, description="Gymnasium environment, such as CartPole-v1.")]
EnvKwargs = Annotated[
    dict[str, JsonValue],
    BeforeValidator(_json_object),
    Field(description="Arguments the environment is made with, as a JSON object: '{\"is_slippery\": false}'."),
]
Memory = Annotated[
    int, Field(ge=0, le=MAX_REACH, description="Observations of the episode that each text remembers; 0: none.")
]


class EnvSettings(TypedDict):
    """How environments are made and told of."""

    env_kwargs: dict[str, JsonValue]
    memory: int


RunDir = Annotated[Path, Field(json_schema_extra=POSITIONAL, description="Directory that `train` wrote.")]


class RunSettings(BaseModel):
    """The run"""

    env_id: EnvId
    env_kwargs: EnvKwargs = {}
    memory: Memory = 0
    readout: Literal["phrase", "head"] | None = Field(
        None,
        description="How actions are read from the model: `phrase` scores their words, `head` is one linear layer for "
        "the environment's own actions; none: what the service at --service-url says, else `phrase`.",
    )
    algorithm: Algorithm = Field("ppo", description="How the policy learns.")
    total_steps: int = Field(
        100_000, ge=1, description="Environment steps of the whole run, all environments together."
    )
    seed: int = Field(1, ge=0, lt=NUM_TRAINING_SEEDS, description="Everything random derives from it.")
    run_dir: Path | None = Field(
        None, description="Where the run is written; none: runs/<env_id>-<algorithm>-seed<seed>."
    )
    resume: bool = Field(False, description="Go on from the last checkpoint in the run directory.")
    env_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = Field(
        "auto",
        description="Processes that step the environments: 0 steps them in the worker itself, `auto` measures a few "
        "steps and takes processes where one is slow. Changes the speed and nothing else.",
    )
    env_timeout_s: float = Field(
        300.0, gt=0, allow_inf_nan=False, description="How long one step in such a process may take, in seconds."
    )
    max_staleness: int = Field(
        0,
        ge=0,
        le=1,
        description="Updates that weights may be behind when they act: 0 collects and learns in turns, 1 collects the "
        "next rollout while learning from the last.",
    )
    eval_episodes: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Fresh episodes that the run is judged by in the end, and once more with hints where it is shown "
        "any; half as many others choose its checkpoint.",
    )
    eval_mode: EvalMode = Field(
        "greedy",
        description="How those episodes, and those that choose a checkpoint, are played: `greedy` takes the likeliest "
        "action, `sample` draws it, as training does.",
    )
    checkpoint_every: int = Field(10, ge=1, description="Updates between two checkpoints.")
    keep_checkpoints: int = Field(
        NUM_KEPT,
        ge=1,
        le=1_000,
        description="Checkpoints that are kept, the last ones; the run is judged by the best of them.",
    )


class TrainConfig(
    RunSettings,
    ServiceSettings,
    LoraSettings,
    GuidanceSettings,
    PPOHyperparameters,
    A2CHyperparameters,
    DQNHyperparameters,
    SARSAHyperparameters,
):
    """Trains a policy: environments and gradients here, every action from the service."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @classmethod
    def recorded(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the settings of a run; from before there was a setting, it had what is its default now."""
        plain = {name: field.default for name, field in cls.model_fields.items()}
        return {**plain, **cls._defaults_of_its_algorithm(settings), **settings}

    @classmethod
    def _defaults_of_its_algorithm(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the defaults that differ from the field's own."""
        algorithm = settings.get("algorithm", cls.model_fields["algorithm"].default)
        own = {name: defaults_of(field) for name, field in cls.model_fields.items()}
        return {name: few[algorithm] for name, few in own.items() if algorithm in few}

    @model_validator(mode="before")
    @classmethod
    def _take_the_algorithm_s_defaults(cls, given: Any) -> Any:
        return cls._defaults_of_its_algorithm(given) | given if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _check_the_algorithm_has_them(self) -> Self:
        has = HYPERPARAMETERS[self.algorithm].model_fields
        for name in sorted(self.model_fields_set):
            users = [other for other, theirs in HYPERPARAMETERS.items() if name in theirs.model_fields]
            if users and name not in has:
                raise ValueError(
                    f"{name} belongs to {' and '.join(users)}; {self.algorithm} has no such setting, so leave it out"
                )
        return self

    @property
    def directory(self) -> Path:
        """Where the run is written."""
        if self.run_dir is not None:
            return self.run_dir
        env_id = re.sub(r"[^\w.-]+", "-", self.env_id)
        return Path("runs") / f"{env_id}-{self.algorithm}-seed{self.seed}"

    @property
    def env_settings(self) -> EnvSettings:
        """How its environments are made and told of, but for their id."""
        return {"env_kwargs": self.env_kwargs, "memory": self.memory}

    @property
    def num_updates(self) -> int:
        """Updates of the whole run; a last rollout that would not be full is left out."""
        return self.total_steps // self.batch_size

    @model_validator(mode="after")
    def _check_one_update_fits(self) -> Self:
        if self.num_updates == 0:
            raise ValueError(
                f"total_steps {self.total_steps} is less than one update: "
                f"num_envs {self.num_envs} x num_steps {self.num_steps} = {self.batch_size}"
            )
        return self


class EvaluateConfig(ServiceSettings):
    """Plays fresh episodes with the checkpoint a run chose and prints one JSON line."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    run_dir: RunDir
    episodes: int = Field(100, ge=1, description="Episodes to play.")
    seed: int = Field(
        FIRST_EVALUATION_SEED,
        ge=FIRST_VALIDATION_SEED,
        le=2**31,
        description="Seed of the first episode; episode i has this + i. From 900,000: evaluation; "
        "from 500,000: validation; below: training, refused.",
    )
    guidance: Literal["none", "observation"] = Field(
        "none", description="`observation` shows the policy the guidance model's hints; otherwise it plays alone."
    )
    hint_every: HintEvery | None = Field(None, description="Steps a hint is held, as in `train`; none: as the run did.")
    greedy: bool = Field(False, description="Take the likeliest action instead of sampling.")
    num_envs: int = Field(
        64, ge=1, le=1_024, description="Environments side by side; changes the speed and nothing else."
    )


class DescribeConfig(BaseModel):
    """Shows steps of an environment as the model reads them, under random legal actions."""

    model_config = ConfigDict(extra="forbid")

    env_id: EnvId
    env_kwargs: EnvKwargs = {}
    memory: Memory = 0
    steps: int = Field(5, ge=1, le=10_000, description="Steps to show; an episode that ends is followed by the next.")
    seed: int = Field(1, ge=0, le=2**31, description="Of the first episode, and of the random actions.")
    check: bool = Field(
        False, description="Says instead what is wrong with the describer on these steps; take 1,000 or more."
    )


class PlotConfig(BaseModel):
    """Draws a run's learning curve to learning_curve.png."""

    model_config = ConfigDict(extra="forbid")

    run_dir: RunDir
