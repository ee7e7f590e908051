"""What the service counts, in Prometheus' words. Units end the names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from service.answer_cache import Lookups

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
TOKENS = (16, 64, 256, 1_024, 2_048, 4_096, 8_192, 16_384, 65_536)

ACCESS_REFUSED = "Requests that got 401 or 403: token missing, unknown, or without the scope"
ACT_RECOMPUTED = "Observations scored again because the weights were swapped within their request"
ANSWERED_PROMPTS = "Prompts by source of their scores: `hit` kept, `repeat` equal to another of its batch, `miss` run"
ANSWER_HIT_RATE = "Share of the prompts so far whose scores were kept or came with another's"
HINTS = "Hints by source: `hit` kept, `repeat` equal to another of its batch, `miss` written by the model"
FLUSH_FAILURES = "Flushes of weights that the disk refused; `durable` stays false until a later one goes well"


disable_created_metrics()  # a second series per counter that nobody reads


class Metrics:
    """Counters of one service; each app has its own registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        seconds = partial(Histogram, registry=registry, buckets=SECONDS)
        self.requests = counter("hintwise_requests", "Answered requests", ["endpoint", "status"])
        self.request_seconds = seconds("hintwise_request_seconds", "From first byte to last", ["endpoint"])
        self.refused = counter("hintwise_refused", "Requests that got 429", ["kind"])
        self.access_refused = counter("hintwise_access_refused", ACCESS_REFUSED, ["reason"])
        self.act_observations = counter("hintwise_act_observations", "Observations answered by /act")
        self.act_recomputed = counter("hintwise_act_recomputed_observations", ACT_RECOMPUTED)
        self.batch_tokens = Histogram(
            "hintwise_batch_tokens", "Padded tokens of a batch", ["kind"], buckets=TOKENS, registry=registry
        )
        self.batch_seconds = seconds("hintwise_batch_seconds", "Time of a batch on the model thread", ["kind"])
        self.queue_tokens = gauge("hintwise_queue_tokens", "Padded tokens that wait for a batch", ["kind"])
        self.num_threads = gauge("hintwise_num_threads", "CPU threads of a forward pass")
        self.answered_prompts = counter("hintwise_answered_prompts", ANSWERED_PROMPTS, ["model", "source"])
        self.answer_hit_rate = gauge("hintwise_answer_hit_rate", ANSWER_HIT_RATE, ["model"])
        self.hints = counter("hintwise_hints", HINTS, ["source"])
        self.policy_version = gauge("hintwise_policy_version", "Version that answers /act")
        self.swaps = counter("hintwise_swaps", "Weight swaps")
        self.rollbacks = counter("hintwise_rollbacks", "Retained versions that served again")
        self.rejected_swaps = counter("hintwise_rejected_swaps", "Pushed weights that were refused")
        self.swap_seconds = seconds("hintwise_swap_seconds", "From the last byte of a push to serving it")
        self.flush_failures = counter("hintwise_flush_failures", FLUSH_FAILURES)

    def batch_observer(self, kind: str) -> Callable[[int, int, float], None]:
        """Returns what a batcher tells about each batch: rows, padded tokens, seconds."""
        tokens, seconds = self.batch_tokens.labels(kind), self.batch_seconds.labels(kind)

        def observe(num_rows: int, num_tokens: int, duration_s: float) -> None:
            tokens.observe(num_tokens)
            seconds.observe(duration_s)

        return observe

    def lookup_observer(self, model: str) -> Callable[[Lookups], None]:
        """Returns what a runner's cache tells about each batch."""
        total = Lookups(0, 0, 0)
        counters = [self.answered_prompts.labels(model, source) for source in ("hit", "repeat", "miss")]
        rate = self.answer_hit_rate.labels(model)

        def observe(lookups: Lookups) -> None:
            nonlocal total
            total = Lookups(*map(sum, zip(total, lookups, strict=True)))
            for counter, count in zip(counters, lookups, strict=True):
                counter.inc(count)
            rate.set(1 - total.misses / sum(total))

        return observe

    def hint_observer(self) -> Callable[[Lookups], None]:
        """Returns what the cache of hints tells about each batch."""
        counters = [self.hints.labels(source) for source in ("hit", "repeat", "miss")]

        def observe(lookups: Lookups) -> None:
            for counter, count in zip(counters, lookups, strict=True):
                counter.inc(count)

        return observe

    def text(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return generate_latest(self.registry)
