"""Gymnasium's classic control tasks with Discrete actions.

| environment      | observation                    | text                                    |
| ---------------- | ------------------------------ | --------------------------------------- |
| `CartPole-v1`    | `[0.0, 0.5, -0.03, -0.8]`      | `cart 20 speed 26 pole 15 turn 12`      |
| `MountainCar-v0` | `[-0.8, 0.0]`                  | `car 9 speed 20`                        |
| `Acrobot-v1`     | `[1.0, 0.0, 0.8, 0.6, 0, 2.0]` | `upper 20 turn 20 joint 27 twist 23`    |
"""

from __future__ import annotations

from math import atan2, pi

from hintwise.describers.numbers import signed_bin, uniform_bin
from hintwise.describers.observations import NumberReader


class CartPole:
    """Cart position and speed, pole angle and turning speed; positive is right.

    20 is the middle, upright, at rest. Episodes end within the end bins of `cart` and `pole`.
    """

    env_id = "CartPole-v1"
    task = "Keep the pole upright."

    def __init__(self) -> None:
        self.actions = ["push left", "push right"]
        self.hints = list(self.actions)  # the phrases read as advice
        names = ("cart position", "cart velocity", "pole angle", "pole angular velocity")
        self._numbers = NumberReader(self.env_id, names)

    def describe(self, observation: object) -> str:
        cart, speed, pole, turn = self._numbers.read(observation)
        # an episode ends at 2.4 m and 12 degrees (0.2094 rad); the speeds have no bounds, so 3 is our choice
        return (
            f"cart {signed_bin(cart, 2.4)} speed {signed_bin(speed, 3.0)} "
            f"pole {signed_bin(pole, 0.2095)} turn {signed_bin(turn, 3.0)}"
        )

    def legal_actions(self, observation: object) -> list[int]:
        return [0, 1]


class MountainCar:
    """Place of the car, from 0 at the left wall to 40 at the right end, and its speed; positive is right.

    The goal is at 38.
    """

    env_id = "MountainCar-v0"
    task = "Drive up the right hill."

    def __init__(self) -> None:
        self.actions = ["push left", "wait", "push right"]
        self.hints = list(self.actions)  # the phrases read as advice
        self._numbers = NumberReader(self.env_id, ("car position", "car velocity"))

    def describe(self, observation: object) -> str:
        car, speed = self._numbers.read(observation)
        return f"car {uniform_bin(car, -1.2, 0.6)} speed {signed_bin(speed, 0.07)}"  # the environment's own bounds

    def legal_actions(self, observation: object) -> list[int]:
        return [0, 1, 2]


class Acrobot:
    """Angle and turning speed of the upper link, and of the joint between the links.

    Angles are 20 where the links hang straight down and rise as a link swings to the right;
    straight up is 0 as well as 40. Torque +1 at the joint swings the lower link to the right.
    """

    env_id = "Acrobot-v1"
    task = "Swing the tip above the line."

    def __init__(self) -> None:
        self.actions = ["twist left", "wait", "twist right"]
        self.hints = list(self.actions)  # the phrases read as advice
        angles = ("cosine of angle 1", "sine of angle 1", "cosine of angle 2", "sine of angle 2")
        self._numbers = NumberReader(self.env_id, (*angles, "angular velocity 1", "angular velocity 2"))

    def describe(self, observation: object) -> str:
        cosine_1, sine_1, cosine_2, sine_2, turn, twist = self._numbers.read(observation)
        upper, joint = atan2(sine_1, cosine_1), atan2(sine_2, cosine_2)
        # 4 pi and 9 pi are the environment's own bounds
        return (
            f"upper {signed_bin(upper, pi)} turn {signed_bin(turn, 4 * pi)} "
            f"joint {signed_bin(joint, pi)} twist {signed_bin(twist, 9 * pi)}"
        )

    def legal_actions(self, observation: object) -> list[int]:
        return [0, 1, 2]
