"""Gymnasium wrappers for people who train with another library.

    from hintwise.wrappers import DescribeObservation, HintObservation, GuidanceReward

    env = gymnasium.make("FrozenLake8x8-v1", is_slippery=False)
    env = HintObservation(env, "http://127.0.0.1:8000", dropout=0.3)      # a hint beside what is observed
    env = GuidanceReward(env, "http://127.0.0.1:8000", gamma=0.99)        # language as reward, policy-invariant

`hintwise.wrappers.vector` has the same three for vector environments: one request carries all of them.
`docs/wrappers.md` is their guide.
"""

from __future__ import annotations

try:
    import gymnasium  # noqa: F401 (the one thing these need that the library does not)
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "hintwise.wrappers needs Gymnasium: pip install 'hintwise[worker]', or gymnasium alone", name="gymnasium"
    ) from error

from hintwise.wrappers.describe_observation import DescribeObservation
from hintwise.wrappers.guidance_reward import GuidanceReward
from hintwise.wrappers.hint_observation import HintObservation

__all__ = ["DescribeObservation", "GuidanceReward", "HintObservation"]
