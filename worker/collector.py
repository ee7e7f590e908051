"""Collects rollouts: in turns with learning, or one ahead while it goes on.

    max_staleness 0     collect 0 ─ learn 0 ─ push ─ collect 1 ─ learn 1 ─ push ─ ...
    max_staleness 1     collect 0 ┬ learn 0 ───┬ push ┬ learn 1 ───┬ push ─ ...
                                  └ collect 1 ─┘      └ collect 2 ─┘

Whoever collects ahead does so in a thread of its own, which alone talks to the service until it is joined. Weights are
pushed between two rollouts and never within one, so that the same seed is the same run however the two threads race.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from worker.algorithms.algorithm import Worth
from worker.buffers import Behaviour, Rollout
from worker.envs import VectorEnvs
from worker.errors import CollectingCancelled
from worker.rollout import collect_rollout
from worker.served_policy import ServedPolicy
from worker.text_env import EpisodeSnapshot

EnvsSnapshot = tuple[list[EpisodeSnapshot], list[int]]


class Turn(NamedTuple):
    """What one rollout is collected by."""

    first_step: int  # environment steps of the run before it
    behaviour: Behaviour
    worth: Worth | None
    distill_share: float = 0.0
    staleness: int = 0  # updates between the weights that act and those that learn


class Collected(NamedTuple):
    rollout: Rollout
    snapshot: EnvsSnapshot  # where the environments stood behind it


class Collector:
    """Steps environments by what the service answers.

    Args:
        served: Chooses the actions.
        envs: Are stepped, and closed with this.
        num_steps: Vector steps of a rollout.
        run_seed: Seed of the run.
        prepare: Given the prompts of each step while they are being answered; not by a thread of its own.
    """

    def __init__(
        self,
        served: ServedPolicy,
        envs: VectorEnvs,
        *,
        num_steps: int,
        run_seed: int,
        prepare: Callable[[list[str]], object],
    ) -> None:
        self.envs = envs
        self._served = served
        self._num_steps, self._run_seed, self._prepare = num_steps, run_seed, prepare
        self.pending: Rollout | None = None
        """Collected and not yet taken."""
        self.snapshot: EnvsSnapshot = ([], [])
        """Where the environments stood when the last whole rollout ended: behind `pending`, where there is one."""
        self._ahead: Future[Collected] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._cancelled = threading.Event()

    def begin(self) -> None:
        """Notes where the environments stand before the first rollout."""
        self.snapshot = self.envs.snapshot()

    def restore(self, episodes: Sequence[EpisodeSnapshot], num_begun: Sequence[int], pending: Rollout | None) -> None:
        """Goes on from a checkpoint.

        Raises:
            EnvironmentNotReplayable: An episode went differently this time.
        """
        self.envs.restore(episodes, num_begun)
        self.pending = pending
        self.begin()

    def take(self, turn: Turn, before_step: Callable[[], None]) -> Rollout:
        """Returns the rollout that was collected ahead, or collects one now.

        Args:
            turn: How, if it is collected now.
            before_step: Called before each vector step then; whatever it raises ends the rollout.
        """
        rollout, self.pending = self.pending, None
        if rollout is None:
            rollout, self.snapshot = self._collect(turn, before_step, self._prepare)
        return rollout

    def start(self, turn: Turn) -> None:
        """Begins to collect a rollout in another thread, which uses the service and the environments until `join`."""
        self._threads = self._threads or ThreadPoolExecutor(1, thread_name_prefix="collector")
        self._ahead = self._threads.submit(self._collect, turn, self._check, lambda prompts: None)

    def join(self) -> None:
        """Waits for what `start` began, if anything; raises what ended it, and then nothing is pending."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            self.pending, self.snapshot = ahead.result()

    def close(self) -> None:
        """Ends what is under way at its next step, and the environments."""
        self._cancelled.set()
        if self._threads is not None:
            self._threads.shutdown(wait=True)
        self.envs.close()

    def _collect(
        self, turn: Turn, before_step: Callable[[], None], prepare: Callable[[list[str]], object]
    ) -> Collected:
        snapshots: list[EnvsSnapshot] = []

        def note_envs() -> None:
            with self._served.stopwatch.on("saving"):
                snapshots.append(self.envs.snapshot())

        rollout = collect_rollout(
            self._served,
            self.envs,
            num_steps=self._num_steps,
            first_step=turn.first_step,
            run_seed=self._run_seed,
            behaviour=turn.behaviour,
            worth=turn.worth,
            before_step=before_step,
            prepare=prepare,
            at_end=note_envs,
        )
        rollout.distill_share, rollout.staleness = turn.distill_share * rollout.trust, turn.staleness
        return Collected(rollout, snapshots[-1])

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise CollectingCancelled("the run ended while a rollout was being collected")
