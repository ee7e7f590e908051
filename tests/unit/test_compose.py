"""`compose.yaml` names settings that exist and hardens every service; to run it takes a container engine."""

import re
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from worker.__main__ import VERBS
from worker.command_line import read_config
from worker.config import EvaluateConfig, TrainConfig
from worker.experiment_config import RecordConfig
from worker.seeds import FIRST_EVALUATION_SEED

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
GPU = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = COMPOSE["services"]
FILES = {"compose.yaml": [COMPOSE], "compose.gpu.yaml": [COMPOSE, GPU]}
IN_THE_WORKER = re.compile(r"^docker compose run --rm worker (\w+) ([^#\n]*)", re.MULTILINE)


def substituted(text, environ):
    """Returns a value of compose.yaml as compose passes it on: `${NAME:-default}` is the caller's variable."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environ.get(found[1]) or found[2], text)


def read_in_the_worker(verb, arguments, files, **environ):
    """Returns the settings that a verb reads in the worker's container."""
    container = {key: value for file in files for key, value in file["services"]["worker"]["environment"].items()}
    passed = {key: substituted(value, environ) for key, value in container.items()}
    return read_config(VERBS[verb][0], arguments, prog=verb, environ=passed)


def test_the_services_are_the_promised_ones():
    assert set(SERVICES) == {"access", "service", "worker", "tensorboard"}
    assert set(GPU["services"]) <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "user", "network_mode", "cap_add"} & set(service)
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "published on loopback only"
    target = service["build"]["target"]
    assert re.search(rf"^FROM runtime AS {target}$", DOCKERFILE, re.MULTILINE)


def test_no_image_runs_as_root():
    assert re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE) == ["hintwise"]


@pytest.mark.parametrize("file", [COMPOSE, GPU], ids=["compose.yaml", "compose.gpu.yaml"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("service", Settings), ("worker", TrainConfig), ("worker", EvaluateConfig), ("worker", RecordConfig)],
)
def test_every_variable_is_a_setting(file, name, settings):
    of_the_client = {"HINTWISE_TOKEN_FILE"}
    for variable in file["services"][name]["environment"]:
        assert variable in of_the_client or variable.removeprefix("HINTWISE_").lower() in settings.model_fields, (
            variable
        )


def test_each_waits_for_what_it_needs():
    assert SERVICES["service"]["depends_on"] == {"access": {"condition": "service_completed_successfully"}}
    assert SERVICES["worker"]["depends_on"] == {"service": {"condition": "service_healthy"}}
    assert "/readyz" in SERVICES["service"]["healthcheck"]["test"][-1]
    grace_s = int(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > Settings.model_fields["shutdown_timeout_s"].default


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
@pytest.mark.parametrize(
    ("environ", "total_steps", "seed"),
    [({}, 100_000, 1), ({"HINTWISE_TOTAL_STEPS": "2048", "HINTWISE_SEED": "3"}, 2_048, 3)],
)
def test_the_length_of_the_run_and_its_seed_are_variables(files, environ, total_steps, seed):
    verb, *arguments = [substituted(word, environ) for word in SERVICES["worker"]["command"]]
    config = read_in_the_worker(verb, arguments, files, **environ)
    assert (config.env_id, config.total_steps, config.seed) == ("CartPole-v1", total_steps, seed)
    assert (config.service_url, config.resume) == ("http://service:8000", True)


@pytest.mark.parametrize("files", FILES.values(), ids=FILES)
@pytest.mark.parametrize("verb", ["evaluate", "record"])
def test_other_verbs_read_nothing_that_is_for_training_alone(verb, files):
    config = read_in_the_worker(verb, ["runs/cartpole"], files, HINTWISE_TOTAL_STEPS="2048", HINTWISE_SEED="3")
    assert (config.service_url, config.seed) == ("http://service:8000", FIRST_EVALUATION_SEED)


def test_the_documented_commands_have_settings_that_can_be_read():
    documented = IN_THE_WORKER.findall((ROOT / "docs" / "containers.md").read_text())
    assert "evaluate" in [verb for verb, _ in documented]
    for verb, arguments in documented:
        read_in_the_worker(verb, arguments.split(), [COMPOSE])


@pytest.mark.parametrize("name", SERVICES)
def test_each_volume_is_declared_and_its_directory_has_an_owner(name):
    for volume in SERVICES[name].get("volumes", []):
        source, directory = volume.split(":")[:2]
        assert source in COMPOSE["volumes"]
        assert re.search(rf"install -d -o hintwise [^&]*{directory}\b", DOCKERFILE), directory
