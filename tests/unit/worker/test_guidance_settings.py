"""Settings of guidance that make no sense together are refused when they are read, and named."""

import pytest

from worker.command_line import read_config
from worker.config import EvaluateConfig, TrainConfig
from worker.errors import UsageError


def read(*arguments, config=TrainConfig, guidance="both"):
    given = ["--env-id", "CartPole-v1", "--guidance", guidance] if config is TrainConfig else ["runs/a"]
    return read_config(config, [*given, *arguments], prog="python -m worker train", environ={})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--guidance-reward", "bonus"], ["--guidance-reward bonus", "--hint-every 1"]),
        (["--guidance-reward", "bonus", "--hint-every", "0"], ["--guidance-reward bonus", "--hint-every 0"]),
        (["--guidance-reward", "potential", "--max-hints", "3"], ["--max-hints", "--hint-every 1"]),
        (["--hint-every", "done", "--max-hints", "3"], ["--max-hints", "--guidance-reward penalty"]),
        (
            ["--guidance-reward", "advice", "--hint-every", "done", "--max-hints", "3"],
            ["--max-hints", "--guidance-reward advice"],
        ),
        (["--guidance-cap", "0.4"], ["--guidance-cap", "--guidance-reward penalty"]),
        (["--faulty-guidance", "dies", "--hint-every", "done"], ["--faulty-guidance dies", "--hint-every N"]),
        (
            ["--guidance-reward", "potential", "--guidance-cap", "0.4"],
            ["--guidance-cap", "--guidance-reward potential"],
        ),
    ],
)
def test_what_makes_no_sense_together_is_refused_by_both_flags(arguments, named):
    with pytest.raises(UsageError) as raised:
        read(*arguments)
    for each in named:
        assert each in str(raised.value)


@pytest.mark.parametrize(
    ("guidance", "arguments", "named"),
    [
        ("none", ["--wrong-hints", "0.25"], "--wrong-hints 0.25"),
        ("none", ["--faulty-guidance", "dies"], "--faulty-guidance dies"),
        ("none", ["--faulty-guidance", "flatters"], "--faulty-guidance flatters"),
        ("observation", ["--faulty-guidance", "flatters"], "--faulty-guidance flatters"),
    ],
)
def test_a_fault_of_what_is_not_there_is_refused(guidance, arguments, named):
    """An experiment's condition with a fault, and without the guidance that has it, would look robust."""
    with pytest.raises(UsageError, match=named):
        read(*arguments, guidance=guidance)


@pytest.mark.parametrize("guidance", ["observation", "reward", "both"])
def test_a_fault_of_what_is_there_is_taken(guidance):
    assert read("--wrong-hints", "1", "--faulty-guidance", "dies", guidance=guidance).wrong_hints == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--guidance-reward", "bonus", "--hint-every", "done", "--max-hints", "3", "--guidance-cap", "0.4"],
        ["--guidance-reward", "potential", "--hint-every", "done", "--max-hints", "3"],
        ["--guidance-reward", "advice", "--guidance-cap", "0.4"],
        ["--hint-every", "done"],
    ],
)
def test_what_makes_sense_is_taken(arguments):
    assert read(*arguments).hint_every in (1, "done")


def test_where_nothing_is_paid_the_settings_of_what_is_may_stand():
    """So that the conditions of an experiment may share them, the unguided one included."""
    for guidance in ("none", "observation"):
        assert read("--guidance-reward", "bonus", guidance=guidance).guidance_reward == "bonus"


@pytest.mark.parametrize("config", [TrainConfig, EvaluateConfig])
def test_hints_are_held_for_steps_or_until_they_are_done(config):
    assert [read("--hint-every", each, config=config).hint_every for each in ("3", "0", "done")] == [3, 0, "done"]
    with pytest.raises(UsageError, match="--hint-every soon"):
        read("--hint-every", "soon", config=config)
    with pytest.raises(UsageError, match="--hint-every -1"):
        read("--hint-every=-1", config=config)


@pytest.mark.parametrize("cap", ["0", "-1", "inf", "nan"])
def test_a_cap_is_a_number_above_0(cap):
    with pytest.raises(UsageError, match="--guidance-cap"):
        read("--guidance-reward", "advice", f"--guidance-cap={cap}")
