"""A scripted service for either client, with no socket and a clock that only sleeping moves, and what it answers."""

import hashlib
import inspect
import json

import httpx
import pytest

from hintwise import AsyncClient, Client
from hintwise.errors import HintwiseError

ACTIONS = ["push left", "push right"]
DATA = b"safetensors, honestly"
SHA256 = hashlib.sha256(DATA).hexdigest()


def ok(body):
    return lambda request: httpx.Response(200, json=body)


def problem(status, title, *, headers=None, entries=(), detail="it went wrong"):
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "errors": list(entries)}
    headers = {"Content-Type": "application/problem+json", "X-Request-Id": "req-1", **(headers or {})}
    return lambda request: httpx.Response(status, content=json.dumps(body), headers=headers)


def html(status):
    return lambda request: httpx.Response(status, html="<html><h1>nginx</h1></html>")


def fails(error):
    def answer(request):
        raise error

    return answer


ACTED = ok(
    {
        "policy_version": 12,
        "readout": "phrase",
        "fashion": "a newer service",
        "results": [
            {
                "action": 1,
                "label": "push right",
                "log_prob": -0.11,
                "log_probs": [-2.3, -0.11],
                "scores": [0.1, 2.3],
                "value": 17.2,
                "num_prompt_tokens": 21,
                "mood": "unknown to this client",
            }
        ],
    }
)
GUIDED = ok(
    {
        "model": "embedded",
        "model_sha256": "ab",
        "results": [{"hints": [{"text": "push right", "log_prob": -5.2, "finish_reason": "stop"}]}],
    }
)
REWARDED = ok({"scorer": "alignment", "model": "embedded", "model_sha256": "ab", "results": [{"reward": 0.42}]})
MODEL = {"name": "embedded", "sha256": "ab", "architecture": "gpt2", "num_parameters": 5, "max_prompt_tokens": 9}
LIMITS = (
    "max_observations max_guidance_observations max_reward_items max_actions max_body_bytes max_weights_bytes "
    "max_batch_tokens max_queue_observations max_request_timeout_ms default_request_timeout_ms"
)
INFORMED = ok(
    {
        "api_version": 1,
        "policy_version": 3,
        "readout": "head",
        "prompt_template_version": 1,
        "device": "cpu",
        "policy": MODEL,
        "guidance": MODEL,
        "scorer": MODEL,
        "scorers": ["alignment"],
        "env_ids": ["CartPole-v1"],
        "limits": dict.fromkeys(LIMITS.split(), 7),
    }
)


def weighed(policy_version, sha256=SHA256):
    return ok(
        {
            "policy_version": policy_version,
            "sha256": sha256,
            "num_parameters": 5,
            "architecture": "gpt2",
            "tokenizer_sha256": "cd",
            "retained_versions": [policy_version],
            "created_at": "2026-01-01T00:00:00Z",
            "durable": True,
        }
    )


BUSY = problem(429, "Queue full", headers={"Retry-After": "3"})
STARTING = problem(503, "Unavailable")
CONFLICT = problem(409, "Version conflict")
REFUSED = fails(httpx.ConnectError("[Errno 111] Connection refused"))
RESET = fails(httpx.ReadError("connection reset"))
SILENT = fails(httpx.ReadTimeout("timed out"))


class ScriptedService:
    """Answers in the order of the script, the last answer for ever, and keeps what it was sent."""

    def __init__(self, kind):
        self.kind, self.script, self.requests, self.sleeps, self.now_s = kind, [], [], [], 1000.0

    def client(self, *script, base_url="http://service", **settings):
        self.script = list(script)
        kind = {"sync": Client, "async": AsyncClient}[self.kind]
        client = kind(base_url, transport=httpx.MockTransport(self._answer), **settings)
        client._sleep = self._async_sleep if self.kind == "async" else lambda seconds: self._sleep(seconds)
        return client

    async def call(self, client, name, *arguments, **options):
        result = getattr(client, name)(*arguments, **options)
        return await result if inspect.isawaitable(result) else result

    async def failure(self, client, name, *arguments, **options):
        with pytest.raises(HintwiseError) as caught:
            await self.call(client, name, *arguments, **options)
        return caught.value

    @property
    def sent(self):
        return json.loads(self.requests[-1].content)

    def _answer(self, request):
        self.requests.append(request)
        assert len(self.requests) < 2000, "the client never gives up"
        return (self.script.pop(0) if len(self.script) > 1 else self.script[0])(request)

    def _sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now_s += seconds

    async def _async_sleep(self, seconds):
        self._sleep(seconds)
