"""Describers of other packages: a distribution on the path, as `pip install` leaves it."""

import sys
from functools import partial
from importlib.metadata import entry_points

import gymnasium
import pytest

from hintwise import plugins
from hintwise.describers import DESCRIBED_ENV_IDS, described_env_ids, describer_for, load_describers
from hintwise.describers.generic import GenericDescriber
from hintwise.errors import InvalidRequest, PluginUnusable

CODE = """
    from gymnasium import Env, spaces

    from hintwise.errors import InvalidRequest


    class Ladder(Env):
        observation_space = spaces.Discrete(5)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.rung = 0
            return self.rung, {}

        def step(self, action):
            self.rung = max(0, self.rung + (1 if action else -1))
            return self.rung, float(self.rung == 4), self.rung == 4, False, {}


    class LadderWords:
        env_id = "test/Ladder-v0"
        task = "Climb to the top."
        actions = ["climb down", "climb up"]

        def describe(self, observation):
            if not isinstance(observation, int):
                raise InvalidRequest("no rung")
            return f"on rung {observation}"

        def legal_actions(self, observation):
            return [1] if observation == 0 else [0, 1]


    class Mute:
        env_id, task, actions = "test/Ladder-v0", "Climb.", ["a", "b"]


    def broken():
        raise OSError("no\\nmap file")
"""


@pytest.fixture
def install(install_plugins):
    """Installs a package that brings describers."""
    return partial(install_plugins, "hintwise.describers", "plugged_worlds", CODE)


@pytest.fixture
def ladder(install, monkeypatch):
    """An environment that a package registers and describes."""
    install(**{"test/Ladder-v0": "plugged_worlds:LadderWords"})
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("test/Ladder-v0", entry_point="plugged_worlds:Ladder", max_episode_steps=20)
    return "test/Ladder-v0"


def test_a_package_describes_its_environment(ladder):
    assert describer_for(ladder).describe(3) == "on rung 3"
    assert describer_for(gymnasium.make(ladder)).actions == ["climb down", "climb up"]
    assert described_env_ids() == (*DESCRIBED_ENV_IDS, ladder)


def test_a_wrapper_that_changes_what_is_seen_takes_the_words_away(ladder):
    changed = gymnasium.wrappers.TransformObservation(
        gymnasium.make(ladder), lambda rung: rung % 2, gymnasium.spaces.Discrete(2)
    )
    assert isinstance(describer_for(changed), GenericDescriber)


def test_an_unknown_id_is_refused_with_the_package_s_among_the_known(ladder):
    with pytest.raises(InvalidRequest, match=r"did you mean test/Ladder-v0\?"):
        describer_for("test/Lader-v0")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("plugged_worlds:broken", "OSError: no map file"),
        ("plugged_worlds:Mute", "it has no describe and no legal_actions"),
        ("no_such_module:X", "ModuleNotFoundError"),
    ],
)
def test_one_that_cannot_be_used_is_one_line_that_names_its_package(install, value, reason):
    install(**{"Strange-v0": value})
    with pytest.raises(PluginUnusable) as raised:
        load_describers()
    assert str(raised.value).startswith(f"describer 'Strange-v0' of package plugged ({value}) cannot be used: {reason}")
    assert "\n" not in str(raised.value)


def test_nobody_describes_anew_what_this_package_describes(install):
    install(**{"CartPole-v1": "plugged_worlds:LadderWords"})
    with pytest.raises(PluginUnusable, match="hintwise already has one of that name"):
        load_describers()


def test_a_broken_package_takes_nothing_away_but_its_own_environment(install, ladder):
    install(package="other", **{"Strange-v0": "plugged_worlds:broken"})
    assert describer_for("CartPole-v1").env_id == "CartPole-v1"
    assert describer_for(ladder).env_id == ladder
    gymnasium.register("test/Nobodys-v0", entry_point="plugged_worlds:Ladder", max_episode_steps=20)
    assert isinstance(describer_for(gymnasium.make("test/Nobodys-v0")), GenericDescriber)
    with pytest.raises(InvalidRequest, match="Strange-v0"):  # it is among the known ids
        describer_for("Nobodys-v0")
    with pytest.raises(PluginUnusable, match="no map file"):
        describer_for("Strange-v0")


def test_packages_are_looked_for_once_and_their_code_runs_when_it_is_asked_for(install, monkeypatch):
    looked = []
    monkeypatch.setattr(plugins, "entry_points", lambda **group: (looked.append(group), entry_points(**group))[1])
    install(**{"test/Ladder-v0": "plugged_worlds:LadderWords"})
    assert "test/Ladder-v0" in described_env_ids()
    describer_for("CartPole-v1")
    assert "plugged_worlds" not in sys.modules
    assert describer_for("test/Ladder-v0").describe(1) == "on rung 1"
    assert len(looked) == 1
