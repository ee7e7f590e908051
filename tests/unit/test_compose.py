"""`compose.yaml` names settings that exist and hardens every service; to run it takes a container engine."""

import re
from pathlib import Path

import pytest
import yaml

from service.settings import Settings
from worker.config import TrainConfig

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
GPU = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = COMPOSE["services"]


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
@pytest.mark.parametrize(("name", "settings"), [("service", Settings), ("worker", TrainConfig)])
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


def test_the_length_of_the_run_is_a_variable():
    assert SERVICES["worker"]["environment"]["HINTWISE_TOTAL_STEPS"].startswith("${HINTWISE_TOTAL_STEPS:-")


@pytest.mark.parametrize("name", SERVICES)
def test_each_volume_is_declared_and_its_directory_has_an_owner(name):
    for volume in SERVICES[name].get("volumes", []):
        source, directory = volume.split(":")[:2]
        assert source in COMPOSE["volumes"]
        assert re.search(rf"install -d -o hintwise [^&]*{directory}\b", DOCKERFILE), directory
