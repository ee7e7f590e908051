"""Hyperparameters, under CleanRL's names: one class for each group of algorithms that share them.

A default that differs between algorithms stands at its field, in `by_algorithm`; the one without a name is PPO's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

Algorithm = Literal["ppo", "a2c", "dqn", "sarsa"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def by_algorithm(**defaults: Any) -> dict[str, Any]:
    """Returns what a field says about algorithms whose default is another."""
    return {"by_algorithm": defaults}


def defaults_of(field: FieldInfo) -> Mapping[str, Any]:
    """Returns a field's defaults by algorithm, those that differ from the field's own."""
    extra = field.json_schema_extra
    found = extra.get("by_algorithm", {}) if isinstance(extra, dict) else {}
    return found if isinstance(found, dict) else {}


class Hyperparameters(BaseModel):
    """Learning"""

    num_envs: int = Field(
        8,
        ge=1,
        le=1_024,
        description="Environments side by side; one request carries them all.",
        json_schema_extra=by_algorithm(a2c=32),
    )
    num_steps: int = Field(
        128,
        ge=1,
        description="Steps of each environment between two updates.",
        json_schema_extra=by_algorithm(a2c=8, dqn=32, sarsa=32),
    )
    learning_rate: Positive = Field(
        1e-3, description="Step size of the optimizer at the start.", json_schema_extra=by_algorithm(a2c=7e-4)
    )
    anneal_lr: bool = Field(True, description="Let the learning rate fall linearly to nearly 0 over the run.")
    gamma: float = Field(0.99, ge=0, lt=1, description="Discount per step.")
    max_grad_norm: Positive = Field(
        0.5, description="L2 norm that gradients are clipped to.", json_schema_extra=by_algorithm(dqn=10.0, sarsa=10.0)
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


class MinibatchHyperparameters(Hyperparameters):
    """Minibatches, of PPO, DQN and SARSA"""

    minibatch_size: int = Field(
        128, ge=1, description="Transitions in one gradient step.", json_schema_extra=by_algorithm(sarsa=64)
    )


class EpochHyperparameters(MinibatchHyperparameters):
    """Passes, of PPO and SARSA"""

    update_epochs: int = Field(
        6,
        ge=1,
        description="Passes over the newest rollout; of SARSA, as many gradient steps over all that it remembers.",
        json_schema_extra=by_algorithm(sarsa=8),
    )


class ActorCriticHyperparameters(Hyperparameters):
    """Actor-critic, of PPO and A2C"""

    gae_lambda: Share = Field(
        0.95,
        description="Decay of generalized advantage estimation.",
        json_schema_extra=by_algorithm(a2c=1.0),
    )
    ent_coef: NotNegative = Field(0.0, description="Weight of the entropy bonus, per nat.")
    vf_coef: NotNegative = Field(0.5, description="Weight of the value loss.")


class PPOHyperparameters(EpochHyperparameters, ActorCriticHyperparameters):
    """PPO"""

    clip_coef: Positive = Field(0.2, description="How far the probability ratio may move from 1 and still pay.")
    target_kl: Positive | None = Field(
        None, description="Ends an update once its KL estimate passes 1.5 times this, in nats; none: never."
    )
    advantage_floor: NotNegative = Field(
        0.0,
        description="Least standard deviation that advantages are divided by, in units of the value scale. Where "
        "rewards are rare, or failures, it keeps the noise of rollouts without any from counting as much.",
    )
    distill_coef: NotNegative = Field(
        1.0,
        description="Weight of what teaches the policy to do without the hints that it is shown: KL(with hint || "
        "without), per nat; falls with the rest of guidance.",
    )
    gradient_accumulation: int = Field(
        1, ge=1, description="Parts that a minibatch's gradient is computed in, one after another: less memory."
    )


class A2CHyperparameters(ActorCriticHyperparameters):
    """A2C"""


class QHyperparameters(MinibatchHyperparameters):
    """Action values, of DQN and SARSA"""

    q_scale: Positive | None = Field(
        None,
        description="Return that one unit of difference between the scores of two actions stands for, at the start; "
        "none: a fiftieth of the value scale.",
    )
    initial_value: float = Field(
        0.0,
        allow_inf_nan=False,
        description="What every action is thought to be worth at the start, in units of return. More than any really "
        "is: what was not tried looks better than what was, which finds rewards that chance hardly ever meets.",
    )
    exploration: Literal["epsilon", "softmax"] = Field(
        "epsilon",
        description="How actions are explored: `epsilon` takes a uniform one with that chance, `softmax` draws from "
        "softmax(Q / temperature).",
    )
    start_epsilon: Share = Field(1.0, description="Chance of a uniform action at the start.")
    end_epsilon: Share = Field(0.04, description="Chance of a uniform action after `exploration_fraction`.")
    start_temperature: Positive = Field(10.0, description="Of `softmax` at the start, in units of return.")
    end_temperature: Positive = Field(0.1, description="Of `softmax` after `exploration_fraction`.")
    exploration_fraction: Share = Field(
        0.2,
        description="Share of the run over which exploration falls linearly from its start to its end.",
        json_schema_extra=by_algorithm(sarsa=0.5),
    )

    @property
    def initial_q_scale(self) -> float:
        """A fiftieth of the value scale: the actions of one state differ by far less than states do."""
        return self.q_scale or 0.02 * self.initial_value_scale


class DQNHyperparameters(QHyperparameters):
    """DQN"""

    buffer_size: int = Field(100_000, ge=1, description="Transitions that are remembered; the oldest go first.")
    learning_starts: int = Field(1_000, ge=0, description="Transitions to have seen before the first gradient step.")
    n_step: int = Field(
        3, ge=1, description="Rewards that a target sums before it bootstraps; fewer where the rollout or episode ends."
    )
    gradient_steps: int = Field(32, ge=1, description="Gradient steps of one update.")
    target_network_frequency: int = Field(
        32, ge=1, description="Gradient steps between two updates of the target network."
    )
    tau: float = Field(1.0, gt=0, le=1, description="Share of itself that the target network then gives up.")
    double_q: bool = Field(True, description="Let the policy choose the action whose value the target network tells.")


class SARSAHyperparameters(QHyperparameters, EpochHyperparameters):
    """SARSA"""

    sarsa_lambda: Share = Field(
        0.9, description="Decay of the traces: 0 is one-step SARSA, 1 the whole return of what is remembered."
    )
    replay_rollouts: int = Field(
        16,
        ge=1,
        description="Rollouts that an update learns from, the newest and those before it. It takes the gradient steps "
        "of --update-epochs passes over the newest. All are kept in memory and in the last two checkpoints.",
    )


HYPERPARAMETERS: Mapping[Algorithm, type[Hyperparameters]] = {
    "ppo": PPOHyperparameters,
    "a2c": A2CHyperparameters,
    "dqn": DQNHyperparameters,
    "sarsa": SARSAHyperparameters,
}
"""What each algorithm reads."""
