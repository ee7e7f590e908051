"""One run in progress: the policy, its environments, and how both reach a checkpoint.

    run_update:  take a rollout ──▶ algorithm ──▶ boundary ──▶ push
                 `Collector` collects it now, or has while the last update learned

The boundary between two updates is the only place a run is saved at. What it needs is noted
there, so that a run which fails in the middle of a rollout still leaves a whole checkpoint.
An update's time begins where the one before was reported, so that its parts add up to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from hintwise.canary import METADATA_KEY, canary_of
from hintwise.language_model import load_language_model
from hintwise.policy import Policy
from hintwise.prompts import PROMPT_TEMPLATE_VERSION
from hintwise.tokens import TextEncoder
from worker.algorithms.algorithm import Metrics
from worker.algorithms.build import build_algorithm
from worker.buffers import Episode, Rollout, mean
from worker.checkpoint import Checkpoint, RunState, optimizer_tensors, restore_optimizer
from worker.collector import Collector, Turn
from worker.config import TrainConfig
from worker.guidance.guided_envs import guided
from worker.open_envs import open_envs
from worker.package_versions import package_versions
from worker.same_run import check_same_run
from worker.seeds import minibatch_generator
from worker.served_policy import ServedPolicy
from worker.stopwatch import PARTS, Part, Stopwatch
from worker.trained_weights import trained_weights
from worker.update_report import UpdateReport

NUM_RECENT_EPISODES = 100
NUM_CANARY_PROMPTS = 8
"""Enough to tell wrong numbers from right ones, at the price of one small forward pass a push."""


class Learner:
    """Trains one policy on one service.

    Args:
        config: All settings.
        served: The service's policy.
        say: Told how the environments are stepped.

    Raises:
        ServiceMismatch: The service runs another model, tokenizer or readout.
        EnvironmentUnsupported: The environment cannot be used.
        EnvironmentFailed: A process of environments did not start.
    """

    def __init__(
        self, config: TrainConfig, served: ServedPolicy, *, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.config = config
        self.served = served
        served.check_readout(config.readout)
        self.model = config.model or served.info.policy.name
        language_model = load_language_model(self.model, device=config.device)
        self.head_actions = served.info.head_actions
        self.policy = Policy(language_model, head_actions=self.head_actions)
        self.architecture = self.policy.architecture
        self.tokenizer_sha256 = language_model.tokenizer_sha256
        served.check_fits(architecture=self.architecture, tokenizer_sha256=self.tokenizer_sha256)
        self.weights = trained_weights(self.policy, language_model, config, config.seed)
        encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        self.generator = minibatch_generator(config.seed)
        self.algorithm = build_algorithm(config, self.policy, encoder, self.generator)
        advisers = config.guidance != "none"
        self._identity: dict[str, Any] = {
            "architecture": self.architecture,
            "tokenizer_sha256": self.tokenizer_sha256,
            "prompt_template_version": PROMPT_TEMPLATE_VERSION,
            "guidance_sha256": served.info.guidance.sha256 if advisers else None,
            "scorer_sha256": served.info.scorer.sha256 if advisers else None,
        }
        self.packages = package_versions()
        envs = guided(open_envs(config, say), config, served)
        if self.head_actions is not None:
            served.check_head_answers(envs.action_phrases)
        self.collector = Collector(
            served, envs, num_steps=config.num_steps, run_seed=config.seed, prepare=encoder.encode_all
        )
        self.stopwatch = Stopwatch() if config.max_staleness else served.stopwatch  # each thread charges its own
        self.began_with: int | None = None  # version of the service's weights; None where the run was resumed
        self.step = 0
        self.update = 0
        self.num_episodes = 0
        self.recent: deque[Episode] = deque(maxlen=NUM_RECENT_EPISODES)
        self.num_stale_transitions = 0
        self.spent_s: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self._boundary: RunState | None = None
        self._boundary_rollout: Rollout | None = None

    @property
    def training_s(self) -> float:
        """Wall time of all updates so far."""
        return sum(self.spent_s.values())

    @property
    def wait_s(self) -> float:
        """Of it, waiting for the service."""
        return self.spent_s["waiting"]

    def begin(self) -> None:
        """Starts from the weights that the service serves now."""
        self.weights.fetch(self.served)
        self.began_with = self.served.policy_version
        answers_change = self._scale_untrained()
        if self.config.lora_rank or answers_change:  # what the service serves is no file of this run's
            self.served.hold(self.weights.dump(self._metadata()))
        if answers_change:
            self.served.push()
        self.collector.begin()
        self._note_boundary()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continues where `checkpoint` was taken, and makes the service serve its weights.

        Raises:
            CheckpointUnusable: It belongs to a run with other settings or another model.
            EnvironmentNotReplayable: An environment's episode went differently this time.
        """
        state = checkpoint.state
        check_same_run(state, self.config, self._identity)
        self.weights.load(checkpoint.policy)
        self._scale_untrained()
        restore_optimizer(self.algorithm.optimizer, self.policy, checkpoint.optimizer)
        self.algorithm.restore(checkpoint.algorithm)
        self.generator.bit_generator.state = state.generator
        self.collector.restore(state.episodes, state.num_begun, checkpoint.pending)
        self.step, self.update, self.num_episodes = state.step, state.update, state.num_episodes
        self.recent.extend(state.recent_episodes)
        self.num_stale_transitions = state.num_stale_transitions
        self.spent_s |= state.spent_s
        self.served.hold(checkpoint.policy)
        self.served.resync()
        self._note_boundary()

    def run_update(
        self,
        before_step: Callable[[], None] = lambda: None,
        on_report: Callable[[UpdateReport], None] = lambda report: None,
    ) -> UpdateReport:
        """Collects one rollout, learns from it and pushes the result.

        Args:
            before_step: Called before every vector step, or before the update where the rollout is there already; what
                it raises ends the run at the last boundary.
            on_report: Told what is returned, and of an update that was made and could not be pushed, too.
        """
        config, stopwatch = self.config, self.stopwatch
        before_step()
        with stopwatch.on("waiting") if config.max_staleness else nullcontext():
            rollout = self.collector.take(self._turn(0), before_step)
        if config.max_staleness and self.update + 1 < config.num_updates:
            self.collector.start(self._turn(1))
        remaining = 1 - self.update / config.num_updates
        learning_rate = config.learning_rate * (remaining if config.anneal_lr else 1.0)
        with stopwatch.on("learning"):
            metrics = self.algorithm.update(rollout, learning_rate=learning_rate)
        with stopwatch.on("pushing"):
            data = self._dump(rollout)
        try:
            with stopwatch.on("pushing"):
                self._serve(data, rollout)
        finally:
            report = self._report(rollout, metrics, learning_rate, stopwatch.lap())
            on_report(report)
        return report

    def _serve(self, data: bytes, rollout: Rollout) -> None:
        """Makes what was learned from `rollout` the run's own, and then the service's."""
        try:
            with self.stopwatch.on("waiting"):
                self.collector.join()
        finally:  # what was learned is kept where the next rollout is lost
            self._count(rollout)
            self.served.hold(data)
            self._note_boundary()
        self.served.push()

    def checkpoint(self) -> Checkpoint:
        """Returns the run as it was at the last boundary, with the time it took so far."""
        if self._boundary is None:
            raise RuntimeError("begin or restore first")
        times = {"training_s": self.training_s, "wait_s": self.wait_s, "spent_s": dict(self.spent_s)}
        tensors = optimizer_tensors(self.algorithm.optimizer, self.policy)
        state = self._boundary.model_copy(update=times)
        return Checkpoint(state, self.served.data, tensors, self.algorithm.state(), self._boundary_rollout)

    def close(self) -> None:
        self.collector.close()

    def _turn(self, ahead: int) -> Turn:
        """Returns how to collect the rollout of this update, or of one `ahead` of it."""
        algorithm, config = self.algorithm, self.config
        progress = (self.update + ahead) / config.num_updates
        first_step = self.step + ahead * config.batch_size
        share = config.guidance_left(progress) if config.shows_hints else 0.0
        return Turn(first_step, algorithm.behaviour(progress), algorithm.worth, share, ahead)

    def _scale_untrained(self) -> bool:
        """Makes the scores what the algorithm takes them for, and scales an untrained value head.

        Returns:
            Whether the policy answers otherwise than before.
        """
        algorithm, head, scale = self.algorithm, self.policy.value_head, self.config.initial_value_scale
        takes_scores_anew = bool(algorithm.q_scale) != self.policy.has_action_values
        if takes_scores_anew:
            self.policy.q_scale.fill_(algorithm.q_scale)
        if head.weight.any() or head.bias.any():
            return takes_scores_anew
        self.policy.value_scale.fill_(scale)  # an untrained head answers 0 under every scale
        with torch.no_grad():
            head.bias.fill_(algorithm.initial_value / scale)
        return takes_scores_anew or bool(algorithm.initial_value)

    def _dump(self, rollout: Rollout) -> bytes:
        """Returns the policy with a canary, so that a service whose numbers differ refuses it."""
        metadata = self._metadata()
        spread = range(0, len(rollout.prompts), -(-len(rollout.prompts) // NUM_CANARY_PROMPTS))
        prompts = [rollout.prompts[i] for i in spread]
        actions = [rollout.action_phrases[i] for i in spread]
        if canary := canary_of(self.policy, self.algorithm.encoder, prompts, actions):
            metadata[METADATA_KEY] = canary
        return self.weights.dump(metadata)

    def _metadata(self) -> dict[str, str]:
        return {"hintwise.architecture": self.architecture, "hintwise.tokenizer_sha256": self.tokenizer_sha256}

    def _count(self, rollout: Rollout) -> None:
        self.step += self.config.batch_size
        self.update += 1
        self.num_episodes += len(rollout.episodes)
        self.recent.extend(rollout.episodes)
        self.num_stale_transitions += rollout.num_stale

    def _note_boundary(self) -> None:
        episodes, num_begun = self.collector.snapshot
        self._boundary_rollout = self.collector.pending
        self._boundary = RunState(
            step=self.step,
            update=self.update,
            num_episodes=self.num_episodes,
            recent_episodes=list(self.recent),
            num_stale_transitions=self.num_stale_transitions,
            training_s=self.training_s,
            wait_s=self.wait_s,
            policy_version=self.served.policy_version,
            model=self.model,
            guidance_model=self.served.info.guidance.name if self.config.guidance != "none" else None,
            head_actions=self.head_actions,
            **self._identity,
            generator=dict(self.generator.bit_generator.state),
            episodes=episodes,
            num_begun=num_begun,
            config=self.config.model_dump(mode="json"),
            packages=self.packages,
        )

    def _report(
        self, rollout: Rollout, metrics: Metrics, learning_rate: float, spent_s: dict[Part, float]
    ) -> UpdateReport:
        for part, seconds in spent_s.items():
            self.spent_s[part] += seconds
        update_s = sum(spent_s.values())
        return UpdateReport(
            update=self.update,
            step=self.step,
            policy_version=self.served.policy_version,
            learning_rate=learning_rate,
            mean_return=mean([episode.episode_return for episode in self.recent]),
            mean_length=mean([episode.length for episode in self.recent]),
            mean_shaping=float(rollout.shaping.mean()),
            guidance_trust=rollout.trust,
            hint_share=rollout.hint_share,
            stale_transitions=rollout.num_stale,
            staleness=rollout.staleness,
            metrics=metrics,
            spent_s=spent_s,
            update_s=update_s,
            steps_per_s=self.config.batch_size / update_s,
            episodes=rollout.episodes,
        )
