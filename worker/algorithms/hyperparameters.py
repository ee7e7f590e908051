"""Hyperparameters, under CleanRL's names."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PPOHyperparameters(BaseModel):
    """PPO hyperparameters"""

    num_envs: int = Field(8, ge=1, le=1_024, description="Environments side by side; one request carries them all.")
    num_steps: int = Field(128, ge=1, description="Steps of each environment between two updates.")
    minibatch_size: int = Field(128, ge=1, description="Transitions in one gradient step.")
    gradient_accumulation: int = Field(
        1, ge=1, description="Parts that a minibatch's gradient is computed in, one after another: less memory."
    )
    update_epochs: int = Field(6, ge=1, description="Passes over the transitions of one update.")
    learning_rate: Positive = Field(1e-3, description="Adam's step size at the start; falls linearly to nearly 0.")
    gamma: float = Field(0.99, ge=0, lt=1, description="Discount per step.")
    gae_lambda: Share = Field(0.95, description="Decay of generalized advantage estimation.")
    clip_coef: Positive = Field(0.2, description="How far the probability ratio may move from 1 and still pay.")
    ent_coef: float = Field(0.0, ge=0, allow_inf_nan=False, description="Weight of the entropy bonus, per nat.")
    vf_coef: float = Field(0.5, ge=0, allow_inf_nan=False, description="Weight of the value loss.")
    max_grad_norm: Positive = Field(0.5, description="L2 norm that gradients are clipped to.")
    target_kl: Positive | None = Field(
        None, description="Ends an update once its KL estimate passes 1.5 times this, in nats; none: never."
    )
    value_scale: Positive | None = Field(
        None,
        description="Return that one unit of an untrained value head stands for; none: 0.5 / (1 - gamma).",
    )

    @property
    def batch_size(self) -> int:
        """Transitions of one update."""
        return self.num_envs * self.num_steps

    @property
    def initial_value_scale(self) -> float:
        """Half the largest discounted return of rewards in [0, 1]: the middle of the range."""
        return self.value_scale or 0.5 / (1 - self.gamma)
