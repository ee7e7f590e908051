"""Runs what experiment files ask for: what is missing, side by side, until all of it is there or a signal comes."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from hintwise.cores import usable_cores
from worker.durations import duration
from worker.errors import Interrupted, RunsFailed, UsageError
from worker.experiment_config import SweepConfig
from worker.experiments.child_run import TRAIN, ChildRun, Outcome, child_environ, is_finished
from worker.experiments.experiment import Experiment, PlannedRun, read_experiment
from worker.experiments.results import add_result, check_same_settings, held, write_plan
from worker.experiments.run_progress import progress_of
from worker.interrupt import StopRequest

POLL_S = 0.1
PROGRESS_EVERY_S = 30.0


def sweep(config: SweepConfig, *, command: Sequence[str] = TRAIN) -> None:
    """Trains what has not finished yet of every experiment, and says where the results are.

    Args:
        config: All settings.
        command: What trains a run; its flags follow.

    Raises:
        UsageError: A file is wrong, or a directory holds runs with other settings.
        SweepUnderWay: Another sweep is at work on one of the experiments.
        RunsFailed: Some runs failed; all others finished.
        Interrupted: SIGINT or SIGTERM; the runs were asked to save, and those that did not in time were killed.
    """
    experiments = _read_all(config.experiment_files, config.runs_dir)
    runs = [run for experiment in experiments for run in experiment.runs]
    for run in runs:
        check_same_settings(run)
    jobs = config.jobs or _jobs_that_fit(runs)
    if config.dry_run:
        _show_plan(runs, jobs)
        return
    _say_ignored()
    with ExitStack() as stack:
        locks = {experiment.name: stack.enter_context(held(experiment.directory)) for experiment in experiments}
        for experiment in experiments:
            write_plan(experiment)
        stop = stack.enter_context(StopRequest())
        work = _Work(runs, locks, jobs, config.run_timeout_s, command)
        try:
            work.do(stop.check)
        except Interrupted as error:
            detail = f"{error.detail}: {work.summary()}; the same command goes on from their last checkpoints"
            raise Interrupted(detail, signal_number=error.exit_status - 128) from error
    for experiment in experiments:
        print(experiment.directory)  # noqa: T201 (what `report` is told)
    if work.failed:
        names = "; ".join(run.name for run in work.failed)
        raise RunsFailed(f"{len(work.failed)} of {len(runs)} runs failed: {names}; the same command tries them again")


class _Work:
    """Runs that wait, run and have ended."""

    def __init__(
        self, runs: list[PlannedRun], locks: dict[str, int], jobs: int, timeout_s: float, command: Sequence[str]
    ) -> None:
        self.failed: list[PlannedRun] = []
        self._runs, self._locks, self._jobs = runs, locks, jobs
        self._timeout_s, self._command = timeout_s, command
        self._waiting = deque(runs)
        self._running: list[ChildRun] = []
        self._ended: Counter[str] = Counter()
        self._seconds: list[float] = []  # of those that finished
        self._last_progress = time.monotonic()

    def do(self, check: Callable[[], None]) -> None:
        """Works until nothing is left; what `check` raises ends it, once the runs have ended."""
        try:
            self._skip_finished()
            while self._waiting or self._running:
                check()
                self._start_more()
                self._collect()
                self._show_progress()
                time.sleep(POLL_S)
        finally:
            self._stop_all()

    def summary(self) -> str:
        """Returns how many runs are in which state."""
        counts = {**self._ended, "running": len(self._running), "waiting": len(self._waiting)}
        return f"{len(self._runs)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)

    def _skip_finished(self) -> None:
        """Leaves out what finished in an earlier sweep, and records what one that was killed did not."""
        finished = [run for run in self._runs if is_finished(run.run_dir)]
        for run in finished:
            add_result(_directory(run), run)
        self._waiting = deque(run for run in self._runs if run not in finished)
        self._ended["finished"] = len(finished)
        already = f", {len(finished)} finished already" if finished else ""
        _say(f"{len(self._runs)} runs{already}; up to {self._jobs} side by side")

    def _start_more(self) -> None:
        while self._waiting and len(self._running) < self._jobs:
            run = self._waiting.popleft()
            resumes = "goes on" if run.run_dir.exists() else "starts"
            child = ChildRun(run, timeout_s=self._timeout_s, lock_fd=self._locks[run.experiment], command=self._command)
            self._running.append(child)
            _say(f"{run.name}: {resumes}; its output goes to {child.log}")

    def _collect(self) -> None:
        for child in list(self._running):
            if (outcome := child.poll()) is not None:
                self._running.remove(child)
                self._note(child.run, outcome)

    def _note(self, run: PlannedRun, outcome: Outcome) -> None:
        self._ended[outcome.status] += 1
        if outcome.status == "finished":
            self._seconds.append(outcome.seconds)
            evaluation = add_result(_directory(run), run)["evaluation"]
            came_to = f"mean return {evaluation['mean_return']:.1f} in {duration(outcome.seconds)}"
            _say(f"{run.name}: finished, {came_to}; {self.summary()}{self._left()}")
        elif outcome.status == "stopped":
            _say(f"{run.name}: {progress_of(run)}; {outcome.detail}")
        else:
            self.failed.append(run)
            _say(f"{run.name}: {outcome.status}: {outcome.detail}; {self.summary()}")

    def _left(self) -> str:
        """Returns about how long the rest takes, should it take what the others took."""
        left = len(self._waiting) + len(self._running)
        if not left or not self._seconds:
            return ""
        mean_s = sum(self._seconds) / len(self._seconds)
        return f"; about {duration(mean_s * left / min(self._jobs, left))} left"

    def _show_progress(self) -> None:
        if time.monotonic() - self._last_progress >= PROGRESS_EVERY_S:
            self._last_progress = time.monotonic()
            for child in self._running:
                _say(f"{child.run.name}: {progress_of(child.run)}")

    def _stop_all(self) -> None:
        if self._running:
            _say(f"stopping {len(self._running)} runs; each is to save first")
        for child in self._running:
            child.ask_to_stop()
        while self._running:  # a child that does not stop is killed in time
            self._collect()
            time.sleep(POLL_S)


def _read_all(files: Sequence[Path], runs_dir: Path) -> list[Experiment]:
    experiments = [read_experiment(file, runs_dir) for file in files]
    names = Counter(experiment.name for experiment in experiments)
    for name, count in names.items():
        if count > 1:
            raise UsageError(
                f"{count} of the files are named {name}.toml, and would share {runs_dir / name}; rename one"
            )
    return experiments


def _jobs_that_fit(runs: Sequence[PlannedRun]) -> int:
    """Returns how many runs the cores allow, each with its threads and the one of its service; at least one."""
    return max(1, usable_cores() // max(run.config.num_threads + 1 for run in runs))


def _show_plan(runs: Sequence[PlannedRun], jobs: int) -> None:
    for run in runs:
        state = "finished" if is_finished(run.run_dir) else "to go on" if run.run_dir.exists() else "to start"
        print(f"{state}: python -m worker train {shlex.join(run.flags)}")  # noqa: T201
    _say(f"{len(runs)} runs, up to {jobs} side by side; nothing was started")


def _say_ignored() -> None:
    ignored = sorted(os.environ.keys() - child_environ().keys())
    if ignored:
        _say(f"{', '.join(ignored)}: not used; an experiment's settings come from its file alone")


def _directory(run: PlannedRun) -> Path:
    """Returns the directory of the run's experiment."""
    return run.run_dir.parents[1]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
