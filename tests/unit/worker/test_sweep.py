"""A sweep over real child processes, with a stand-in for what trains in them."""

import json
import os
import re
import signal
import sys
import time

import pytest

from worker.errors import Interrupted, RunsFailed, SweepUnderWay, UsageError
from worker.experiment_config import SweepConfig
from worker.experiments import child_run
from worker.experiments import sweep as sweep_module
from worker.experiments.child_run import ChildRun
from worker.experiments.experiment import read_experiment
from worker.experiments.results import held, read_results
from worker.experiments.run_progress import progress_of
from worker.experiments.sweep import sweep

PATIENCE_S = 60
STAND_IN = """
import json, os, pathlib, signal, sys, time

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
run_dir, does = pathlib.Path(flags["run-dir"]), flags["env-id"]
with (run_dir / "starts").open("a") as starts:
    starts.write("resumes " if "--resume" in sys.argv else "starts ")

def until(condition):
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)

def save(*_):
    if does == "cannot save":
        sys.exit("disk full")
    (run_dir / "saved").touch()
    sys.exit(143)

signal.signal(signal.SIGTERM, {"ignores": signal.SIG_IGN, "still imports": signal.SIG_DFL}.get(does, save))
(run_dir / "ready").touch()
if does == "fails" or (does == "fails once" and "--resume" not in sys.argv):
    print("first line")
    print("no such thing", file=sys.stderr)
    sys.exit(1)
if does == "meets":  # goes on once another runs beside it
    until(lambda: len(list(run_dir.parents[1].glob("*/*/ready"))) >= 2)
if does == "alone":
    lone = run_dir.parents[1] / "lone"
    lone.touch(exist_ok=False)
    time.sleep(0.05)
    lone.unlink()
if does == "signals":
    until(lambda: len(list(run_dir.parents[1].glob("*/*/ready"))) >= 2)
    os.kill(os.getppid(), signal.SIGTERM)
if does in ("waits", "signals", "ignores", "cannot save", "still imports"):
    until(lambda: False)
if does == "leaves":
    sys.exit(0)
evaluation = {"mean_return": 12.5}
config = {"env_id": does, "seed": int(flags["seed"])}
record = {"status": "finished", "config": config, "steps": 7, "evaluation": evaluation}
record |= {"wall_time_s": 1.5, "git_commit": "abc", "packages": {"python": "3"}, "seed": config["seed"]}
record["environ"] = os.environ.get("HINTWISE_TOTAL_STEPS")
(run_dir / "run.json").write_text(json.dumps(record))
"""


@pytest.fixture
def command(tmp_path):
    program = tmp_path / "stand_in.py"
    program.write_text(STAND_IN)
    return [sys.executable, str(program)]


@pytest.fixture
def write(tmp_path):
    def write(seeds="[1]", name="test", **conditions):
        tables = [f'[conditions.{condition}]\nenv_id = "{does}"' for condition, does in conditions.items()]
        file = tmp_path / f"{name}.toml"
        file.write_text("\n".join([f"seeds = {seeds}", *tables]))
        return file

    return write


@pytest.fixture
def run(tmp_path, command):
    """Sweeps as the command line does."""

    def run(*files, jobs=2, **settings):
        config = SweepConfig(experiment_files=list(files), runs_dir=tmp_path / "runs", jobs=jobs, **settings)
        sweep(config, command=command)

    return run


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs" / "test"


def starts(directory):
    return (directory / "starts").read_text().split()


def test_every_run_is_made_and_recorded(write, run, runs_dir, capsys):
    run(write("[1, 2]", a="finishes", b="finishes"))
    lines = read_results(runs_dir)
    assert sorted((line["condition"], line["seed"]) for line in lines) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    line = next(line for line in lines if (line["condition"], line["seed"]) == ("b", 2))
    assert line["path"] == str(runs_dir / "b" / "seed-2")
    assert line["evaluation"] == {"mean_return": 12.5}
    assert (line["steps"], line["wall_time_s"], line["git_commit"]) == (7, 1.5, "abc")
    assert line["packages"] == {"python": "3"}
    assert line["command"][:4] == ["python", "-m", "worker", "train"]
    assert "--seed=2" in line["command"]
    said = capsys.readouterr()
    assert said.out == f"{runs_dir}\n"
    assert "test: b, seed 2: finished, mean return 12.5 in 0:0" in said.err
    assert "4 runs: 4 finished" in said.err
    plan = json.loads((runs_dir / "experiment.json").read_text())
    assert (plan["seeds"], list(plan["conditions"])) == ([1, 2], ["a", "b"])


