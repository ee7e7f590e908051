"""Environments in processes of their own: the same run, and an end for every kind of trouble."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import numpy as np
import pytest

from tests.unit.worker.runs import clockless, connecting
from worker import env_processes, open_envs
from worker.checkpoint import last_checkpoint
from worker.config import TrainConfig
from worker.env_processes import EnvProcesses, split
from worker.envs import TextEnvs
from worker.errors import EnvironmentFailed, EnvironmentNotReplayable, EnvironmentUnsupported
from worker.open_envs import chosen_workers, measured_step_s
from worker.train import train

SLOW = "tests.unit.worker.slow_env:TestSlow-v0"
NUM_ENVS = 5


@contextmanager
def processes(env_id=SLOW, **more):
    with closing(EnvProcesses(env_id, **{"num_envs": NUM_ENVS, "run_seed": 3, "num_processes": 2, **more})) as envs:
        yield envs


def seen(envs, step):
    return (
        [array.tolist() for array in (step.rewards, step.terminated, step.truncated)],
        step.final_states, step.finished, envs.states,
    )  # fmt: skip


def test_what_processes_step_is_what_the_worker_would_step_and_so_after_a_resume():
    here = TextEnvs(SLOW, num_envs=NUM_ENVS, run_seed=3)
    choices = np.random.default_rng(0).integers(3, size=(24, NUM_ENVS)).tolist()
    with processes() as there:
        assert (there.task, there.action_phrases, there.states) == (here.task, here.action_phrases, here.states)
        for row in choices[:12]:
            assert seen(there, there.step(row)) == seen(here, here.step(row))
        snapshot = there.snapshot()
        assert snapshot == here.snapshot()
    with processes(num_processes=3) as resumed:
        resumed.restore(*snapshot)
        for row in choices[12:]:
            assert seen(resumed, resumed.step(row)) == seen(here, here.step(row))


@pytest.mark.parametrize(("num_envs", "num_processes"), [(8, 2), (5, 2), (3, 7), (1, 1), (1_024, 256)])
def test_every_environment_has_one_process_and_no_process_is_idle(num_envs, num_processes):
    parts = split(num_envs, num_processes)
    assert [i for part in parts for i in part] == list(range(num_envs))
    assert len(parts) == min(num_envs, num_processes)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("raise", r"0 to 1 could not step: .* at step 3 of seed \d+ raised ZeroDivisionError: .*slow_env.py, line \d+"),
        ("die", r"the process of environments 0 to 1 ended by signal 9"),
        ("hang", r"the process of environments 0 to 1 did not step within 0.5 s; raise --env-timeout-s"),
    ],
)
def test_trouble_in_a_process_is_named_and_leaves_none_behind(trouble, message, monkeypatch):
    monkeypatch.setattr(env_processes, "STOP_TIMEOUT_S", 1.0)
    with processes(env_kwargs={"trouble": trouble}) as envs:
        started = [part.process for part in envs._parts]
        envs.step([0] * NUM_ENVS)
        envs.step([0] * NUM_ENVS)
        envs._timeout_s = 0.5 if trouble == "hang" else 60.0
        with pytest.raises(EnvironmentFailed, match=message):
            envs.step([0] * NUM_ENVS)
    assert not any(process.is_alive() for process in started)


def test_an_environment_that_cannot_be_used_is_the_same_error_as_in_the_worker():
    with pytest.raises(EnvironmentUnsupported, match="Pendulum-v1 has the action space"):
        EnvProcesses("Pendulum-v1", num_envs=2, run_seed=1, num_processes=2)


def test_an_episode_that_does_not_replay_is_the_same_error_as_in_the_worker():
    with processes() as envs:
        envs.step([0] * NUM_ENVS)
        episodes, num_begun = envs.snapshot()
        episodes[4].observation = -1
        with pytest.raises(EnvironmentNotReplayable, match="does not replay"):
            envs.restore(episodes, num_begun)


def test_processes_end_with_the_worker_even_in_the_middle_of_a_step():
    script = (
        "from worker.env_processes import EnvProcesses\n"
        "if __name__ == '__main__':\n"
        f"    envs = EnvProcesses({SLOW!r}, num_envs=2, run_seed=1, num_processes=2, env_kwargs={{'sleep_s': 60}})\n"
        "    print(*[part.process.pid for part in envs._parts], flush=True)\n"
        "    envs.step([0, 0])\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in worker.stdout.readline().split()]
    assert len(pids) == 2
    worker.kill()
    worker.wait(10)
    worker.stdout.close()
    until = time.monotonic() + 30
    while any(map(runs, pids)):
        assert time.monotonic() < until, "they outlive the worker"
        time.sleep(0.02)


def runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        return file.read().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def config(tmp_path, model_dir):
    return TrainConfig(
        env_id=SLOW, total_steps=96, num_envs=4, num_steps=8, minibatch_size=16, update_epochs=1,
        model=str(model_dir), run_dir=tmp_path / "run", env_workers=2,
    )  # fmt: skip


@pytest.fixture
def connect(make_service):
    return connecting(make_service)


def test_a_run_is_the_same_run_however_its_environments_are_stepped(config, connect, tmp_path):
    train(config, connect=connect)
    inside = config.model_copy(update={"run_dir": tmp_path / "inside", "env_workers": 0})
    train(inside, connect=connect)
    assert clockless(config.directory) == clockless(inside.directory)


def test_a_process_that_dies_ends_the_run_with_a_whole_checkpoint(config, connect):
    def killed(self, choices, step=EnvProcesses.step, calls=[]):  # noqa: B006 (counts over calls)
        calls.append(1)
        if len(calls) == 12:  # in the second rollout
            os.kill(self._parts[1].process.pid, signal.SIGKILL)
        return step(self, choices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EnvProcesses, "step", killed)
        with pytest.raises(EnvironmentFailed, match=r"s 2 to 3 ended by signal 9.*saved in .*step-000000032"):
            train(config, connect=connect)
    assert last_checkpoint(config.directory).name == "step-000000032"
    train(config.model_copy(update={"resume": True, "env_workers": 0}), connect=connect)
    assert [line["update"] for line in clockless(config.directory)] == [1, 2, 3]


@pytest.mark.filterwarnings("ignore:.*[Tt]he reward")  # gymnasium's own checker says it first
@pytest.mark.parametrize("env_workers", [0, 2])
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("raise", "ZeroDivisionError.*slow_env"),
        ("much", "ValueError: could not convert"),
        ("nan", "ValueError: the reward is nan"),
    ],
)
def test_an_environment_that_fails_ends_the_run_with_a_whole_checkpoint(config, connect, env_workers, trouble, said):
    config = config.model_copy(update={"env_kwargs": {"trouble": trouble}, "env_workers": env_workers})
    with pytest.raises(EnvironmentFailed, match=rf"at step \d of seed.* raised {said}.*saved in .*step-000000000"):
        train(config, connect=connect)
    assert last_checkpoint(config.directory).name == "step-000000000"


@pytest.mark.parametrize(
    ("step_s", "num_envs", "num_cores", "chosen"),
    [(0.0019, 8, 4, 0), (0.002, 8, 4, 4), (1.0, 3, 16, 3), (1.0, 8, 1, 0), (1.0, 1, 8, 0)],
)
def test_auto_takes_processes_where_a_step_is_slow_and_several_can_run(step_s, num_envs, num_cores, chosen):
    assert chosen_workers(step_s, num_envs=num_envs, num_cores=num_cores) == chosen


def test_auto_measures_a_few_steps_and_stops_when_they_take_long():
    clock = [0.0]

    def now():
        clock[0] += 0.1
        return clock[0]

    assert measured_step_s("CartPole-v1", {}, now=now) == pytest.approx(0.1)
    assert clock[0] < 1.0


@pytest.mark.parametrize(("step_s", "kind"), [(1e-5, TextEnvs), (0.02, EnvProcesses)])
def test_auto_says_what_it_measured_and_chose(config, monkeypatch, step_s, kind):
    monkeypatch.setattr(open_envs, "measured_step_s", lambda *_: step_s)
    monkeypatch.setattr(open_envs, "usable_cores", lambda: 2)
    said = []
    with closing(open_envs.open_envs(config.model_copy(update={"env_workers": "auto"}), said.append)) as envs:
        assert isinstance(envs, kind)
    where = "2 processes" if kind is EnvProcesses else "the worker itself"
    assert said == [f"a step of the environment takes {step_s * 1e3:.2g} ms: stepping in {where}"]
