"""What answers: the models, the thread that owns them, a queue for each kind of work, the weights.

/act       ─▶ act queue      ─┐                        ┌─ policy         (swapped by PUT /weights)
/guidance  ─▶ guidance queue ─┼─▶ inference thread ────┼─ guidance model (frozen)
           └▶ ranking queue  ─┤                        │
/reward    ─▶ reward queue   ─┤                        └─ scorer model   (frozen)
PUT /weights ─▶ swap job     ─┘
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import torch

from hintwise import weights
from hintwise.describers import load_describers
from hintwise.digests import sha256_of
from hintwise.language_model import LanguageModel, load_language_model
from hintwise.schemas import ModelInfo
from service.answer_cache import AnswerCache
from service.batch_run import Forward, Item, Result
from service.batcher import Batcher
from service.hint_cache import HintCache
from service.hint_generator import HintGenerator
from service.inference_thread import InferenceThread
from service.metrics import Metrics
from service.policy_runner import PolicyRunner
from service.scorer_plugins import installed_scorers
from service.settings import Settings
from service.thread_count import measured_num_threads
from service.weight_check import serve, verify
from service.weight_flush import Flusher
from service.weight_store import StoreUnusable, WeightStore

log = structlog.get_logger("service")
SPARE_BYTES = 2**20
"""Room in a weights body for names and metadata."""
FLUSH_LIMIT_S = 30.0
"""How long a service that stops waits for the disk. What is killed then is lost to a power cut alone."""


class Engine:
    """Loads everything at construction; `running` serves the queues.

    Args:
        settings: What to load and the limits to keep.

    Raises:
        ModelNotFound: A model cannot be loaded.
        PluginUnusable: A package brings a scorer or a describer that cannot be used.
        StoreUnusable: The weights directory cannot serve this model.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.num_threads != "auto":
            torch.set_num_threads(settings.num_threads)
        self.settings = settings
        self.scorers = installed_scorers()
        load_describers()
        self.metrics = Metrics()
        self.thread = InferenceThread()
        self.stopping = False
        """Whether the queues have been stopped, for good."""
        guidance, scorer_model = map(frozen_model_name, (settings.guidance, settings.scorer_model))
        frozen: dict[str, LanguageModel] = {}
        for name in (guidance, scorer_model):
            frozen.setdefault(name, load_language_model(name, device=settings.device))
        self.policy = PolicyRunner(
            load_language_model(settings.model, device=settings.device),
            alpha=settings.alpha,
            beta=settings.beta,
            head_actions=settings.head_list,
            answers=self._answers("policy"),
            deduplicate=settings.deduplicate,
        )
        kept = HintCache(settings.max_cached_hints, self.metrics.hint_observer())
        self.hints = HintGenerator(frozen[guidance], kept)
        self.scorer = self._frozen_runner("scorer", frozen[scorer_model])
        self.ranker = self.scorer if guidance == scorer_model else self._frozen_runner("guidance", frozen[guidance])
        self.store = WeightStore(settings.weights_dir, max_retained=settings.max_retained_versions)
        try:
            self._serve_last_version()
        except OSError as error:  # the disk is full, or a file is not ours
            self.store.close()
            told = f"{settings.weights_dir} cannot be used ({error}); pass another --weights-dir"
            raise StoreUnusable(told) from error
        except BaseException:
            self.store.close()
            raise
        self.flusher = Flusher(self.store.flush, on_failure=self.metrics.flush_failures.inc)
        num_threads = measured_num_threads(self.policy) if settings.num_threads == "auto" else settings.num_threads
        self.metrics.num_threads.set(num_threads)
        self.max_weights_bytes = SPARE_BYTES + 2 * sum(t.nbytes for t in weights.state_of(self.policy.policy).values())
        self.act_queue = self._queue("act", self.policy.decide)
        self.reward_queue = self._queue("reward", self.scorer.score)
        self.guidance_queue = self._queue("guidance", self.hints.write)
        self.ranking_queue = self._queue("ranking", self.ranker.score)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serves the queues inside the block; afterwards the thread and the directory are free."""
        try:
            yield
        finally:
            self.stop_queues()
            await asyncio.to_thread(self.thread.stop)
            if await asyncio.to_thread(self.flusher.stop, FLUSH_LIMIT_S):
                self.store.close()  # else the end of the process lets go of it, and not before

    def stop_queues(self) -> None:
        """Fails with `Unavailable` what waits for the models, and what comes from now on. For the event loop."""
        self.stopping = True
        for queue in (self.act_queue, self.reward_queue, self.guidance_queue, self.ranking_queue):
            queue.stop()

    def _frozen_runner(self, name: str, model: LanguageModel) -> PolicyRunner:
        return PolicyRunner(model, answers=self._answers(name), deduplicate=self.settings.deduplicate)

    def _answers(self, model: str) -> AnswerCache:
        return AnswerCache(self.settings.max_cached_answers, self.metrics.lookup_observer(model))

    def _queue(self, kind: str, forward: Forward[Item, Result]) -> Batcher[Item, Result]:
        queue = Batcher(
            forward,
            self.thread,
            max_batch_tokens=self.settings.max_batch_tokens,
            max_queue_items=self.settings.max_queue_observations,
            on_batch=self.metrics.batch_observer(kind),
        )
        self.metrics.queue_tokens.labels(kind).set_function(lambda: queue.queued_tokens)
        return queue

    def _serve_last_version(self) -> None:
        """Serves what the weights directory keeps, or keeps the model as it came as version 1."""
        model = self.policy.language_model
        path = self.store.open(
            architecture=self.policy.policy.architecture,
            tokenizer_sha256=model.tokenizer_sha256,
            base_sha256=model.sha256,
        )
        if path is None:
            part, data = self.store.new_part(), weights.dump(self.policy.policy)
            part.write_bytes(data)
            first = self.store.add(part, sha256_of(data))
            self.policy.policy_version, self.policy.digest = first.policy_version, first.sha256
            self.store.flush()
        else:
            serve(verify(path, self.policy), self.policy, lambda: self.store.current)
            log.info("restored weights", policy_version=self.policy.policy_version, weights_dir=str(path.parent))
        self.serving = self.store.current
        self.metrics.policy_version.set(self.policy.policy_version)


def frozen_model_name(name: str) -> str:
    """Returns which model writes hints or scores them under a name: an untrained one would have nothing to say."""
    return "embedded-language" if name == "embedded" else name


def model_info(model: LanguageModel, *, architecture: str | None = None) -> ModelInfo:
    """Returns what `/info` says about a model; a policy's architecture says more than its trunk's."""
    return ModelInfo(
        name=model.name,
        sha256=model.sha256,
        architecture=architecture or model.architecture,
        num_parameters=model.num_parameters,
        max_prompt_tokens=model.max_tokens,
    )
