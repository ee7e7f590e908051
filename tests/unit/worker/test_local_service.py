"""The worker's own service, with a stand-in for the service in the child process."""

import os
import signal
import sys

import pytest
from pydantic_settings import CliApp

from service.settings import Settings
from worker import local_service
from worker.command_line import variable
from worker.config import TrainConfig
from worker.errors import LocalServiceFailed
from worker.local_service import MAX_RESTARTS, LocalService

STAND_IN = """
import os, sys, signal
arguments = dict(zip(sys.argv[1::1], sys.argv[2::1]))
if "fail" in arguments["--model"]:
    print("loading", file=sys.stderr)
    print("no such model", file=sys.stderr)
    sys.exit(1)
if "silent" in arguments["--model"]:
    signal.pause()
if "stubborn" in arguments["--model"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("some other line", flush=True)
port = int(arguments["--port"]) or 4711
print(os.environ.get("HINTWISE_TOKENS_FILE"), arguments["--num-threads"], os.getsid(0) == os.getpid(), flush=True)
print("told", arguments["--device"], arguments.get("--guidance"), flush=True)
print("inherited", sorted(name for name in os.environ if name.startswith("HINTWISE_")), flush=True)
print("readout", arguments["--readout"], arguments.get("--head-actions"), flush=True)
print(f"listening on http://127.0.0.1:{port}", flush=True)
signal.pause()
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    (tmp_path / "stand_in_service.py").write_text(STAND_IN)
    for name in [name for name in os.environ if name.startswith("HINTWISE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HINTWISE_TOKENS_FILE", "tokens")
    monkeypatch.setenv("HINTWISE_HEAD_ACTIONS", "of,another,run")
    monkeypatch.setenv("HINTWISE_HEAD_ENV_ID", "CartPole-v1")

    def made(model="embedded", **told):
        return LocalService(
            model=model,
            **told,
            weights_dir=tmp_path / "weights",
            log_path=tmp_path / "run" / "service.log",
            module="stand_in_service",
        )

    return made


def wait_for_end(service):
    service._process.wait(10)


def log_of(service):
    return service._log_path.read_text()


def test_it_listens_and_is_stopped_at_the_end(make):
    with make() as service:
        assert service.url == "http://127.0.0.1:4711"
        process = service._process
        assert process.poll() is None
        assert not service.revive()
    assert process.returncode == -signal.SIGTERM


def test_it_has_no_access_tokens_one_thread_and_a_session_of_its_own(make):
    with make() as service:
        assert "None 1 True" in log_of(service)


@pytest.mark.parametrize(
    ("head_actions", "said"),
    [(None, "readout phrase None"), (["left, up", "right"], 'readout head ["left, up", "right"]')],
)
def test_it_reads_actions_as_the_run_does_whatever_the_environment_says(make, head_actions, said):
    with make(head_actions=head_actions) as service:
        assert said in log_of(service)
        assert "inherited []" in log_of(service)


def test_settings_of_a_run_do_not_reach_it_by_the_environment_and_those_of_a_service_do(make, monkeypatch):
    for name in {*TrainConfig.model_fields, "max_cached_answers", "scorer_model"}:
        monkeypatch.setenv(variable(name), "both")
    with make() as service:
        assert "told cpu None" in log_of(service)
        assert "inherited ['HINTWISE_MAX_CACHED_ANSWERS', 'HINTWISE_SCORER_MODEL']" in log_of(service)


def test_it_is_told_where_to_run_and_which_model_writes_hints(make):
    with make(device="cuda:1", guidance_model="somebody/gpt2") as service:
        assert "told cuda:1 somebody/gpt2" in log_of(service)


def test_the_service_knows_what_it_is_told(make, monkeypatch):
    command = make(device="cuda:1", guidance_model="somebody/gpt2")._command
    monkeypatch.setattr(os, "environ", local_service._inherited())
    settings = CliApp.run(Settings, cli_args=command[3:])
    assert (settings.device, settings.num_threads, settings.guidance) == ("cuda:1", 1, "somebody/gpt2")
    devices = [settings.model_fields["device"].metadata[0].pattern for settings in (Settings, TrainConfig)]
    assert devices[0] == devices[1]


def test_it_is_killed_where_asking_does_not_help(make, monkeypatch):
    monkeypatch.setattr(local_service, "STOP_TIMEOUT_S", 0.1)
    with make("stubborn") as service:
        process = service._process
    assert process.returncode == -signal.SIGKILL


def test_one_that_died_is_started_again_on_the_same_port(make):
    with make() as service:
        first = service._process
        first.kill()
        wait_for_end(service)
        assert service.revive()
        assert service._process.pid != first.pid
        assert "--port 4711" in " ".join(service._process.args)
        assert service.num_restarts == 1


def test_one_that_dies_again_and_again_is_given_up(make):
    with make() as service:
        for _ in range(MAX_RESTARTS):
            service._process.kill()
            wait_for_end(service)
            assert service.revive()
        service._process.kill()
        wait_for_end(service)
        with pytest.raises(LocalServiceFailed, match=f"died {MAX_RESTARTS + 1} times"):
            service.revive()


def test_one_that_cannot_start_shows_the_end_of_its_log(make):
    with pytest.raises(
        LocalServiceFailed, match=r"ended before it listened; .*service.log ends with: loading \| no such model"
    ):
        make("fail").__enter__()


def test_one_that_stays_silent_is_stopped(make, monkeypatch):
    monkeypatch.setattr(local_service, "START_TIMEOUT_S", 0.2)
    service = make("silent")
    with pytest.raises(LocalServiceFailed, match="did not listen within"):
        service.__enter__()
    assert service._process is None


def test_it_runs_this_very_python(make):
    assert make()._command[:3] == [sys.executable, "-m", "stand_in_service"]
    assert "--exit-with-parent" in make()._command
