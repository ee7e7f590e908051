"""What the service counts, in Prometheus' words. Units end the names."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
TOKENS = (16, 64, 256, 1_024, 2_048, 4_096, 8_192, 16_384, 65_536)


disable_created_metrics()  # a second series per counter that nobody reads


class Metrics:
    """Counters of one service; each app has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hintwise_requests", "Answered requests", ["endpoint", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "hintwise_request_seconds", "From first byte to last", ["endpoint"], buckets=SECONDS, registry=self.registry
        )
        self.act_observations = Counter(
            "hintwise_act_observations", "Observations answered by /act", registry=self.registry
        )
        self.act_recomputed = Counter(
            "hintwise_act_recomputed_observations",
            "Observations scored again because the weights were swapped within their request",
            registry=self.registry,
        )
        self.batch_tokens = Histogram(
            "hintwise_batch_tokens", "Padded tokens of a batch", ["kind"], buckets=TOKENS, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "hintwise_batch_seconds",
            "Time of a batch on the model thread",
            ["kind"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refused = Counter("hintwise_refused", "Requests that got 429", ["kind"], registry=self.registry)
        self.access_refused = Counter(
            "hintwise_access_refused",
            "Requests that got 401 or 403: token missing, unknown, or without the scope",
            ["reason"],
            registry=self.registry,
        )
        self.swaps = Counter("hintwise_swaps", "Weight swaps", registry=self.registry)
        self.rollbacks = Counter("hintwise_rollbacks", "Retained versions that served again", registry=self.registry)
        self.rejected_swaps = Counter(
            "hintwise_rejected_swaps", "Pushed weights that were refused", registry=self.registry
        )
        self.swap_seconds = Histogram(
            "hintwise_swap_seconds",
            "From the last byte of a push to serving it",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.flush_failures = Counter(
            "hintwise_flush_failures",
            "Flushes of weights that the disk refused; `durable` stays false until a later one goes well",
            registry=self.registry,
        )
        self.policy_version = Gauge("hintwise_policy_version", "Version that answers /act", registry=self.registry)
        self.num_threads = Gauge("hintwise_num_threads", "CPU threads of a forward pass", registry=self.registry)
        self.queue_tokens = Gauge(
            "hintwise_queue_tokens", "Padded tokens that wait for a batch", ["kind"], registry=self.registry
        )

    def batch_observer(self, kind: str) -> Callable[[int, int, float], None]:
        """Returns what a batcher tells about each batch: rows, padded tokens, seconds."""
        tokens, seconds = self.batch_tokens.labels(kind), self.batch_seconds.labels(kind)

        def observe(num_rows: int, num_tokens: int, duration_s: float) -> None:
            tokens.observe(num_tokens)
            seconds.observe(duration_s)

        return observe

    def text(self) -> bytes:
        """Returns everything in Prometheus' text format."""
        return generate_latest(self.registry)
