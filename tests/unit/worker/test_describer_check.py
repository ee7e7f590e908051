"""`python -m worker describe --check`."""

import itertools
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from hintwise.errors import InvalidRequest
from hintwise.tokens import TextEncoder
from worker import text_env
from worker.config import DescribeConfig
from worker.describe import describe
from worker.describer_check import check
from worker.errors import DescriberWrong
from worker.text_env import TextEnv


@pytest.fixture
def encoder(embedded):
    return TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)


class Words:
    """A describer of CliffWalking that keeps every promise."""

    env_id, task, actions = "CliffWalking-v1", "Walk.", ["up", "right", "down", "left"]

    def describe(self, observation):
        if not isinstance(observation, int):
            raise InvalidRequest("no number")
        return f"at {observation}"

    def legal_actions(self, observation):
        return [0, 1]


def checked(monkeypatch, encoder, **changes):
    """Returns the account of `Words` with some of it changed."""
    monkeypatch.setattr(text_env, "describer_for", lambda env: type("Changed", (Words,), changes)())
    with closing(TextEnv("CliffWalking-v1")) as env:
        return check(env, encoder, num_steps=30, seed=1)


def test_one_that_keeps_its_promises_is_told_with_what_it_costs(monkeypatch, encoder):
    lines = checked(monkeypatch, encoder).splitlines()
    assert lines[0] == "CliffWalking-v1: nothing is wrong in 30 steps"
    assert "different texts" in lines[1]
    assert lines[3] == "tokens of an action: 1 to 1"


def test_a_longer_phrase_is_to_be_considered(monkeypatch, encoder):
    told = checked(monkeypatch, encoder, actions=["up", "right", "down", "go left then"])
    assert "'go left then' begins less likely" in told


NUMBERS = itertools.count()


def fickle(self, observation):
    return f"{Words.describe(self, observation)} {next(NUMBERS)}"


def failing(self, observation):
    if isinstance(observation, int):
        raise ZeroDivisionError("no way")
    return Words.describe(self, observation)


def picky(self, observation):
    return Words.describe(self, observation[0] if isinstance(observation, list) else observation)


def typed(self, observation):
    """Tells what JSON takes away."""
    if not isinstance(observation, int | np.integer):
        raise InvalidRequest("no number")
    return f"a {type(observation).__name__}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": ""}, "task is ''"),
        ({"actions": ["up", "right", "down"]}, "3 phrases for an environment of 4 actions"),
        ({"actions": ["up", "up", "down", "left"]}, "repeats itself"),
        ({"actions": ["up", "right\n", "down", "left"]}, "an action is called"),
        ({"describe": lambda self, observation: "here"}, "takes what is no observation"),
        ({"describe": lambda self, observation: f"at {observation + 0}"}, "raises TypeError"),
        ({"describe": lambda self, observation: Words.describe(self, observation) + "\n"}, "words on one line"),
        ({"describe": fickle}, "another the second time"),
        ({"describe": failing}, "cannot be had: ZeroDivisionError: no way"),
        ({"legal_actions": lambda self, observation: 1 // 0}, "cannot be had: ZeroDivisionError"),
        ({"describe": picky}, "describe([]) raises IndexError"),
        ({"legal_actions": lambda self, observation: []}, "is empty"),
        ({"legal_actions": lambda self, observation: [np.int64(1)]}, "Python's own int"),
        ({"env_id": "Other-v0"}, "env_id is 'Other-v0'"),
        ({"legal_actions": lambda self, observation: [0, 0]}, "distinct numbers from 0 to 3"),
        ({"legal_actions": lambda self, observation: [4]}, "distinct numbers from 0 to 3"),
    ],
)
def test_each_promise_is_checked(monkeypatch, encoder, changes, said):
    with pytest.raises(DescriberWrong, match="the describer of CliffWalking-v1 is wrong") as raised:
        checked(monkeypatch, encoder, **changes)
    assert said in str(raised.value)


def test_a_text_that_json_changes_is_wrong(monkeypatch, encoder):
    monkeypatch.setattr(TextEnv, "observation", property(lambda env: np.int64(env._observation)))
    with pytest.raises(DescriberWrong, match="comes as JSON"):
        checked(monkeypatch, encoder, describe=typed)


@pytest.mark.parametrize("env_id", ["gymnasium:CartPole-v1", "Acrobot-v1", "Taxi-v4", "MiniGrid-DoorKey-5x5-v0"])
def test_ours_are_right(env_id, capsys):
    describe(DescribeConfig(env_id=env_id, check=True, steps=200))
    assert "nothing is wrong in 200 steps" in capsys.readouterr().out


def test_the_describer_on_the_page_is_right(install_plugins, capsys):
    page = (Path(__file__).parents[3] / "docs" / "describers.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Blackjack" in block]
    install_plugins("hintwise.describers", "my_worlds", code, **{"Blackjack-v1": "my_worlds:Blackjack"})
    describe(DescribeConfig(env_id="Blackjack-v1", check=True, steps=50))
    assert "nothing is wrong in 50 steps" in capsys.readouterr().out
