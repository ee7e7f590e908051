import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.settings import Settings
from worker.__main__ import main
from worker.algorithms.hyperparameters import PPOHyperparameters
from worker.command_line import build_parser, read_config
from worker.config import DescribeConfig, EvaluateConfig, PlotConfig, TrainConfig
from worker.errors import UsageError
from worker.same_run import check_same_run


def read(*arguments, config=TrainConfig, **environ):
    return read_config(config, arguments, prog="python -m worker train", environ=environ)


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return str(path)

    return write


def test_defaults():
    config = read("--env-id", "CartPole-v1")
    assert (config.total_steps, config.num_envs, config.num_steps, config.update_epochs) == (100_000, 8, 128, 6)
    assert config.num_updates == 97
    assert str(config.directory) == "runs/CartPole-v1-ppo-seed1"


def test_the_value_scale_follows_the_discount_unless_it_is_given():
    assert read("--env-id", "A-v0", "--gamma", "0.99").initial_value_scale == pytest.approx(50)
    assert read("--env-id", "A-v0", "--gamma", "0.99", "--value-scale", "7").initial_value_scale == 7


def test_the_documented_defaults_are_the_defaults():
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    documented = dict(re.findall(r"\| `(\w+)` \| ([0-9][0-9.e-]*)(?:,[^|]*)? \|", text))
    assert {"num_envs", "learning_rate", "gamma", "clip_coef"} <= documented.keys()
    for name, number in documented.items():
        assert PPOHyperparameters.model_fields[name].default == float(number), name


def test_a_run_directory_has_no_slash_from_the_environment():
    assert str(read("--env-id", "ALE/Pong-v5", "--seed", "2").directory) == "runs/ALE-Pong-v5-ppo-seed2"


def test_a_flag_wins_over_the_environment_wins_over_the_file_wins_over_the_default(file):
    path = file("env_id = 'A-v0'\ngamma = 0.1\nseed = 10\nnum_envs = 2\n")
    config = read("--config", path, "--gamma", "0.3", HINTWISE_GAMMA="0.2", HINTWISE_SEED="20")
    assert (config.gamma, config.seed, config.num_envs, config.num_steps) == (0.3, 20, 2, 128)


def test_an_empty_variable_counts_as_none():
    assert read("--env-id", "A-v0", HINTWISE_SEED="").seed == 1


@pytest.mark.parametrize(("arguments", "expected"), [(["--resume"], True), (["--no-resume"], False), ([], True)])
def test_switches(arguments, expected):
    assert read("--env-id", "A-v0", *arguments, HINTWISE_RESUME="true").resume is expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--totl-steps", "5"], "unknown argument --totl-steps; did you mean --total-steps?"),
        (["stray"], "unknown argument stray"),
        (["--total-steps"], "argument --total-steps: expected one argument"),
        (["--total-steps", "0"], "--total-steps 0: input should be greater than or equal to 1"),
        (["--total-steps", "many"], "--total-steps many: input should be a valid integer"),
        (["--algorithm", "magic"], "--algorithm magic: input should be 'ppo'"),
        (["--readout", "heads"], "--readout heads: input should be 'phrase' or 'head'"),
        (["--gamma", "1"], "--gamma 1: input should be less than 1"),
        (["--learning-rate", "nan"], "--learning-rate nan: input should be a finite number"),
        (["--seed", "500000"], "--seed 500000: input should be less than 500000"),
        (["--service-url", "localhost:8000"], "--service-url localhost:8000: string should match"),
        (["--device", "tpu"], "--device tpu: string should match"),
        (["--request-timeout-s", "0"], "--request-timeout-s 0: input should be greater than 0"),
        (["--request-timeout-s", "601"], "--request-timeout-s 601: input should be less than or equal to 600"),
        (["--request-timeout-s", "nan"], "--request-timeout-s nan: input should be"),
        (
            ["--guidance-model", "m", "--service-url", "http://h:1"],
            "--guidance-model cannot change the service at --service-url; leave one of the two out",
        ),
        (["--total-steps", "1023"], "total_steps 1023 is less than one update: num_envs 8 x num_steps 128 = 1024"),
    ],
)
def test_wrong_flags_are_named(arguments, message):
    with pytest.raises(UsageError) as raised:
        read("--env-id", "A-v0", *arguments)
    assert message in str(raised.value)


def test_a_request_never_takes_longer_than_a_service_allows_unless_told_otherwise():
    allowed_s = Settings.model_fields["max_request_timeout_ms"].default / 1e3
    assert read("--env-id", "A-v0", "--request-timeout-s", str(allowed_s)).request_timeout_s == allowed_s


def resume(*arguments):
    """Goes on with a run that had the defaults, and these settings now."""
    was = read("--env-id", "A-v0").model_dump(mode="json")
    check_same_run(SimpleNamespace(config=was), read("--env-id", "A-v0", *arguments), {})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--request-timeout-s", "90"],
        ["--device", "cuda"],
        ["--guidance-model", "somebody/gpt2"],  # its weights are compared
    ],
)
def test_a_resumed_run_may_change_what_does_not_enter_its_numbers(arguments):
    resume(*arguments)


def test_a_missing_setting_is_named():
    with pytest.raises(UsageError, match="--env-id is missing"):
        read()


def test_a_missing_run_directory_is_named():
    with pytest.raises(UsageError, match="RUN_DIR is missing"):
        read(config=PlotConfig)


def test_a_wrong_variable_is_named():
    with pytest.raises(UsageError, match="HINTWISE_GAMMA=2: input should be less than 1"):
        read("--env-id", "A-v0", HINTWISE_GAMMA="2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("totl_steps = 5", "unknown setting totl_steps; did you mean total_steps?"),
        ("gamma = 2", "gamma = 2 in .*settings.toml: input should be less than 1"),
        ("gamma = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_named(file, text, message):
    with pytest.raises(UsageError, match=message):
        read("--env-id", "A-v0", "--config", file(text))


def test_a_missing_file_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.toml: No such file"):
        read("--env-id", "A-v0", "--config", "nowhere.toml")


def test_training_seeds_are_refused_for_evaluation():
    assert read("runs/a", config=EvaluateConfig).seed == 900_000
    with pytest.raises(UsageError, match="--seed 3: input should be greater than or equal to 500000"):
        read("runs/a", "--seed", "3", config=EvaluateConfig)


@pytest.mark.parametrize("config", [TrainConfig, EvaluateConfig, PlotConfig, DescribeConfig])
def test_help_explains_every_setting(config):
    text = build_parser(config, "python -m worker").format_help()
    for name, field in config.model_fields.items():
        assert field.description, name
        shown = name.upper() if name == "run_dir" and field.is_required() else f"--{name.replace('_', '-')}"
        assert shown in text
        if name.endswith("_s"):
            assert "in seconds" in field.description


def test_help_shows_the_choices_of_a_setting_that_may_be_left_out():
    assert "--readout phrase|head" in build_parser(TrainConfig, "python -m worker").format_help()


def test_a_failure_is_one_line_and_a_status(capsys):
    assert main(["train"]) == 2
    assert main(["fly"]) == 2
    assert main(["plot", "nowhere"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == ["python -m worker"] * 3


def test_help_is_printed_when_asked_for(capsys):
    assert main(["--help"]) == 0
    assert "evaluate" in capsys.readouterr().out
    assert main([]) == 2
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
