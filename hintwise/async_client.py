"""The calls of `hintwise.client.Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

import httpx

from hintwise.client_core import UNLIMITED, Call, OnWait, T, Wire
from hintwise.guidance_stream import stream_guidance_async
from hintwise.request_body import Actions, Observations, Seeds, Tasks
from hintwise.schemas import ActResponse, GuidanceResponse, RewardItem, RewardResponse, ServiceInfo
from hintwise.weight_calls import AsyncWeightCalls


class AsyncClient(AsyncWeightCalls):
    """Calls a service from asyncio. One client serves many tasks of one event loop.

    The arguments are those of `Client`; `on_wait` stays a plain function.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retry_s: float = 60.0,
        transport: httpx.AsyncBaseTransport | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        self._wire = Wire(base_url, token, timeout_s=timeout_s, retry_s=retry_s, on_wait=on_wait)
        self._http = httpx.AsyncClient(transport=transport, limits=UNLIMITED)
        self._sleep = asyncio.sleep

    async def act(
        self,
        observations: Observations,
        actions: Actions = None,
        *,
        env_id: str | None = None,
        task: Tasks = None,
        hints: Sequence[str | None] | None = None,
        mode: Literal["sample", "greedy", "epsilon"] = "sample",
        epsilon: float | None = None,
        temperature: float = 1.0,
        seed: Seeds = None,
    ) -> ActResponse:
        """Returns one legal action per observation; see `Client.act`."""
        return await self._run(
            self._wire.act(
                observations=observations,
                actions=actions,
                env_id=env_id,
                task=task,
                hints=hints,
                mode=mode,
                epsilon=epsilon,
                temperature=temperature,
                seed=seed,
            )
        )

    async def guidance(
        self,
        observations: Observations,
        actions: Actions = None,
        *,
        env_id: str | None = None,
        task: Tasks = None,
        mode: Literal["free", "ranked"] = "free",
        candidates: Sequence[str] | None = None,
        num_hints: int = 1,
        max_new_tokens: int = 32,
        temperature: float = 0.7,
        seed: Seeds = None,
    ) -> GuidanceResponse:
        """Returns hints for each observation; see `Client.guidance`."""
        return await self._run(
            self._wire.guidance(
                observations=observations,
                actions=actions,
                env_id=env_id,
                task=task,
                mode=mode,
                candidates=candidates,
                num_hints=num_hints,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
            )
        )

    stream_guidance = stream_guidance_async

    async def reward(
        self, items: Iterable[RewardItem | Mapping[str, object]], *, scorer: str = "alignment", gamma: float = 0.99
    ) -> RewardResponse:
        """Returns one reward per hint and transition; see `Client.reward`."""
        return await self._run(self._wire.reward(items, scorer=scorer, gamma=gamma))

    async def info(self) -> ServiceInfo:
        """Returns the service's models, limits, and what requests may name; see `Client.info`."""
        return await self._run(self._wire.info())

    async def is_ready(self) -> bool:
        """Returns whether the service would answer now; see `Client.is_ready`."""
        return await self._run(self._wire.is_ready())

    async def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once the service is ready; see `Client.wait_until_ready`."""
        await self._run(self._wire.wait_until_ready(timeout_s))

    async def aclose(self) -> None:
        """Closes the connections; a call after this raises `RuntimeError`."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._wire.base_url!r})"

    async def _run(self, call: Call[T], send: Callable[[httpx.Request], Awaitable[httpx.Response]] | None = None) -> T:
        """Does what `call` yields until it returns; `send` stands in for the plain way to send."""
        send = send or self._http.send
        outcome: httpx.Response | httpx.RequestError | None = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as finished:
                result: T = finished.value
                return result
            try:
                outcome = await (send(step) if isinstance(step, httpx.Request) else self._sleep(step))
            except httpx.RequestError as error:
                outcome = error
