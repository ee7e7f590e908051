"""How language guides a training: what `train` has a flag for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

Guidance = Annotated[
    Literal["none", "observation", "reward", "both"],
    Field(
        description="What hints are for: `observation` shows them to the policy, `reward` pays for following them, "
        "`both` does both."
    ),
]
RewardForm = Literal["penalty", "potential"]
FaultyGuidance = Literal["none", "dies", "flatters"]
HintEvery = Annotated[int, Field(ge=0, description="Steps that a hint is held; 0: as long as the episode.")]


class GuidanceSettings(BaseModel):
    """Guidance"""

    guidance: Guidance = "none"
    hint_every: HintEvery = 1
    hint_dropout: float = Field(
        0.5, ge=0, le=1, description="Share of the episodes whose hints the policy is not shown: it has to do without."
    )
    wrong_hints: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the episodes in which every hint is made wrong: it names another legal action. An "
        "experiment's way to see what wrong hints cost.",
    )
    faulty_guidance: FaultyGuidance = Field(
        "none",
        description="How guidance fails, in an experiment: `dies` gives no hints and no scores from the middle of the "
        "run on, `flatters` scores the most there is for whatever was done.",
    )
    guidance_reward: RewardForm = Field(
        "penalty",
        description="What is paid: `penalty` takes from an action that the hint speaks against, `potential` pays for "
        "progress and takes it back where it is lost.",
    )
    guidance_weight: float = Field(
        0.3, ge=0, allow_inf_nan=False, description="What the reward for guidance is multiplied by at the start."
    )
    guidance_gate: bool = Field(
        True,
        description="Trust guidance as far as episodes that show hints come to more than those that do not; where none "
        "or all do, less while what its reward pays does not foretell the environment's own return.",
    )
    guidance_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the run over which guidance falls linearly to nothing: the weight of its reward, from "
        "one episode to the next, and of distillation.",
    )

    @property
    def shows_hints(self) -> bool:
        """Whether the policy reads hints."""
        return self.guidance in ("observation", "both")

    @property
    def pays_for_guidance(self) -> bool:
        """Whether following hints earns reward."""
        return self.guidance in ("reward", "both")

    def guidance_left(self, progress: float) -> float:
        """Returns what is left of guidance at a share of the run, 1 to 0."""
        return max(0.0, 1 - progress / self.guidance_fraction)
