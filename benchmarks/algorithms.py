"""What the algorithms come to, beside value iteration where it can be done and stable-baselines3 where it has them.

    python -m worker sweep experiments/algorithms-*.toml
    python -m benchmarks.algorithms runs/algorithms-cartpole runs/algorithms-{toy-text,doorkey,empty}

Every finished run of the sweeps is a row: its greedy episodes from seed 900,000. `optimum` is the mean return of the
best policy on the same starts: by value iteration over the environment's own table, and for MiniGrid by breadth-first
search with everything in sight, which is more than the policy sees. The peers are trained on the
environment's numbers with an MLP, the same seeds and the same number of steps, and play the same episodes: with
rl-baselines3-zoo's settings on CartPole, stable-baselines3's defaults elsewhere. `--no-peers` leaves them out.

`--add` keeps what the results file has of runs and peers that are not made again: of other seeds, and of conditions
that these sweeps do not have. Rows with another number of steps or episodes go. Each of our runs names its own commit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

from benchmarks import results_file
from benchmarks.shortest_plans import best_return
from worker.experiments.results import read_results
from worker.minigrid_levels import is_level, register_levels

FIRST_SEED, NUM_EPISODES = 900_000, 100
PEERS: Mapping[str, type[BaseAlgorithm]] = {"ppo": PPO, "a2c": A2C, "dqn": DQN}
NUM_ENVS = {"ppo": 8, "a2c": 8, "dqn": 1}


class Peer(NamedTuple):
    """One training of stable-baselines3's."""

    algorithm: str
    env_id: str
    env_kwargs: dict[str, Any]
    seed: int
    steps: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path, nargs="+", help="directories that `worker sweep` wrote")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--add", action="store_true", help="to the results file, instead of writing it anew")
    arguments = parser.parse_args()
    rows = [row for sweep in arguments.sweeps for row in _rows(sweep)]
    tasks = {_task(row): row["evaluation"] for row in rows}
    before = results_file.read("algorithms") if arguments.add else {}
    best = {task: optimum(made["env_id"], made["env_kwargs"], made["episodes"]) for task, made in tasks.items()}
    runs = joined(before.get("runs", []), [_shown(row) for row in rows], ("task", "condition"))
    peers = _peers(rows, arguments.jobs) if arguments.peers else []
    measured = {
        "runs": runs,
        "summary": _summary(runs),
        "optimum": before.get("optimum", {}) | best,
        "sb3": joined(before.get("sb3") or [], peers, ("env_id", "env_kwargs", "algorithm")),
    }
    print(results_file.write("algorithms", measured).read_text())


def _rows(sweep: Path) -> list[dict[str, Any]]:
    """Returns the finished runs of a sweep."""
    rows = read_results(sweep)
    if not rows:
        raise SystemExit(f"{sweep} holds no finished run; `python -m worker sweep` makes them")
    if any(row["evaluation"]["mode"] != "greedy" for row in rows):
        raise SystemExit(f"peers play greedily, and runs of {sweep} were judged by sampled actions; leave it out")
    return rows


def _task(row: Mapping[str, Any]) -> str:
    env_id, made = row["evaluation"]["env_id"], row["evaluation"]["env_kwargs"]
    return f"{env_id} {json.dumps(made)}" if made else str(env_id)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    names = "condition", "seed", "steps", "training_s", "wall_time_s", "git_commit"
    came_to = {name: row["evaluation"][name] for name in ("mean_return", "episodes")}
    return {"task": _task(row), **{name: row[name] for name in names}, **came_to}


