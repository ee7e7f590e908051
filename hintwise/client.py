"""Typed calls to a Hintwise service, from threads (`Client`) or from asyncio (`AsyncClient`).

| to ...                               | call                                                                  |
| ------------------------------------ | --------------------------------------------------------------------- |
| find the service                     | client = Client()          # HINTWISE_URL, or http://127.0.0.1:8000   |
| choose among listed actions          | client.act([text], ["push left", "push right"])                       |
| act on raw observations              | client.act([observation], env_id="CartPole-v1")  # NumPy is fine      |
| act greedily                         | client.act(texts, actions, mode="greedy")                             |
| act on advice                        | client.act([text], actions, hints=["push right"])                     |
| repeat a draw                        | client.act(texts, actions, seed=7)                                    |
| ask for a hint                       | client.guidance([text]).results[0].hints[0].text                      |
| choose among hints of one's own      | client.guidance([text], mode="ranked", candidates=["push left", ...]) |
| read a hint while it is written      | for event in client.stream_guidance([text]): ...                      |
| score a transition against a hint    | client.reward([{"hint": hint, "observation": text, ...}])             |
| see which weights answer             | client.weights().policy_version                                       |
| replace them                         | client.put_weights(data, if_match=client.weights().policy_version)    |
| replace them by a file over there    | client.put_weights_from("/srv/policy.safetensors", if_match=12)       |
| serve an older version again         | client.rollback(11)                                                   |
| fetch them                           | client.download_weights(client.weights().policy_version)              |
| wait for a service that starts       | client.wait_until_ready(60)                                           |

Every call of `AsyncClient` has the same name and arguments, and is awaited. All of them raise
`hintwise.errors`; `docs/client.md` tells which failures are retried, and for how long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, Self

import httpx

from hintwise.async_client import AsyncClient
from hintwise.client_core import UNLIMITED, Call, OnWait, T, Wire
from hintwise.guidance_stream import stream_guidance
from hintwise.request_body import Actions, Observations, Seeds, Tasks
from hintwise.schemas import ActResponse, GuidanceResponse, RewardItem, RewardResponse, ServiceInfo
from hintwise.weight_calls import WeightCalls

REQUEST_SENT = "http11.send_request_body.complete"
"""What httpcore, which httpx sends with, calls the moment between a request and its answer."""

__all__ = ["AsyncClient", "Client"]


class Client(WeightCalls):
    """Calls a service and waits for the answer. One client serves many threads.

    Connections are kept, so build one client and use it for everything; close it, or use it as
    a context manager. `HTTP_PROXY` and `NO_PROXY` are honoured.

    Every call can raise, beside what it names itself:

    - `NotAuthorized`: no token, an unknown one, or one that may not do this (`WrongScope`).
    - `InvalidRequest`, `TooLarge`: the service refuses the request as it is.
    - `Overloaded`, `Unavailable`: the queue was full, or the service starting or stopping, until
      `retry_s` had passed.
    - `ServiceUnreachable`: nobody answered until `retry_s` had passed.
    - `DeadlineExceeded`: the service, or the way there, took longer than `timeout_s`.
    - `InferenceFailed`, or plain `HintwiseError`: the service failed, or something else answers.

    Args:
        base_url: Where the service is, such as `http://10.0.0.5:8000`. Default: the variable
            `HINTWISE_URL`, or `http://127.0.0.1:8000`.
        token: Bearer token. Default: the variable `HINTWISE_TOKEN`, or what is in the file that
            `HINTWISE_TOKEN_FILE` names; `""` sends none.
        timeout_s: Seconds that one attempt may take, at the service and on the way. The service
            refuses more than `max_request_timeout_ms` of `info()`.
        retry_s: Seconds that a call may take with its retries; 0 tries once. A first attempt
            always gets `timeout_s`.
        transport: Carries the requests in place of a socket, for tests.
        on_wait: Called before each wait for a retry, with the failure and the seconds since the
            call began.
        while_waiting: Called in the same thread whenever a request is on its way and its answer is yet to
            be read: time for work that needs no answer. It must not use the client; what it raises ends the call.

    Raises:
        ValueError: The address or the token cannot be used, or a number is out of range.
        OSError: The token file cannot be read.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout_s: float = 30.0,
        retry_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        on_wait: OnWait | None = None,
        while_waiting: Callable[[], None] | None = None,
    ) -> None:
        self._wire = Wire(base_url, token, timeout_s=timeout_s, retry_s=retry_s, on_wait=on_wait)
        self._while_waiting = while_waiting
        self._http = httpx.Client(transport=transport, limits=UNLIMITED)
        self._sleep = time.sleep

    def act(
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
        """Returns one legal action per observation, chosen by the policy that serves now.

        Args:
            observations: 1 to 1024 texts. With `env_id` also raw ones: numbers, arrays (nested lists
                or NumPy) or objects such as MiniGrid's.
            actions: 1 to 256 distinct phrases: one list for all, or one list per observation. May
                be left out with `env_id`.
            env_id: Environment that raw observations come from, one of `info().env_ids`.
            task: What to achieve: one text, or one per observation.
            hints: Advice, one per observation, None for none.
            mode: `sample` draws from softmax(scores / temperature); `greedy` takes the highest score,
                the lowest index on a tie; `epsilon` is greedy but for a chance of a uniform action.
            epsilon: That chance, 0 to 1.
            temperature: 0 to 100, for `sample` alone; 0 is greedy.
            seed: 0 to 2**53 - 1. One number draws item i from (seed, i); one per observation makes
                draws independent of their place, so that a split batch draws the same.

        Raises:
            InvalidRequest: The service refuses the request, or JSON cannot hold it (NaN); the
                errors name the field or the observation.
            HintwiseError: As every call.
        """
        call = self._wire.act(
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
        return self._run(call)

    def guidance(
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
        """Returns hints for each observation, written or chosen by the frozen guidance model.

        Args:
            observations: 1 to 256, as in `act`.
            actions: As in `act`; the model is told what may be done.
            env_id: As in `act`.
            task: As in `act`.
            mode: `free` writes hints token by token; `ranked` chooses among candidates.
            candidates: 1 to 256 distinct hints, for `ranked`. Default: those of `env_id`, else the actions.
            num_hints: Hints per observation, 1 to 8, in `ranked` distinct ones.
            max_new_tokens: Length of a written hint, 1 to 256 tokens.
            temperature: 0 to 100; 0 is greedy: the best candidates, or the likeliest token each time.
            seed: As in `act`.

        Raises:
            GuidanceUnavailable: The guidance source failed.
            HintwiseError: As every call.
        """
        return self._run(
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

    stream_guidance = stream_guidance

    def reward(
        self, items: Iterable[RewardItem | Mapping[str, object]], *, scorer: str = "alignment", gamma: float = 0.99
    ) -> RewardResponse:
        """Returns one reward per hint and transition, from the frozen scorer model.

        Args:
            items: 1 to 1024 hints, each with the transition that followed it.
            scorer: `alignment` (did the action follow the hint? -1 to 1) or `progress` (gamma times
                the potential afterwards minus the potential before); `info().scorers` lists them.
            gamma: The learner's own discount, 0 to 1.

        Raises:
            HintwiseError: As every call.
        """
        return self._run(self._wire.reward(items, scorer=scorer, gamma=gamma))

    def info(self) -> ServiceInfo:
        """Returns the service's models with their digests, its limits, and what requests may name.

        Raises:
            HintwiseError: As every call.
        """
        return self._run(self._wire.info())

    def is_ready(self) -> bool:
        """Returns whether the service would answer now; asks once, and never raises a `HintwiseError`."""
        return self._run(self._wire.is_ready())

    def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once the service is ready.

        Raises:
            ServiceUnreachable: Nobody answered for `timeout_s` seconds.
            Unavailable: It was still starting after `timeout_s` seconds.
            DeadlineExceeded: It took the connection, but gave no answer.
            HintwiseError: Something else answers there.
        """
        self._run(self._wire.wait_until_ready(timeout_s))

    def close(self) -> None:
        """Closes the connections; a call after this raises `RuntimeError`."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self  # connections cannot be copied, and need not be: one client serves many

    def __repr__(self) -> str:
        return f"Client({self._wire.base_url!r})"

    def _send(self, request: httpx.Request) -> httpx.Response:
        if (meanwhile := self._while_waiting) is not None:

            def on_event(name: str, _: Mapping[str, object]) -> None:
                if name == REQUEST_SENT:
                    meanwhile()

            request.extensions["trace"] = on_event
        return self._http.send(request)

    def _run(self, call: Call[T], send: Callable[[httpx.Request], httpx.Response] | None = None) -> T:
        """Does what `call` yields until it returns; `send` stands in for the plain way to send."""
        send = send or self._send
        outcome: httpx.Response | httpx.RequestError | None = None
        while True:
            try:
                step = call.send(outcome)
            except StopIteration as finished:
                result: T = finished.value
                return result
            try:
                outcome = send(step) if isinstance(step, httpx.Request) else self._sleep(step)
            except httpx.RequestError as error:
                outcome = error
