"""A worker's pushes carry a canary, and a service whose numbers differ refuses them."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from tests.e2e.forked import ROOT, Forked
from tests.e2e.processes import CARTPOLE, run_worker, stop

SHORT = (*CARTPOLE, "--num-envs", 2, "--num-steps", 16, "--minibatch-size", 16, "--update-epochs", 1)
SERVICE = """
import sys
from hintwise.policy import Policy
from service import policy_runner
from service.__main__ import main


class Imprecise(Policy):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        return output._replace(log_probs=output.log_probs - {error})


policy_runner.Policy = Imprecise
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("error", "status"), [("0.0", 0), ("1e-3", 1)])
def test_training_on_a_service_with_other_numbers_ends_at_the_first_push(tmp_path, error, status):
    code = SERVICE.format(error=error)
    flags = ("--weights-dir", str(tmp_path / "weights"), "--exit-with-parent", "--num-threads", "1")
    command = [sys.executable, "-c", code, *flags]
    process = Forked(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        url = process.stdout.readline().split()[-1]
        run = ("--run-dir", tmp_path / "run", "--total-steps", 64, "--service-url", url)
        ended = run_worker("train", *SHORT, *run)
        info = httpx.get(f"{url}/weights", timeout=30).json()
    finally:
        stop(process)
    assert ended.returncode == status, ended.stderr
    if not status:
        assert info["policy_version"] > 1
    else:
        assert info["policy_version"] == 1
        assert "hintwise.canary.log_probs[0][0]" in ended.stderr
        assert "Traceback" not in ended.stderr
