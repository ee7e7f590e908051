"""stable-baselines3's PPO on a lake, with the service's hints as reward.

    python -m service --port 8000 &
    python examples/stable_baselines3_ppo.py --service-url http://127.0.0.1:8000 --steps 20000

The policy is stable-baselines3's own, over the number of the square: no word reaches it. What it is paid is the lake's
reward and the progress of the hint; how it is judged is the lake's reward alone.
"""

from __future__ import annotations

import argparse

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from hintwise.wrappers import GuidanceReward

GAMMA = 0.99


def lake() -> gymnasium.Env:
    """Returns a lake of eight by eight on which nobody slips."""
    return gymnasium.make("FrozenLake-v1", map_name="8x8", is_slippery=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service-url", default=None, help="none: HINTWISE_URL, else this machine's port 8000")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # PPO's own discount, or the shaping would change which policy is best.
    env = GuidanceReward(lake(), options.service_url, gamma=GAMMA, on_failure="skip")
    model = PPO("MlpPolicy", env, gamma=GAMMA, seed=options.seed, n_steps=256, ent_coef=0.01, device="cpu")
    model.learn(options.steps)
    mean_return, _ = evaluate_policy(model, lake(), n_eval_episodes=20, warn=False)
    print(f"return without guidance, 20 episodes: {mean_return:.2f}; the service failed {env.num_failures} times")
    env.close()


if __name__ == "__main__":
    main()
