"""The fixed names at the end of the wire contract: commands, settings, what Python programs import.

What is marked as of a later version is refused today; its mark goes when it comes.
"""

import importlib
import inspect

import gymnasium
import pytest

from hintwise import AsyncClient, Client
from hintwise.describers import describer_for
from service.settings import Settings
from worker import seeds
from worker.__main__ import main
from worker.command_line import read_config
from worker.config import EvaluateConfig, TrainConfig

SETTINGS = {
    "HOST": "::1",
    "PORT": "8123",
    "MODEL": "./m",
    "READOUT": "phrase",
    "GUIDANCE": "./g",
    "SCORER_MODEL": "./s",
    "WEIGHTS_DIR": "w",
    "TOKENS_FILE": "t",
    "MAX_BATCH_TOKENS": "512",
    "NUM_THREADS": "2",
}


def later(*values):
    """Marks what this version refuses."""
    return pytest.param(*values, marks=pytest.mark.xfail(reason="of a later version"))


def train(*flags, **environ):
    return read_config(TrainConfig, ["--env-id", "CartPole-v1", *flags], prog="train", environ=environ)


def evaluate(*flags):
    return read_config(EvaluateConfig, ["runs/x", *flags], prog="evaluate", environ={})


# Commands and settings


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_service_are_variables(monkeypatch, name):
    """flags = HINTWISE_HOST, HINTWISE_PORT, HINTWISE_MODEL, ...; also HINTWISE_WEIGHTS_DIR, ..."""
    monkeypatch.setenv(f"HINTWISE_{name}", SETTINGS[name])
    assert str(getattr(Settings(), name.lower())) == SETTINGS[name]


def test_the_readouts():
    """--readout phrase|head"""
    assert Settings(readout="head", head_actions="go,wait").readout == "head"
    with pytest.raises(ValueError, match="'phrase' or 'head'"):
        Settings(readout="guess")


@pytest.mark.parametrize("model", ["embedded", "someone/gpt2", "./directory", "model.gguf"])
def test_a_model_is_named_like_this(model):
    """`M` is `embedded`, a hub id, a directory or a GGUF file."""
    assert Settings(model=model, guidance=model, scorer_model=model).guidance == model
    assert {Settings().model, Settings().guidance, Settings().scorer_model} == {"embedded"}


@pytest.mark.parametrize("source", [later("openai:http://127.0.0.1:1"), later("scripted"), later("file:hints.json")])
def test_guidance_comes_from_elsewhere_too(source):
    """`G` is `embedded`, any `M`, `openai:<base-url>`, `scripted`, `file:PATH`."""
    assert Settings(guidance=source).guidance == source


def test_flags_of_train():
    """train --env-id X [--total-steps N] [--seed S] [--run-dir D] [--service-url U] [--model M] [--device ...] ..."""
    flags = "--total-steps 4096 --seed 3 --run-dir d --service-url http://h:1 --model m --device cuda --resume"
    config = train(*flags.split())
    assert (config.env_id, config.total_steps, config.seed, str(config.run_dir)) == ("CartPole-v1", 4096, 3, "d")
    assert (config.service_url, config.model, config.device, config.resume) == ("http://h:1", "m", "cuda", True)


def test_total_steps_shortens_the_run():
    """`HINTWISE_TOTAL_STEPS` shortens the run"""
    assert train(HINTWISE_TOTAL_STEPS="4096").total_steps == 4096


@pytest.mark.parametrize("algorithm", ["ppo", "a2c", "dqn", "sarsa"])
def test_algorithms(algorithm):
    """[--algorithm ppo|a2c|dqn|sarsa]"""
    assert train("--algorithm", algorithm).algorithm == algorithm


@pytest.mark.parametrize("guidance", ["none", "observation", "reward", "both"])
def test_guidance_of_a_run(guidance):
    """[--guidance none|observation|reward|both]"""
    assert train("--guidance", guidance).guidance == guidance


def test_flags_of_evaluate():
    """evaluate RUN_DIR [--episodes 100] [--seed S] [--greedy] [--guidance none|...]"""
    config = evaluate("--seed", "900123", "--greedy", "--guidance", "observation")
    assert config.guidance == "observation"
    assert (str(config.run_dir), config.episodes, config.seed, config.greedy) == ("runs/x", 100, 900_123, True)


@pytest.mark.parametrize("verb", ["train", "evaluate", "plot", "describe", "pretrain", "sweep", "report", "record"])
def test_verbs(verb, capsys):
    """python -m worker train | evaluate | plot | describe | pretrain | sweep | report"""
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"python -m worker {verb}" in capsys.readouterr().out


def test_seeds():
    """training < 500,000; validation 500,000-899,999; evaluation >= 900,000, episode i uses S + i"""
    assert (seeds.NUM_TRAINING_SEEDS, seeds.FIRST_VALIDATION_SEED) == (500_000, 500_000)
    assert evaluate().seed == seeds.FIRST_EVALUATION_SEED == 900_000
    assert train("--seed", "499999").seed == 499_999
    for refused in (lambda: train("--seed", "500000"), lambda: evaluate("--seed", "499999")):
        with pytest.raises(Exception, match="seed"):
            refused()


# Python


def test_clients():
    """Client(base_url, token=None).act(...), .guidance(...), .reward(...), .weights(), .put_weights(...)"""
    for kind in (Client, AsyncClient):
        base_url, token, *_ = inspect.signature(kind).parameters.values()
        assert (base_url.name, token.name, token.default) == ("base_url", "token", None)
    for name in ("act", "guidance", "reward", "weights", "put_weights"):
        asked, awaited = (inspect.signature(getattr(kind, name)).parameters for kind in (Client, AsyncClient))
        assert list(asked) == list(awaited)
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name))


@pytest.mark.parametrize("described", ["Taxi-v4", gymnasium.make("Taxi-v4")], ids=["id", "environment"])
def test_describers(described):
    """describer_for(env_or_env_id): .describe(observation) -> str, .actions -> list[str], .task, .legal_actions"""
    describer = describer_for(described)
    assert isinstance(describer.describe(458), str)
    assert isinstance(describer.task, str)
    assert [describer.actions[k] for k in (0, 5)] == ["move south", "drop off"]  # k names env action k
    assert list(describer.legal_actions(458)) == [1, 3]


@pytest.mark.parametrize("name", ["DescribeObservation", "HintObservation", "GuidanceReward"])
def test_wrappers(name):
    """from hintwise.wrappers import DescribeObservation, HintObservation, GuidanceReward"""
    assert issubclass(getattr(importlib.import_module("hintwise.wrappers"), name), gymnasium.Wrapper)
    assert issubclass(
        getattr(importlib.import_module("hintwise.wrappers.vector"), name), gymnasium.vector.VectorWrapper
    )
