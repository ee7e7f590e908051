"""The real application in memory: a real engine, no socket, no sleep."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog
import torch
from safetensors.torch import load, save

from hintwise.digests import content_digest, sha256_of
from service.app import create_app
from service.engine import Engine
from service.settings import Settings

PROBLEM_MEMBERS = {"type", "title", "status", "detail", "errors"}
TEXTS = [f"cart {n} speed {n + 7} pole 20 turn {40 - n}" for n in range(6)]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Refusal:
    """A problem that the service answered with."""

    response: httpx.Response
    detail: str
    fields: dict[str, str]
    """Message of each offending field or item."""

    @property
    def text(self) -> str:
        """Everything that it tells a person."""
        return "\n".join([self.detail, *(f"{field}: {message}" for field, message in self.fields.items())])


@dataclass(frozen=True)
class Service:
    """A running engine and an HTTP client of it."""

    engine: Engine
    http: httpx.AsyncClient

    async def ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the body of an answer that must be 200."""
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = json.loads(response.text, parse_constant=_no_constant)
        return answer

    async def act(self, observations: list[Any], actions: Any = ("push left", "push right"), **fields: Any) -> Any:
        """Returns the results of `POST /act`."""
        return (await self.ask("/act", {"observations": observations, "actions": actions, **fields}))["results"]

    async def refused(
        self, path: str, body: Any = None, status: int = 422, *, method: str = "POST", **request: Any
    ) -> Refusal:
        """Returns the problem that `path` answers; bytes are sent as they are, anything else as JSON."""
        if body is not None:
            request["content"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await self.http.request(method, path, **request)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"]
        assert response.headers["x-policy-version"] == str(self.engine.policy.policy_version)
        problem = response.json()
        assert set(problem) == PROBLEM_MEMBERS
        assert problem["status"] == status
        assert problem["title"]
        assert problem["detail"]
        return Refusal(response, problem["detail"], {entry["field"]: entry["message"] for entry in problem["errors"]})

    async def tensors(self) -> Tensors:
        """Returns the weights that serve."""
        return load((await self.http.get(f"/weights/{self.engine.policy.policy_version}")).content)

    async def put(self, data: bytes, **headers: str | None) -> httpx.Response:
        """Pushes weights; a header given as None is left out, underscores stand for hyphens."""
        sent = {
            "if-match": f'"{self.engine.policy.policy_version}"',
            "content-digest": content_digest(sha256_of(data)),
            "content-type": "application/octet-stream",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return await self.http.put(
            "/weights", content=data, headers={name: value for name, value in sent.items() if value is not None}
        )

    async def put_noise(self, scale: float = 0.02, seed: int = 0, **changed: torch.Tensor) -> bytes:
        """Serves the present weights with noise on them, and returns what was pushed."""
        data = save(noisy(await self.tensors(), scale, seed) | changed)
        response = await self.put(data)
        assert response.status_code == 200, response.text
        return data

    async def durable(self) -> dict[str, Any]:
        """Returns what `GET /weights` says once what it names would survive a power cut."""
        async with asyncio.timeout(30):
            while not (info := (await self.http.get("/weights")).json())["durable"]:  # noqa: ASYNC110 (no event for it)
                await asyncio.sleep(0.001)
        return dict(info)

    @asynccontextmanager
    async def blocked_thread(self) -> AsyncIterator[list[object]]:
        """Keeps the model thread busy inside the block; gives the swaps and probes that wait for it."""
        entered, release = asyncio.Event(), threading.Event()
        loop, run = asyncio.get_running_loop(), self.engine.thread.run
        jobs: list[object] = []

        async def noted(job: Callable[[], Any], **limits: Any) -> Any:
            jobs.append(job)
            return await run(job, **limits)

        def hold() -> None:
            loop.call_soon_threadsafe(entered.set)
            release.wait(60)

        holding = asyncio.create_task(run(hold))
        await entered.wait()
        self.engine.thread.run = noted  # type: ignore[method-assign]
        try:
            yield jobs
        finally:
            self.engine.thread.run = run  # type: ignore[method-assign]
            release.set()
            await holding

    async def metric(self, series: str) -> float:
        """Returns one number of `/metrics`."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series + " "))


async def answers(service: Service) -> list[tuple[list[float], float]]:
    """Returns what tells weights apart."""
    return [(result["scores"], result["value"]) for result in await service.act(TEXTS, mode="greedy")]


def files_in(service: Service) -> list[str]:
    return sorted(path.name for path in service.engine.settings.weights_dir.iterdir())


def noisy(state: Tensors, scale: float, seed: int) -> Tensors:
    """Returns weights near `state`; settings such as beta stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + scale * torch.randn(tensor.shape, generator=generator) if tensor.dim() else tensor
        for name, tensor in state.items()
    }


@asynccontextmanager
async def serving(directory: Path, **settings: Any) -> AsyncIterator[Service]:
    # Measured, the threads would vary; hints that are kept would hide how they are written.
    engine = Engine(Settings(weights_dir=directory, **{"num_threads": 1, "max_cached_hints": 0, **settings}))
    app = create_app(engine)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
            yield Service(engine, http)


async def happens(condition: Callable[[], bool]) -> None:
    """Returns once `condition` holds; lets everything else run meanwhile."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (the service has no event for it)
            await asyncio.sleep(0.001)


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """structlog's own default renders a trace with every local variable, which takes seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


@pytest.fixture(scope="session", name="serving")
def serving_fixture() -> Callable[..., AbstractAsyncContextManager[Service]]:
    """Starts a service on a weights directory, for fixtures that live longer than a test."""
    return serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """One service for the tests of a module that leave it as they found it."""
    async with serving(tmp_path_factory.mktemp("weights")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def fresh(tmp_path: Path) -> AsyncIterator[Service]:
    """A service of one's own."""
    async with serving(tmp_path / "weights") as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Service]]:
    """Starts a service on the test's own weights directory, with settings."""
    return lambda **settings: serving(tmp_path / "weights", **settings)


@pytest.fixture(name="happens")
def happens_fixture() -> Callable[[Callable[[], bool]], Any]:
    return happens


@pytest.fixture(name="noisy")
def noisy_fixture() -> Callable[[Tensors, float, int], Tensors]:
    return noisy


@pytest.fixture
def close_to() -> Iterator[Callable[..., bool]]:
    """Whether log-probs agree as DESIGN section 4 says for the embedded model in fp32."""

    def agree(given: list[float], wanted: list[float], beta: float = 1.0) -> bool:
        pairs = zip(given, wanted, strict=True)
        return all(abs(a - b) <= 1e-5 * max(1.0, beta) * (1 + min(abs(a), abs(b))) for a, b in pairs)

    return agree


def _no_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")
