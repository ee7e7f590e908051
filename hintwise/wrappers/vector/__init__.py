"""The wrappers of `hintwise.wrappers` for vector environments, as `gymnasium.wrappers.vector` has Gymnasium's.

from hintwise.wrappers.vector import DescribeObservation, HintObservation, GuidanceReward

envs = gymnasium.make_vec("CartPole-v1", num_envs=64, vectorization_mode="sync")
envs = GuidanceReward(envs, "http://127.0.0.1:8000", gamma=0.99)
"""

from hintwise.wrappers.vector.describe_observation import DescribeObservation
from hintwise.wrappers.vector.guidance_reward import GuidanceReward
from hintwise.wrappers.vector.hint_observation import HintObservation

__all__ = ["DescribeObservation", "GuidanceReward", "HintObservation"]
