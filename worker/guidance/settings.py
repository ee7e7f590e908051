"""How language guides a training: what `train` has a flag for."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, Field, model_validator

Guidance = Annotated[
    Literal["none", "observation", "reward", "both"],
    Field(
        description="What hints are for: `observation` shows them to the policy, `reward` pays for following them, "
        "`both` does both."
    ),
]
RewardForm: TypeAlias = Literal["penalty", "potential", "bonus", "advice"]
COUNTING: tuple[RewardForm, ...] = ("potential", "bonus")
"""Forms that count hints that are done, where hints are held until then."""
CAPPED: tuple[RewardForm, ...] = ("bonus", "advice")
"""Forms that promise nothing and could pay more than success does; a potential that is cut would break its promise."""
FaultyGuidance: TypeAlias = Literal["none", "dies", "flatters"]
UNTIL_DONE = "done"
HintEvery = Annotated[
    Annotated[int, Field(ge=0)] | Literal["done"],
    Field(description="Steps that a hint is held; 0: as long as the episode; `done`: until it has been carried out."),
]


class GuidanceSettings(BaseModel):
    """Guidance"""

    guidance: Guidance = "none"
    hint_every: HintEvery = 1
    max_hints: int = Field(
        5,
        ge=1,
        description="With `--hint-every done`: how many hints make up an episode. `potential` rises and `bonus` pays "
        "by one part in so many for each that is done.",
    )
    hint_dropout: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the episodes whose hints the policy is not shown: it has to do without. More are hidden "
        "where they do harm, unless `--no-guidance-gate`.",
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
        "progress and takes it back where it is lost, `bonus` pays once for each goal, `advice` pays for actions that "
        "the hint speaks for and takes from those that it speaks against.",
    )
    guidance_weight: float = Field(
        0.3, ge=0, allow_inf_nan=False, description="What the reward for guidance is multiplied by at the start."
    )
    guidance_cap: float = Field(
        0.5,
        gt=0,
        allow_inf_nan=False,
        description="The most that `bonus` and `advice` add to an episode's rewards or take from them, weight "
        "included; less than success pays.",
    )
    guidance_gate: bool = Field(
        True,
        description="Trust guidance as far as episodes that show hints come to more than those that do not, and show "
        "fewer where they come to less; where none or all show them, trust it less while what its reward pays does not "
        "foretell the environment's own return.",
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

    @property
    def shaping_cap(self) -> float:
        """The most that an episode's rewards may differ from the environment's own."""
        return self.guidance_cap if self.guidance_reward in CAPPED else math.inf

    @property
    def counted_hints(self) -> int | None:
        """How many hints make up an episode; None where they are not held until they are done, and nobody counts."""
        return self.max_hints if self.hint_every == UNTIL_DONE else None

    def guidance_left(self, progress: float) -> float:
        """Returns what is left of guidance at a share of the run, 1 to 0."""
        return max(0.0, 1 - progress / self.guidance_fraction)

    @model_validator(mode="after")
    def _check_that_what_fails_is_there(self) -> Self:
        """Other settings may stand where they change nothing: the conditions of an experiment share them."""
        faulty, wrong = self.faulty_guidance, self.wrong_hints
        if self.guidance == "none" and (wrong or faulty != "none"):
            fault = f"--wrong-hints {wrong:g}" if wrong else f"--faulty-guidance {faulty}"
            raise ValueError(f"{fault} needs guidance that can fail; choose another --guidance than none")
        if faulty == "flatters" and not self.pays_for_guidance:
            raise ValueError(
                f"--faulty-guidance flatters is of a scorer, and --guidance {self.guidance} asks none; "
                "take --guidance reward or both"
            )
        return self

    @model_validator(mode="after")
    def _check_that_what_is_paid_for_is_known(self) -> Self:
        form, every = self.guidance_reward, self.hint_every
        if self.faulty_guidance != "none" and every == UNTIL_DONE:
            raise ValueError(
                f"--faulty-guidance {self.faulty_guidance} knows no hints that are held until they are done; "
                "take --hint-every N"
            )
        if not self.pays_for_guidance:
            return self
        if form == "bonus" and every != UNTIL_DONE:
            raise ValueError(
                f"--guidance-reward bonus pays for hints that are done, and --hint-every {every} does not look whether "
                "they are; take --hint-every done"
            )
        if "max_hints" in self.model_fields_set and every != UNTIL_DONE:
            raise ValueError(f"--max-hints counts hints that are done, and --hint-every {every} does not; leave it out")
        if "max_hints" in self.model_fields_set and form not in COUNTING:
            raise ValueError(
                f"--max-hints counts hints that are done, and --guidance-reward {form} does not; leave it out"
            )
        if "guidance_cap" in self.model_fields_set and form not in CAPPED:
            raise ValueError(
                f"--guidance-cap bounds {' and '.join(CAPPED)}, not --guidance-reward {form}; leave it out"
            )
        return self
