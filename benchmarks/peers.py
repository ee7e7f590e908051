"""Environment steps per second of whole PPO trainings: ours in words, and stable-baselines3's on numbers.

    python -m benchmarks.peers [--rounds 3] [--total-steps 10240]

    hintwise        the defaults: a GPT-2 that reads text, service and worker as two processes
    ahead           the same with --max-staleness 1
    forgetful       the same with deduplication off and no answers kept, in the service and in the updates
    sb3             stable-baselines3's PPO with its MLP on the environment's numbers, no text and no service

All with 8 environments, 128 steps, minibatches of 128 and 6 epochs, one after another within a round, in another order
each round.
Ours is measured as in `benchmarks.train`; theirs from the end of its first rollout to the end of the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium
import minigrid  # noqa: F401 (registers the levels)
import torch
from minigrid.wrappers import ImgObsWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks import results_file
from benchmarks.runners import FORGETFUL_SETTINGS
from benchmarks.train import HERE, Variant, measure

ENV_IDS = "CartPole-v1", "MiniGrid-DoorKey-5x5-v0"
NUM_ENVS, NUM_STEPS, MINIBATCH_SIZE, EPOCHS = 8, 128, 128, 6
OURS = [
    Variant("hintwise", HERE),
    Variant("ahead", HERE, ("--max-staleness", "1")),
    Variant("forgetful", HERE, module="benchmarks.forgetful_worker", environ=FORGETFUL_SETTINGS),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--total-steps", type=int, default=10 * NUM_ENVS * NUM_STEPS)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = {env_id: _compared(env_id, arguments) for env_id in ENV_IDS}
    settings = {name: getattr(arguments, name) for name in ("rounds", "total_steps", "seed")}
    print(results_file.write("peers", {**settings, "environments": measured}).read_text())


def _compared(env_id: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the rates of every round, their medians, and the medians of the ratios within a round."""
    names = [*(variant.name for variant in OURS), "sb3"]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="hintwise-peers-") as scratch:
        for number in range(arguments.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                runs[name].append(_measured(name, env_id, Path(scratch) / f"{name}-{number}", arguments))
                print(env_id, name, json.dumps(runs[name][-1]), file=sys.stderr)
    rates = {name: [run["steps_per_s"] for run in found] for name, found in runs.items()}
    return {
        "median_steps_per_s": {name: statistics.median(found) for name, found in rates.items()},
        "hintwise_over": {
            name: statistics.median(ours / theirs for ours, theirs in zip(rates["hintwise"], rates[name], strict=True))
            for name in names[1:]
        },
        "runs": runs,
    }


def _measured(name: str, env_id: str, run_dir: Path, arguments: argparse.Namespace) -> dict[str, float]:
    if name == "sb3":
        return {"steps_per_s": _sb3_rate(env_id, arguments.seed, arguments.total_steps)}
    [variant] = [each for each in OURS if each.name == name]
    return measure(
        variant,
        run_dir,
        env_id=env_id,
        seed=arguments.seed,
        total_steps=arguments.total_steps,
        steps_per_update=NUM_ENVS * NUM_STEPS,
    )


def _sb3_rate(env_id: str, seed: int, total_steps: int) -> float:
    envs = DummyVecEnv([lambda: _numbers(env_id)] * NUM_ENVS)
    model = PPO(
        "MlpPolicy", envs, n_steps=NUM_STEPS, batch_size=MINIBATCH_SIZE, n_epochs=EPOCHS, seed=seed, device="cpu"
    )
    clock = _Clock()
    model.learn(total_steps, callback=clock)
    return (total_steps - NUM_ENVS * NUM_STEPS) / (time.perf_counter() - clock.first_rollout_s)


def _numbers(env_id: str) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make(env_id)
    return ImgObsWrapper(env) if env_id.startswith("MiniGrid") else env  # the MLP flattens the grid it sees


class _Clock(BaseCallback):
    """Notes when the first rollout had been learned from."""

    first_rollout_s = 0.0

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == NUM_ENVS * NUM_STEPS:
            self.first_rollout_s = time.perf_counter()

    def _on_step(self) -> bool:
        return True


if __name__ == "__main__":
    main()
