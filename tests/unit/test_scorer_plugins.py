"""Scorers of other packages: fake distributions on the path, as `pip install` leaves them."""

import pytest

from hintwise.errors import InvalidRequest, PluginUnusable
from hintwise.schemas import RewardItem
from service.reward_scorer import BUILT_IN_SCORERS, scorer_named
from service.scorer_plugins import installed_scorers

CODE = """
    from hintwise.prompts import action_prompt
    from hintwise.schemas import RewardResult


    class Confidence:
        def questions(self, item):
            return [(action_prompt(item.observation, hint=item.hint), tuple(item.actions))]

        def result(self, item, answers, gamma):
            return RewardResult(reward=max(answers[0]))


    class Halved:
        def questions(self, item):
            return []


    def broken():
        raise OSError("no\\nmodel file")
"""


@pytest.fixture
def install(install_plugins):
    """Installs a package that brings scorers."""
    return lambda package, **scorers: install_plugins(
        "hintwise.scorers", "plugged_scorers", CODE, package=package, **scorers
    )


def test_without_packages_there_are_the_built_in_ones():
    assert installed_scorers() == BUILT_IN_SCORERS


def test_a_package_brings_a_scorer(install):
    install("plugged", confidence="plugged_scorers:Confidence")
    scorers = installed_scorers()
    assert [*scorers] == [*BUILT_IN_SCORERS, "confidence"]
    scorer, item = scorer_named("confidence", scorers), RewardItem(hint="go", observation="x", actions=["go", "wait"])
    assert scorer.questions(item) == [("state: x\nhint: go\naction:", ("go", "wait"))]
    assert scorer.result(item, [[-0.1, -2.0]], 0.99).reward == -0.1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("plugged_scorers:broken", "OSError: no model file"),
        ("plugged_scorers:Halved", "it has no result"),
        ("plugged_scorers:Nothing", "AttributeError"),
        ("no_such_module:Scorer", "ModuleNotFoundError"),
    ],
)
def test_one_that_cannot_be_used_is_one_line_that_names_its_package(install, value, reason):
    install("plugged", strange=value)
    with pytest.raises(PluginUnusable) as raised:
        installed_scorers()
    message = str(raised.value)
    assert message.startswith(f"scorer 'strange' of package plugged ({value}) cannot be used: {reason}")
    assert message.endswith("repair plugged, or uninstall it")
    assert "\n" not in message


def test_a_name_that_is_taken_is_refused(install):
    install("plugged", alignment="plugged_scorers:Confidence")
    with pytest.raises(PluginUnusable, match="hintwise already has one of that name"):
        installed_scorers()


def test_two_packages_with_one_name_are_refused(install):
    install("first", confidence="plugged_scorers:Confidence")
    install("second", confidence="plugged_scorers:Confidence")
    with pytest.raises(PluginUnusable, match=r"of package second .* package first already has one of that name"):
        installed_scorers()


def test_an_unknown_scorer_is_refused_with_the_list(install):
    install("plugged", confidence="plugged_scorers:Confidence")
    with pytest.raises(InvalidRequest) as raised:
        scorer_named("nope", installed_scorers())
    assert raised.value.errors[0].message == "choose one of alignment, progress, confidence"
