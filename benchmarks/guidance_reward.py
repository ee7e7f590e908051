"""stable-baselines3's PPO on CliffWalking, with the progress of hints as shaping and without: return by steps.

    python -m benchmarks.guidance_reward [--seeds 1 2 3] [--steps 40000] [--picture docs/images/guidance-reward.png]

The policy is stable-baselines3's own network over the number of the square, with its defaults but for shorter rollouts
and a little entropy. Both runs of a seed begin with the same weights. Every 2,000 steps ten greedy episodes are played
without guidance; the environment's own reward is what is shown. Weight and budget were chosen on seed 11.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks import results_file
from benchmarks.processes import running_service
from hintwise.wrappers import GuidanceReward

ENV_ID, MAX_EPISODE_STEPS = "CliffWalking-v1", 100
GAMMA, WEIGHT = 0.99, 20.0
BAR = -20.0
"""The shortest way costs 13; who never arrives pays 100."""
LOOK_EVERY = 2_000
NUM_EPISODES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--picture", type=Path, default=Path("docs/images/guidance-reward.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    with running_service("embedded") as port:
        for seed in arguments.seeds:
            for weight in (0.0, WEIGHT):
                curve = learning_curve(seed, weight, arguments.steps, f"http://127.0.0.1:{port}")
                reached = next((step for step, value in curve if value >= BAR), None)
                runs.append({"seed": seed, "weight": weight, "steps_to_bar": reached, "curve": curve})
                print(f"seed {seed}, weight {weight:g}: {reached or 'not reached'}, last {curve[-1][1]:.0f}")
    draw(runs, arguments.picture)
    measured = {"env_id": ENV_ID, "bar": BAR, "steps": arguments.steps, "summary": summary(runs), "runs": runs}
    print(results_file.write("guidance_reward", measured))


class Looks(BaseCallback):
    """Plays a few episodes without guidance now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.curve: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        if self.num_timesteps % LOOK_EVERY == 0:
            found, _ = evaluate_policy(self.model, cliff(), n_eval_episodes=NUM_EPISODES, warn=False)
            self.curve.append((self.num_timesteps, float(np.mean(found))))
        return True


def learning_curve(seed: int, weight: float, steps: int, url: str) -> list[tuple[int, float]]:
    """Returns steps and the mean return of greedy episodes without guidance."""
    env = GuidanceReward(cliff(), url, gamma=GAMMA, weight=weight) if weight else cliff()
    model = PPO("MlpPolicy", env, gamma=GAMMA, seed=seed, n_steps=256, ent_coef=0.01, device="cpu")
    looks = Looks()
    model.learn(steps, callback=looks)
    env.close()
    return looks.curve


def cliff() -> gymnasium.Env[Any, Any]:
    return gymnasium.make(ENV_ID, max_episode_steps=MAX_EPISODE_STEPS)


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the median return at the end and how many seeds reached the bar, with and without."""
    found = {}
    for name, guided in (("without", False), ("with", True)):
        few = [run for run in runs if bool(run["weight"]) is guided]
        found[name] = {
            "median_last_return": median(run["curve"][-1][1] for run in few),
            "reached_bar": sum(run["steps_to_bar"] is not None for run in few),
            "steps_to_bar": [run["steps_to_bar"] for run in few],
        }
    return found


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws every run's curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for run in runs:
        steps, returns = zip(*run["curve"], strict=True)
        first = run["seed"] == runs[0]["seed"]
        name = ("with guidance" if run["weight"] else "without") if first else None
        axes.plot(steps, returns, color="tab:blue" if run["weight"] else "tab:gray", label=name, alpha=0.8)
    axes.set(title=f"stable-baselines3 PPO on {ENV_ID}", xlabel="environment steps", ylabel="return without guidance")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
