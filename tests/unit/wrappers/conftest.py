"""A service at the transport seam whose answers are functions of what was asked: tests can say what is right."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import httpx
import pytest

from hintwise import Client
from hintwise.advising import asking


def number_of(*words: object) -> float:
    """A number from 0 to 1 that belongs to these words."""
    return zlib.crc32(repr(words).encode()) / 2**32


class Answering:
    """Answers /guidance and /reward, and keeps what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.failure: Callable[[], httpx.Response] | None = None
        self.scorer = self.guide = "a" * 64
        self.hint: Callable[[str], str] = lambda text: f"go right, says {zlib.crc32(text.encode())}"
        self.finish_reason = "stop"
        self.client = Client("http://service", token="", retry_s=0, transport=httpx.MockTransport(self._answer))

    def to(self, path: str) -> list[dict[str, Any]]:
        """The bodies that were sent to a path."""
        return [body for asked, body in self.asked if asked == path]

    @property
    def items(self) -> list[dict[str, Any]]:
        """Of all rewards asked for."""
        return [item for body in self.to("/reward") for item in body["items"]]

    def potential(self, text: str, hint: str | None) -> float:
        return number_of(text, hint) if hint else 0.0

    def alignment(self, item: dict[str, Any]) -> float:
        return number_of(item["observation"], item["hint"], item["action"])

    def _answer(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append((request.url.path, body))
        if self.failure:
            return self.failure()
        if request.url.path == "/guidance":
            told = {"log_prob": -1.0, "finish_reason": self.finish_reason}
            hints = [{"text": self.hint(text), **told} for text in body["observations"]]
            return self._json(self.guide, [{"hints": [hint]} for hint in hints])
        if body.get("scorer", "alignment") == "alignment":
            return self._json(self.scorer, [{"reward": self.alignment(item)} for item in body["items"]])
        results = [
            {"reward": -potential, "potential": potential, "next_potential": 0.0}
            for potential in (self.potential(item["observation"], item["hint"]) for item in body["items"])
        ]
        return self._json(self.scorer, results)

    def _json(self, sha256: str, results: Sequence[Any]) -> httpx.Response:
        return httpx.Response(200, json={"scorer": "s", "model": "m", "model_sha256": sha256, "results": results})


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """A service of one's own, that is asked again at once after a failure."""
    monkeypatch.setattr(asking, "FIRST_PAUSE_S", 0.0)
    return Answering()


def problem(status: int, title: str, detail: str) -> httpx.Response:
    """What a service answers that refuses or fails."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return httpx.Response(status, json=body, headers={"content-type": "application/problem+json"})


@pytest.fixture(name="problem")
def problem_fixture() -> Callable[..., httpx.Response]:
    return problem


def away() -> httpx.Response:
    """What a service answers that is stopping."""
    return problem(503, "Unavailable", "stopping")


@pytest.fixture(name="away")
def away_fixture() -> Callable[[], httpx.Response]:
    return away


def lake(**kwargs: Any) -> gymnasium.Env[Any, Any]:
    """A frozen lake that does as it is told."""
    return gymnasium.make("FrozenLake-v1", is_slippery=False, **kwargs)


@pytest.fixture(name="lake")
def lake_fixture() -> Callable[..., gymnasium.Env[Any, Any]]:
    return lake


def lakes(mode: str, *, num_envs: int = 2, **kwargs: Any) -> gymnasium.vector.SyncVectorEnv:
    """Frozen lakes with one way or another of beginning anew."""
    return gymnasium.vector.SyncVectorEnv([lambda: lake(**kwargs)] * num_envs, autoreset_mode=mode)


@pytest.fixture(name="lakes")
def lakes_fixture() -> Callable[..., gymnasium.vector.SyncVectorEnv]:
    return lakes