def test_what_has_finished_is_not_run_again_and_what_has_not_goes_on(write, run, runs_dir, capsys):
    file = write("[1, 2]", a="finishes", b="fails once")
    with pytest.raises(RunsFailed, match="2 of 4 runs failed: test: b, seed 1; test: b, seed 2; the same command"):
        run(file)
    (runs_dir / "results.jsonl").unlink()  # as if the sweep had been killed before it wrote
    run(file)
    assert starts(runs_dir / "a" / "seed-1") == ["starts"]
    assert starts(runs_dir / "b" / "seed-1") == ["starts", "resumes"]
    assert len(read_results(runs_dir)) == 4
    assert "4 runs, 2 finished already" in capsys.readouterr().err


def test_a_failed_run_ends_no_other_and_is_told_with_its_last_lines(write, run, runs_dir, capsys):
    with pytest.raises(RunsFailed) as raised:
        run(write(bad="fails", good="finishes"), jobs=1)
    assert raised.value.exit_status == 1
    said = capsys.readouterr().err
    log = runs_dir / "bad" / "seed-1" / "train.log"
    assert re.search(rf"bad, seed 1: failed: exit status 1; {log} ends with: .*no such thing", said)
    assert [line["condition"] for line in read_results(runs_dir)] == ["good"]


def test_the_lines_told_are_those_of_the_last_attempt(write, run, capsys):
    file = write(bad="fails")
    for _ in range(2):
        with pytest.raises(RunsFailed):
            run(file)
    assert capsys.readouterr().err.splitlines()[-1].count("no such thing") == 1


def test_exit_status_0_alone_is_not_finished(write, run, capsys):
    with pytest.raises(RunsFailed):
        run(write(a="leaves"))
    assert "failed: exit status 0" in capsys.readouterr().err


def test_two_run_side_by_side(write, run, runs_dir):
    run(write("[1, 2]", a="meets"), jobs=2)
    assert len(read_results(runs_dir)) == 2


def test_no_more_run_side_by_side_than_jobs(write, run, runs_dir):
    run(write("[1, 2, 3]", a="alone"), jobs=1)
    assert len(read_results(runs_dir)) == 3


@pytest.mark.parametrize(("cores", "threads", "jobs"), [(8, 1, 4), (2, 1, 1), (1, 1, 1), (8, 3, 2)])
def test_as_many_run_as_the_cores_allow(write, tmp_path, monkeypatch, cores, threads, jobs):
    file = write(a="x")
    file.write_text(f"num_threads = {threads}\n{file.read_text()}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert sweep_module._jobs_that_fit(read_experiment(file, tmp_path).runs) == jobs


def test_a_run_that_takes_too_long_is_saved_and_counts_as_failed(write, run, runs_dir, capsys):
    with pytest.raises(RunsFailed):
        run(write(slow="waits", good="finishes"), jobs=1, run_timeout_s=2)
    assert "slow, seed 1: timed out: asked to stop after 2 s; exit status 143; " in capsys.readouterr().err
    assert [line["condition"] for line in read_results(runs_dir)] == ["good"]


def test_a_signal_stops_every_run_and_says_how_to_go_on(write, run, runs_dir, capsys):
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM: 3 runs: 2 stopped, 1 waiting; the same command") as it:
        run(write("[1]", a="signals", b="waits", c="finishes"))
    assert it.value.exit_status == 128 + signal.SIGTERM
    assert (runs_dir / "a" / "seed-1" / "saved").exists()
    assert (runs_dir / "b" / "seed-1" / "saved").exists()
    assert not (runs_dir / "c").exists()
    assert "b, seed 1: no update yet; stopped and saved" in capsys.readouterr().err


def wait_for(condition):
    give_up = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    return found


@pytest.fixture
def child(write, runs_dir, command, tmp_path):
    """Starts one run whose process is ready."""
    made = []

    def child(does, lock_fd):
        planned = read_experiment(write(a=does), tmp_path / "runs").runs[0]
        made.append(ChildRun(planned, timeout_s=PATIENCE_S, lock_fd=lock_fd, command=command))
        wait_for((planned.run_dir / "ready").exists)
        return made[-1]

    yield child
    for each in made:
        each._process.kill()
        each._process.wait()


LATE = "killed, since it did not stop within 0.1 s"


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ([], "it has no checkpoint"),
        (["step-000001024", "step-000012288", ".writing-step-000013312"], "its last checkpoint is of step 12,288"),
        (["step-000001024", "step-damaged"], "its last checkpoint is of step 1,024"),
    ],
)
def test_a_run_that_does_not_stop_is_killed_and_told_where_it_can_go_on(child, runs_dir, monkeypatch, kept, left):
    monkeypatch.setattr(child_run, "STOP_TIMEOUT_S", 0.1)
    with held(runs_dir) as lock_fd:
        started = child("ignores", lock_fd)
        for name in kept:
            (started.run.run_dir / "checkpoints" / name).mkdir(parents=True)
        started.ask_to_stop()
        outcome = wait_for(started.poll)
    assert started._process.returncode == -signal.SIGKILL
    assert outcome.status == "stopped"
    assert outcome.detail.startswith(f"{LATE}; {left}; ")


