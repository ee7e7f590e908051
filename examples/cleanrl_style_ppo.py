"""PPO in one file, in CleanRL's manner, on observations that hold the action a hint names.

    python -m service --port 8000 &
    python examples/cleanrl_style_ppo.py --service-url http://127.0.0.1:8000 --steps 20000

Four CartPoles step together; one request a step fetches the hints of all. In a third of the episodes there is no hint,
so that the policy learns to do without; it is judged without.
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn

from hintwise.wrappers.vector import HintObservation

ENV_ID, NUM_ENVS, NUM_STEPS, EPOCHS, MINIBATCHES = "CartPole-v1", 4, 128, 4, 4
GAMMA, GAE_LAMBDA, CLIP, LEARNING_RATE = 0.99, 0.95, 0.2, 2.5e-3


class Agent(nn.Module):
    """Chooses among `num_actions`, and values what it sees."""

    def __init__(self, num_inputs: int, num_actions: int) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(num_inputs, 64), nn.Tanh(), nn.Linear(64, num_actions))
        self.critic = nn.Sequential(nn.Linear(num_inputs, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, seen: Tensor) -> tuple[torch.distributions.Categorical, Tensor]:
        return torch.distributions.Categorical(logits=self.actor(seen)), self.critic(seen).squeeze(-1)


def flat(observation: dict[str, np.ndarray]) -> Tensor:
    """Returns numbers and one-hot hint side by side, (N, D)."""
    return torch.tensor(np.concatenate([observation["observation"], observation["hint"]], axis=1), dtype=torch.float32)


@torch.no_grad()
def value_of(agent: Agent, observation: dict[str, np.ndarray]) -> float:
    """Returns what the agent expects from one environment's observation on."""
    return float(agent(flat({name: part[None] for name, part in observation.items()}))[1])


def advantages_of(rewards: Tensor, values: Tensor, ended: Tensor, last: Tensor) -> Tensor:
    """Returns generalized advantages (S, N)."""
    advantages, later = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        following = last if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + GAMMA * following * (1 - ended[t]) - values[t]
        advantages[t] = later = delta + GAMMA * GAE_LAMBDA * (1 - ended[t]) * later
    return advantages


def learn(agent: Agent, optimizer: torch.optim.Optimizer, batch: list[Tensor]) -> None:
    """Takes PPO's passes over a batch of states, actions, log-probabilities, advantages and returns."""
    for _ in range(EPOCHS):
        for index in torch.randperm(len(batch[0])).chunk(MINIBATCHES):
            seen, actions, log_probs, advantages, returns = (part[index] for part in batch)
            policy, values = agent(seen)
            ratio = (policy.log_prob(actions) - log_probs).exp()
            scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            gain = torch.min(ratio * scaled, ratio.clamp(1 - CLIP, 1 + CLIP) * scaled).mean()
            loss = 0.5 * (values - returns).square().mean() - gain
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def train(env: HintObservation, agent: Agent, num_steps: int, seed: int) -> None:
    """Plays and learns for about `num_steps` environment steps."""
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    seen = flat(env.reset(seed=seed)[0])
    for _ in range(max(1, num_steps // (NUM_ENVS * NUM_STEPS))):
        rows: list[list[Tensor]] = []
        for _ in range(NUM_STEPS):
            with torch.no_grad():
                policy, values = agent(seen)
            actions = policy.sample()
            observation, given, terminated, truncated, infos = env.step(actions.numpy())
            rewards = torch.tensor(given).float()
            for i in np.flatnonzero(truncated & ~terminated):  # a time limit is no end: what would follow still counts
                rewards[i] += GAMMA * value_of(agent, infos["final_obs"][i])
            ended = torch.tensor(terminated | truncated, dtype=torch.float32)
            rows.append([seen, actions, policy.log_prob(actions), rewards, values, ended])
            seen = flat(observation)
        states, actions, log_probs, rewards, values, ended = (torch.stack(part) for part in zip(*rows, strict=True))
        with torch.no_grad():
            advantages = advantages_of(rewards, values, ended, agent(seen)[1])
        batch = [states, actions, log_probs, advantages, advantages + values]
        learn(agent, optimizer, [part.flatten(0, 1) for part in batch])


def judge(agent: Agent, num_episodes: int = 20) -> float:
    """Returns the mean return of greedy episodes without a hint."""
    returns = []
    with gymnasium.make(ENV_ID) as env:
        for episode in range(num_episodes):
            numbers, _ = env.reset(seed=900_000 + episode)
            total, over = 0.0, False
            while not over:
                seen = torch.tensor(np.concatenate([numbers, [0.0, 0.0]]), dtype=torch.float32)
                numbers, reward, terminated, truncated, _ = env.step(int(agent.actor(seen).argmax()))
                total, over = total + float(reward), terminated or truncated
            returns.append(total)
    return float(np.mean(returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service-url", default=None, help="none: HINTWISE_URL, else this machine's port 8000")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    together = SyncVectorEnv([lambda: gymnasium.make(ENV_ID)] * NUM_ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
    env = HintObservation(together, options.service_url, form="action", dropout=1 / 3)
    agent = Agent(num_inputs=6, num_actions=2)
    train(env, agent, options.steps, options.seed)
    env.close()
    print(f"return without hints, 20 episodes: {judge(agent):.1f}")


if __name__ == "__main__":
    main()
