"""`POST /act` as a good engineer writes it in an afternoon: FastAPI, pydantic and transformers, nothing else.

    python -m benchmarks.naive_service [--model M] [--per-candidate] [--handler async|sync]

One request is one forward pass of all its observations and candidates. With --per-candidate it is one for
each observation and candidate, as the first version of such a handler often has it. It has no critic, no
deadlines, no limits and no weights to swap; it runs on the same server (uvloop, httptools) with the same number
of threads as the service. benchmarks/http.py compares the two.
"""

from __future__ import annotations

import argparse
import socket

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.naive_scores import NaiveScorer
from hintwise.prompts import action_prompt


class ActRequest(BaseModel):
    observations: list[str]
    actions: list[str]
    task: str | None = None
    seed: int | None = None


class Result(BaseModel):
    action: int
    label: str
    log_prob: float
    log_probs: list[float]


class ActAnswer(BaseModel):
    results: list[Result]


def create_app(scorer: NaiveScorer, *, per_candidate: bool = False, handler: str = "async") -> FastAPI:
    """Returns the application.

    Args:
        scorer: The model.
        per_candidate: One forward pass for each observation and candidate.
        handler: `async` computes on the event loop, `sync` in the server's pool of threads.
    """
    app = FastAPI()

    def answer(request: ActRequest) -> ActAnswer:
        prompts = [action_prompt(text, task=request.task) for text in request.observations]
        log_probs = scorer.log_probs(prompts, request.actions, per_candidate=per_candidate)
        generator = torch.Generator()
        if request.seed is not None:
            generator.manual_seed(request.seed)
        drawn = torch.multinomial(log_probs.exp(), 1, generator=generator).squeeze(-1).tolist()
        return ActAnswer(
            results=[
                Result(action=action, label=request.actions[action], log_prob=row[action], log_probs=row)
                for action, row in zip(drawn, log_probs.tolist(), strict=True)
            ]
        )

    async def answer_on_the_event_loop(request: ActRequest) -> ActAnswer:
        return answer(request)

    app.post("/act")(answer if handler == "sync" else answer_on_the_event_loop)
    return app


def serve(app: FastAPI) -> None:
    """Serves on a free port of loopback, and prints its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded", help="embedded, a directory or a hub id")
    parser.add_argument("--per-candidate", action="store_true", help="one forward pass for each candidate")
    parser.add_argument("--handler", choices=("async", "sync"), default="async", help="where the model runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    serve(create_app(NaiveScorer(arguments.model), per_candidate=arguments.per_candidate, handler=arguments.handler))


if __name__ == "__main__":
    main()
