"""Every setting of `python -m worker pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.seeds import NUM_TRAINING_SEEDS


class PretrainConfig(BaseModel):
    """Trains the language model on text that the environments produce, or measures one."""

    model_config = ConfigDict(extra="forbid")

    out: Path | None = Field(None, description="Directory that the model is written to.")
    evaluate: Path | None = Field(
        None, description="Measures the model in this directory instead, and prints a table and one JSON line."
    )
    seed: int = Field(1, ge=0, lt=NUM_TRAINING_SEEDS, description="Corpus, initial weights and order derive from it.")
    num_steps: int = Field(
        18_000, ge=0, description="Optimizer steps of the whole training; 0 writes the first, random weights."
    )
    minutes: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Ends after so many minutes of training, if that comes first."
    )
    num_states: int = Field(6_000, ge=50, description="Distinct states of a world of weight 1 in the corpus.")
    batch_tokens: int = Field(4_096, ge=256, description="About as many tokens in an optimizer step.")
    layers: int = Field(4, ge=1, le=48, description="Of the model.")
    width: int = Field(128, ge=16, le=1_024, multiple_of=16, description="Of the model; heads are 32 wide.")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="The highest; it warms up and falls along a cosine.")
    num_threads: int = Field(2, ge=1, description="CPU threads.")
    resume: bool = Field(False, description="Go on from the checkpoint in the directory.")
    episodes: int = Field(20, ge=1, description="Held-out episodes of each world that are measured.")

    @model_validator(mode="after")
    def _check_one_is_named(self) -> Self:
        if (self.out is None) == (self.evaluate is None):
            raise ValueError("pass --out DIR to train a model, or --evaluate DIR to measure one")
        return self
