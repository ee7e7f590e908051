"""The examples, for a few hundred steps, against a service of this test."""

import re
import subprocess
import sys

import pytest

from tests.e2e.processes import ROOT, running_service


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("weights"), "--port", "0") as url:
        yield url


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stable_baselines3_ppo.py", r"return without guidance, 20 episodes: \d\.\d\d; the service failed 0 times"),
        ("cleanrl_style_ppo.py", r"return without hints, 20 episodes: \d+\.\d"),
    ],
)
def test_an_example_trains_with_the_service_in_the_loop(url, name, says):
    command = [sys.executable, f"examples/{name}", "--service-url", url, "--steps", "600"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert re.search(says, ended.stdout)


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {
        "stable_baselines3_ppo.py",
        "cleanrl_style_ppo.py",
    }