def joined(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], names: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Returns rows of now, behind those of before that they do not replace.

    Args:
        before: Rows that were measured earlier.
        now: Rows that were measured now.
        names: What tells a group of runs from others; within one, all have the same steps and episodes.
    """

    def group(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(str(row[name]) for name in names)

    def size(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["steps"], row.get("episodes")

    replaced, sizes = {(group(row), row["seed"]) for row in now}, {group(row): size(row) for row in now}
    others = [row for row in before if (group(row), row["seed"]) not in replaced]
    kept = [row for row in others if sizes.get(group(row), size(row)) == size(row)]
    return [dict(row) for row in (*kept, *now)]


def _summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns each task and condition with its returns by seed."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(runs, key=lambda row: row["seed"]):
        groups.setdefault((row["task"], row["condition"]), []).append(row)
    return [
        {
            "task": task,
            "condition": condition,
            "steps": few[0]["steps"],
            "returns": [row["mean_return"] for row in few],
            "median_training_s": median(row["training_s"] for row in few),
        }
        for (task, condition), few in groups.items()
    ]


def optimum(env_id: str, env_kwargs: Mapping[str, Any], num_episodes: int) -> float | None:
    """Returns the mean undiscounted return of the best policy from the evaluation's starts; None if nobody knows it."""
    seeds = range(FIRST_SEED, FIRST_SEED + num_episodes)
    register_levels(env_id)
    if is_level(env_id):
        return mean(best_return(env_id, env_kwargs, seed) for seed in seeds)
    env = gymnasium.make(env_id, **env_kwargs)
    table = getattr(env.unwrapped, "P", None)
    if table is None:
        return None
    values = np.zeros(len(table))
    for _ in range(10_000):
        following = {
            state: max(
                sum(chance * (reward + (0.0 if ended else values[there])) for chance, there, reward, ended in outcomes)
                for outcomes in actions.values()
            )
            for state, actions in table.items()
        }
        new = np.array([following[state] for state in range(len(table))])
        if np.abs(new - values).max() < 1e-9:
            break
        values = new
    else:
        return None  # it does not end: some policy earns for ever
    return mean(float(values[env.reset(seed=seed)[0]]) for seed in seeds)


def _peers(rows: list[dict[str, Any]], jobs: int) -> list[dict[str, Any]]:
    wanted = []
    for row in rows:
        algorithm = row["condition"].split("-")[0]
        made = row["evaluation"]
        if algorithm in PEERS and not is_level(made["env_id"]):  # its grids need a network of their own
            wanted.append(Peer(algorithm, made["env_id"], made["env_kwargs"], row["seed"], row["steps"]))
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(_trained, wanted))


def _trained(peer: Peer) -> dict[str, Any]:
    torch.set_num_threads(1)
    envs = make_vec_env(peer.env_id, NUM_ENVS[peer.algorithm], seed=peer.seed, env_kwargs=peer.env_kwargs)
    model = PEERS[peer.algorithm]("MlpPolicy", envs, seed=peer.seed, device="cpu", **_settings(peer))
    model.learn(peer.steps)
    env = gymnasium.make(peer.env_id, **peer.env_kwargs)
    returns = [_played(model, env, FIRST_SEED + i) for i in range(NUM_EPISODES)]
    return {**peer._asdict(), "mean_return": mean(returns)}


def _settings(peer: Peer) -> dict[str, Any]:
    if peer.env_id != "CartPole-v1":
        return {}
    if peer.algorithm == "ppo":
        return {
            "n_steps": 32,
            "batch_size": 256,
            "gae_lambda": 0.8,
            "gamma": 0.98,
            "n_epochs": 20,
            "learning_rate": LinearSchedule(1e-3, 0.0, 1.0),
            "clip_range": LinearSchedule(0.2, 0.0, 1.0),
        }
    if peer.algorithm == "dqn":
        return {
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "buffer_size": 100_000,
            "learning_starts": 1_000,
            "target_update_interval": 10,
            "train_freq": 256,
            "gradient_steps": 128,
            "exploration_fraction": 0.16,
            "exploration_final_eps": 0.04,
            "policy_kwargs": {"net_arch": [256, 256]},
        }
    return {}


def _played(model: BaseAlgorithm, env: gymnasium.Env[Any, Any], seed: int) -> float:
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        action, _ = model.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(np.asarray(action).item())
        total, ended = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    main()
