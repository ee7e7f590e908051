"""The environments of a run in processes of their own, for where stepping takes longer than a pipe.

    choices ──split──▶ process 1: environments 0..3 ──┐
                  └──▶ process 2: environments 4..7 ──┴──joined──▶ one VectorStep

An episode's seed depends on its environment's number alone and everything arrives in that order,
so that a run is the same run however many processes step it. Every wait has a limit.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from multiprocessing.connection import Connection
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from worker import env_process
from worker.envs import FinishedEpisode, VectorStep
from worker.errors import EnvironmentFailed, EnvironmentNotReplayable, EnvironmentUnsupported, WorkerError
from worker.text_env import NO_ARGUMENTS, EpisodeSnapshot, State

STOP_TIMEOUT_S = 5.0
RAISED_AGAIN: Mapping[str, type[WorkerError]] = {
    kind.__name__: kind for kind in (EnvironmentUnsupported, EnvironmentNotReplayable)
}


class _Part(NamedTuple):
    """One process and the environments in it."""

    process: multiprocessing.process.BaseProcess
    connection: Connection
    indices: range

    def __str__(self) -> str:
        return f"the process of environments {self.indices[0]} to {self.indices[-1]}"


class EnvProcesses:
    """N copies of one environment, stepped by several processes.

    Args:
        env_id: Gymnasium id; `module:id` where a module has to be imported first.
        num_envs: N.
        run_seed: What every episode's seed is derived from.
        num_processes: At most N are started.
        env_kwargs: Arguments that each copy is made with.
        memory: Observations of the episode that each text remembers.
        timeout_s: Seconds that starting, or one step of all, may take.

    Raises:
        EnvironmentUnsupported: No environment has that id or takes these arguments, or its actions are not Discrete.
        EnvironmentFailed: A process ended or gave no answer; every method may raise it.
    """

    def __init__(
        self,
        env_id: str,
        *,
        num_envs: int,
        run_seed: int,
        num_processes: int,
        env_kwargs: Mapping[str, Any] = NO_ARGUMENTS,
        memory: int = 0,
        timeout_s: float = 300.0,
    ) -> None:
        self.num_envs = num_envs
        self._timeout_s = timeout_s
        self._parts: list[_Part] = []
        self._states: list[list[State]] = []
        settings = {
            "env_id": env_id,
            "num_envs": num_envs,
            "run_seed": run_seed,
            "env_kwargs": dict(env_kwargs),
            "memory": memory,
        }
        try:
            for indices in split(num_envs, num_processes):
                self._parts.append(_start(settings, indices))
            self.task, self.action_phrases = self._gather("start")[0]
        except BaseException:
            self.close()
            raise

    @property
    def num_processes(self) -> int:
        return len(self._parts)

    @property
    def states(self) -> list[State]:
        return [state for states in self._states for state in states]

    def step(self, choices: Sequence[int]) -> VectorStep:
        for part in self._parts:
            self._send(part, "step", [choices[i] for i in part.indices])
        return joined(self._gather("step"), [part.indices[0] for part in self._parts])

    def snapshot(self) -> tuple[list[EpisodeSnapshot], list[int]]:
        for part in self._parts:
            self._send(part, "snapshot")
        answers = self._gather("take a snapshot")
        return [e for episodes, _ in answers for e in episodes], [n for _, begun in answers for n in begun]

    def restore(self, episodes: Sequence[EpisodeSnapshot], num_begun: Sequence[int]) -> None:
        for part in self._parts:
            here = slice(part.indices.start, part.indices.stop)
            self._send(part, "restore", episodes[here], num_begun[here])
        self._gather("replay their episodes")

    def close(self) -> None:
        """Ends the processes: politely, then not."""
        for part in self._parts:
            with suppress(OSError):  # it has ended already
                part.connection.send((env_process.CLOSE, ()))
        until = monotonic() + STOP_TIMEOUT_S
        for process, connection, _ in self._parts:
            process.join(max(0.0, until - monotonic()))
            if process.is_alive():
                process.kill()
                process.join(STOP_TIMEOUT_S)
            connection.close()
        self._parts = []

    def _send(self, part: _Part, method: str, *arguments: object) -> None:
        try:
            part.connection.send((method, arguments))
        except OSError as error:
            raise self._ended(part) from error

    def _gather(self, what: str) -> list[Any]:
        """Returns what each process answers, in the order of the environments; the time is for all of them."""
        until = monotonic() + self._timeout_s
        answers, self._states = [], []
        for part in self._parts:
            if not part.connection.poll(max(0.0, until - monotonic())):
                raise EnvironmentFailed(
                    f"{part} did not {what} within {self._timeout_s:g} s; "
                    "raise --env-timeout-s if that is how slow they are"
                )
            try:
                message = part.connection.recv()
            except (EOFError, OSError) as error:
                raise self._ended(part) from error
            kind, answer, states = message
            if kind == env_process.FAILED:
                raise RAISED_AGAIN.get(answer, EnvironmentFailed)(
                    states if answer in RAISED_AGAIN else f"{part} could not {what}: {states}"
                )
            answers.append(answer)
            self._states.append(states)
        return answers

    def _ended(self, part: _Part) -> EnvironmentFailed:
        part.process.join(STOP_TIMEOUT_S)
        code = part.process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit status {code}"
        return EnvironmentFailed(f"{part} ended {how}; --env-workers 0 shows what it says in the worker itself")


def split(num_envs: int, num_processes: int) -> list[range]:
    """Returns the environments of each process: neighbours, as evenly as can be, none empty."""
    edges = np.linspace(0, num_envs, min(num_envs, num_processes) + 1).astype(int).tolist()
    return [range(begin, end) for begin, end in pairwise(edges)]


def joined(steps: Sequence[VectorStep], first_indices: Sequence[int]) -> VectorStep:
    """Returns the steps of neighbouring environments as one."""
    offsets = list(zip(first_indices, steps, strict=True))
    return VectorStep(
        rewards=np.concatenate([step.rewards for step in steps]),
        terminated=np.concatenate([step.terminated for step in steps]),
        truncated=np.concatenate([step.truncated for step in steps]),
        final_states={first + i: state for first, step in offsets for i, state in step.final_states.items()},
        finished=[
            FinishedEpisode(first + end.env_index, end.episode_return, end.length)
            for first, step in offsets
            for end in step.finished
        ],
    )


def _start(settings: Mapping[str, Any], indices: range) -> _Part:
    """Starts a process that inherits nothing: a fork would copy torch's threads in whatever state they are."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=env_process.run, args=(theirs, {**settings, "indices": indices}), daemon=True, name=f"envs-{indices[0]}"
    )
    process.start()
    theirs.close()  # so that its death is the end of the pipe
    return _Part(process, ours, indices)
