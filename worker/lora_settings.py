"""The settings of a run that trains adapters in place of its model."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LoraSettings(BaseModel):
    """Low-rank adapters"""

    lora_rank: int = Field(
        0,
        ge=0,
        le=1_024,
        description="Rank of the adapters that learn while the model stands still; 0: all of it learns.",
    )
    lora_alpha: Positive | None = Field(
        None, description="Divided by the rank, it scales what adapters add; none: twice the rank."
    )
    lora_targets: str | None = Field(
        None,
        pattern=r"^[\w.]+(,[\w.]+)*$",
        description="Layers that get an adapter, by the ends of their names, with commas between them; none: those "
        "that peft takes for the architecture, `c_attn` for GPT-2.",
    )

    @property
    def scaling_alpha(self) -> float:
        """Alpha, chosen or not."""
        return self.lora_alpha or 2.0 * self.lora_rank

    @property
    def target_names(self) -> list[str]:
        """The layers that were named."""
        return self.lora_targets.split(",") if self.lora_targets else []

    @model_validator(mode="after")
    def _check_there_are_adapters(self) -> Self:
        if not self.lora_rank and (self.lora_alpha or self.lora_targets):
            raise ValueError("lora_alpha and lora_targets say how adapters learn; add --lora-rank N, such as 8")
        return self