def test_a_run_that_takes_too_long_and_does_not_stop_is_killed_and_told_so(child, runs_dir, monkeypatch):
    monkeypatch.setattr(child_run, "STOP_TIMEOUT_S", 0.1)
    with held(runs_dir) as lock_fd:
        started = child("ignores", lock_fd)
        started._timeout_s = 0
        outcome = wait_for(started.poll)
    assert outcome.status == "timed out"
    assert outcome.detail.startswith(f"asked to stop after 0 s; {LATE}; it has no checkpoint; ")


@pytest.mark.parametrize(
    ("does", "detail"),
    [
        ("cannot save", r"exit status 1; \S+ ends with: .*disk full"),
        ("still imports", r"ended by SIGTERM; it has no checkpoint; "),
    ],
)
def test_a_run_that_was_asked_to_stop_and_ended_otherwise_is_not_called_saved(child, runs_dir, does, detail):
    with held(runs_dir) as lock_fd:
        started = child(does, lock_fd)
        started.ask_to_stop()
        outcome = wait_for(started.poll)
    assert outcome.status == "stopped"
    assert re.match(detail, outcome.detail)


def test_a_run_that_somebody_else_killed_was_not_late(child, runs_dir):
    with held(runs_dir) as lock_fd:
        started = child("waits", lock_fd)
        started._process.kill()
        outcome = wait_for(started.poll)
    assert outcome.status == "failed"
    assert outcome.detail.startswith("killed; it has no checkpoint; ")


def test_a_sweep_says_which_runs_it_killed(write, run, monkeypatch, capsys):
    monkeypatch.setattr(child_run, "STOP_TIMEOUT_S", 1.0)
    with pytest.raises(Interrupted, match="2 runs: 2 stopped"):
        run(write(a="signals", b="ignores"))
    said = capsys.readouterr().err
    assert "a, seed 1: no update yet; stopped and saved" in said
    assert "b, seed 1: no update yet; killed, since it did not stop within 1 s; it has no checkpoint; " in said


def test_a_run_is_asked_to_stop_once(child, runs_dir, monkeypatch):
    with held(runs_dir) as lock_fd:
        started = child("waits", lock_fd)
        asked = []
        monkeypatch.setattr(started._process, "terminate", lambda: asked.append(1))
        started.ask_to_stop()
        started.ask_to_stop()
    assert asked == [1]


def test_two_sweeps_of_one_experiment_are_refused(write, run, runs_dir):
    file = write(a="finishes")
    with held(runs_dir), pytest.raises(SweepUnderWay, match=rf"held by another sweep \(process {os.getpid()}\)"):
        run(file)
    run(file)


def test_a_run_that_a_killed_sweep_left_behind_holds_the_experiment(child, runs_dir):
    with held(runs_dir) as lock_fd:
        started = child("waits", lock_fd)
    with pytest.raises(SweepUnderWay, match="or by a run that one which was killed left behind"), held(runs_dir):
        pass
    started.ask_to_stop()
    wait_for(started.poll)
    with held(runs_dir):
        pass


def test_variables_that_would_change_a_run_are_not_passed_on(write, run, runs_dir, monkeypatch, capsys):
    monkeypatch.setenv("HINTWISE_TOTAL_STEPS", "5")
    run(write(a="finishes"))
    assert json.loads((runs_dir / "a" / "seed-1" / "run.json").read_text())["environ"] is None
    assert (
        "HINTWISE_TOTAL_STEPS: not used; an experiment's settings come from its file alone" in capsys.readouterr().err
    )


def test_a_dry_run_starts_nothing(write, run, runs_dir, capsys):
    run(write("[1, 2]", a="finishes"), dry_run=True)
    said = capsys.readouterr()
    assert said.out.count("to start: python -m worker train --env-id=finishes --seed=") == 2
    assert "2 runs, up to 2 side by side; nothing was started" in said.err
    assert not runs_dir.exists()


def test_files_of_one_name_are_refused(write, run, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    file = write(a="finishes")
    second = file.rename(other / file.name)
    with pytest.raises(UsageError, match=r"2 of the files are named test\.toml"):
        run(write(a="finishes"), second)


def test_progress_is_read_from_the_last_whole_line(write, tmp_path):
    planned = read_experiment(write(a="x"), tmp_path / "runs").runs[0]
    assert progress_of(planned) == "no update yet"
    planned.run_dir.mkdir(parents=True)
    metrics = planned.run_dir / "metrics.jsonl"
    metrics.write_text('{"step": 1024, "mean_return": null}\n')
    assert progress_of(planned) == "1,024 of 100,000 steps, no episode yet"
    metrics.write_text('{"step": 1024, "mean_return": null}\n{"step": 2048, "mean_return": 21.25}\n{"step": 30')
    assert progress_of(planned) == "2,048 of 100,000 steps, mean return 21.2"
    metrics.write_text("x" * 70_000 + '\n{"step": 2048, "mean_return": 21.25}\n')
    assert progress_of(planned) == "2,048 of 100,000 steps, mean return 21.2"
