"""Environments whose states have a hint, and whose rewards may pay for following it.

    step ──▶ the environments step ──▶ hints that are due ──▶ what the moves earned ──▶ rewards + weight * earned

Whether an episode's hints are right, and shown to the policy, is drawn when it begins, from the run's seed; the weight
of what is earned is settled then, too, so that it is the same at every step of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hintwise.advising.hints import HintSource
from worker.buffers import Floats
from worker.config import TrainConfig
from worker.envs import FinishedEpisode, VectorEnvs, VectorStep
from worker.guidance.earnings import Earnings, Move, earnings
from worker.guidance.faulty import Flatterer, mortal
from worker.guidance.gate import GuidedEpisode, gate_of
from worker.guidance.hints import Held, Hints, service_hints
from worker.guidance.progress import HowFar, Progress
from worker.guidance.settings import GuidanceSettings
from worker.seeds import hint_is_dropped, hint_is_wrong
from worker.served_policy import ServedPolicy
from worker.stopwatch import Stopwatch
from worker.text_env import EpisodeSnapshot, GuidanceSnapshot, State


class GuidedEnvs:
    """Adds guidance to N environments.

    Args:
        envs: Are stepped.
        source: Where hints come from.
        pays: What pays for following them; None: nothing does.
        settings: How.
        run_seed: Seed of the run.
        total_steps: Environment steps over which guidance may fall.
        stopwatch: Told when guidance is waited for.
        how_far: Says how far hints have been carried out; needed where they are held until they are done.
    """

    def __init__(
        self,
        envs: VectorEnvs,
        source: HintSource,
        pays: Earnings | None,
        settings: GuidanceSettings,
        *,
        run_seed: int,
        total_steps: int,
        stopwatch: Stopwatch,
        how_far: HowFar | None = None,
    ) -> None:
        self.num_envs, self.task, self.action_phrases = envs.num_envs, envs.task, envs.action_phrases
        source, pays = mortal(source, pays, settings.faulty_guidance, self._progress)
        self._envs, self._earnings, self._settings = envs, pays, settings
        self._run_seed, self._total_steps, self._stopwatch = run_seed, total_steps, stopwatch
        self._hints = Hints(source, envs.num_envs, settings.hint_every, how_far)
        self._episodes = [-1] * envs.num_envs  # that each environment has begun before this one; -1: none is on
        self._dropped = [False] * envs.num_envs
        self._propensities = [0.0] * envs.num_envs  # with which hints were to be shown when the episode began
        self._weights = [0.0] * envs.num_envs
        self._earned = [0.0] * envs.num_envs  # in the episode so far, whatever the weight
        self._returns = [0.0] * envs.num_envs  # the environment's own, in the episode so far
        self._paid = [0.0] * envs.num_envs  # in the episode so far, as rewards had it
        self._num_steps = 0  # of all environments together
        self._gate = gate_of(settings)
        every = range(envs.num_envs)
        self._draw(every)
        self._hints.follow(dict(enumerate(envs.states)), began=every)
        self._settle(every)

    @property
    def states(self) -> list[State]:
        return [self._advised(i, state, self._hints.now[i]) for i, state in enumerate(self._envs.states)]

    def step(self, choices: Sequence[int]) -> VectorStep:
        before = self.states
        outcome = self._envs.step(choices)
        self._num_steps += self.num_envs
        with self._stopwatch.on("guidance"):
            return self._guided(before, choices, outcome)

    def snapshot(self) -> tuple[list[EpisodeSnapshot], list[int]]:
        episodes, num_begun = self._envs.snapshot()
        guided = [each.model_copy(update={"guidance": self._remembered(i)}) for i, each in enumerate(episodes)]
        return guided, num_begun

    def restore(self, episodes: Sequence[EpisodeSnapshot], num_begun: Sequence[int]) -> None:
        self._envs.restore(episodes, num_begun)
        self._episodes = [number - 1 for number in num_begun]
        for i, episode in enumerate(episodes):
            if episode.guidance is not None:
                self._take_back(i, episode.guidance)
            self._returns[i] = episode.episode_return
        if episodes[0].guidance is not None:
            number, ended = episodes[0].guidance.gate
            self._gate.restore(number, [GuidedEpisode(*each) for each in ended])

    def close(self) -> None:
        self._envs.close()

    def _guided(self, before: Sequence[State], choices: Sequence[int], outcome: VectorStep) -> VectorStep:
        ended = np.flatnonzero(outcome.terminated | outcome.truncated).tolist()
        may_have_ended = [self._so_far(i) for i in range(self.num_envs)]
        was, behind = list(self._hints.now), self._hints.behind(outcome.final_states)
        finals = {i: self._advised(i, state, behind[i]) for i, state in outcome.final_states.items()}
        self._draw(ended)
        self._hints.follow(dict(enumerate(self._envs.states)), began=ended)
        now, held = self.states, self._hints.now
        moves = {}
        for i, choice in enumerate(choices):
            after = (finals.get(i), behind.get(i, was[i])) if i in ended else (now[i], held[i])
            moves[i] = Move(before[i], before[i].actions[choice], after[0], was[i], after[1])
        shaping = self._pay(moves)
        self._returns = [so_far + float(paid) for so_far, paid in zip(self._returns, outcome.rewards, strict=True)]
        finished = self._end_episodes(outcome.finished, may_have_ended)
        self._settle(ended)
        return outcome._replace(
            rewards=outcome.rewards + shaping,
            final_states=finals,
            finished=finished,
            shaping=shaping,
            trust=self._gate.value,
            hint_share=self._hint_share,
        )

    def _pay(self, moves: Mapping[int, Move]) -> Floats:
        """Returns what is added to each reward: what was earned, as far as the episode's cap goes."""
        shaping, cap = np.zeros(self.num_envs), self._settings.shaping_cap
        for i, earned in (self._earnings.follow(moves) if self._earnings else {}).items():
            wanted = self._weights[i] * earned
            shaping[i] = min(max(wanted, -cap - self._paid[i]), cap - self._paid[i])
            self._earned[i] += earned
            self._paid[i] += float(shaping[i])
        return shaping

    def _end_episodes(
        self, finished: Sequence[FinishedEpisode], were: Sequence[GuidedEpisode]
    ) -> list[FinishedEpisode]:
        """Returns episodes that ended, with whether they were shown hints; the gate hears of all.

        Args:
            finished: The environments' account of them.
            were: Of every environment, the episode that was on before the step.
        """
        for i, episode_return, length, _ in finished:
            self._gate.note(were[i]._replace(earned=self._earned[i] / length, episode_return=episode_return))
            self._earned[i] = self._paid[i] = self._returns[i] = 0.0
        running = set(range(self.num_envs)) - {each.env_index for each in finished}
        self._gate.look([self._so_far(i) for i in sorted(running)])
        return [each._replace(hinted=were[each.env_index].shown) for each in finished]

    def _so_far(self, i: int) -> GuidedEpisode:
        earned = self._earned[i] / max(1, self._hints.now[i].age)
        return GuidedEpisode(not self._dropped[i], earned, self._returns[i], self._propensities[i])

    def _draw(self, began: Sequence[int]) -> None:
        """Draws which of the episodes that begin have wrong hints, and whose hints are not shown."""
        share = self._hint_share
        for i in began:
            self._episodes[i] += 1
            self._dropped[i] = hint_is_dropped(self._run_seed, i, self._episodes[i], probability=1 - share)
            self._propensities[i] = share
            self._hints.wrong[i] = self._is_wrong(i)

    def _settle(self, began: Sequence[int]) -> None:
        """Settles the weight of the episodes that begin."""
        left = self._settings.guidance_left(self._progress())
        for i in began:
            self._weights[i] = self._settings.guidance_weight * left * self._gate.value
        states = self.states
        if self._earnings and began:
            self._earnings.begin({i: states[i] for i in began})

    @property
    def _hint_share(self) -> float:
        """The probability that an episode which begins next shows the policy its hints."""
        settings = self._settings
        return (1 - settings.hint_dropout) * self._gate.shows if settings.shows_hints else 0.0

    def _progress(self) -> float:
        """Returns the share of the run that has passed."""
        return self._num_steps / self._total_steps

    def _is_wrong(self, i: int) -> bool:
        return hint_is_wrong(self._run_seed, i, self._episodes[i], probability=self._settings.wrong_hints)

    def _advised(self, i: int, state: State, held: Held) -> State:
        return state._replace(advice=held.hint, hint=None if self._dropped[i] else held.hint or None)

    def _remembered(self, i: int) -> GuidanceSnapshot:
        return GuidanceSnapshot(
            **self._hints.now[i]._asdict(),
            dropped=self._dropped[i],
            propensity=self._propensities[i],
            weight=self._weights[i],
            memory=self._earnings.memory(i) if self._earnings else 0.0,
            earned=self._earned[i],
            paid=self._paid[i],
            num_steps=self._num_steps,
            gate=self._gate.state(),
        )

    def _take_back(self, i: int, was: GuidanceSnapshot) -> None:
        self._hints.now[i] = Held(was.hint, was.goal, was.age, was.held, was.completed)
        self._dropped[i] = was.dropped
        self._propensities[i] = 1 - self._settings.hint_dropout if was.propensity is None else was.propensity
        self._weights[i], self._num_steps = was.weight, was.num_steps
        self._hints.wrong[i] = self._is_wrong(i)
        self._earned[i], self._paid[i] = was.earned, was.paid
        if self._earnings:
            self._earnings.remember(i, was.memory)


def guided(envs: VectorEnvs, config: TrainConfig, served: ServedPolicy) -> VectorEnvs:
    """Returns the environments of a run with the guidance that its settings ask for, by the service it trains on."""
    if config.guidance == "none":
        return envs
    client, pays = served.client, None
    scorer = Flatterer() if config.faulty_guidance == "flatters" else client
    progress = Progress(scorer, envs.task)
    if config.pays_for_guidance:
        pays = earnings(config, scorer, envs.task, progress, gamma=config.gamma, num_envs=envs.num_envs)
    return GuidedEnvs(
        envs,
        service_hints(client, envs.task),
        pays,
        config,
        run_seed=config.seed,
        total_steps=config.total_steps,
        stopwatch=served.stopwatch,
        how_far=progress.of,
    )
