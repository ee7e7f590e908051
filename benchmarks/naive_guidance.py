"""`POST /guidance` as a good engineer writes it in an afternoon: FastAPI and transformers' `generate`, nothing else.

    python -m benchmarks.naive_guidance --model DIR [--per-state] [--handler async|sync]

All states of a request are one batch, padded on the left; with --per-state `generate` runs once for each. A hint
ends with its line, and the log-probabilities that our answers carry are left out, which spares it work. It runs on
the same server as the service, with one thread for the model. benchmarks/guidance.py compares the two.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.naive_service import serve
from hintwise.prompts import guidance_prompt


class GuidanceRequest(BaseModel):
    observations: list[str]
    actions: list[str] | None = None
    task: str | None = None
    max_new_tokens: int = 32
    temperature: float = 0.7
    seed: int | None = None


class Hint(BaseModel):
    text: str


class Result(BaseModel):
    hints: list[Hint]


class GuidanceAnswer(BaseModel):
    results: list[Result]


class NaiveHintWriter:
    """Hints from a causal language model by `generate` alone.

    Args:
        directory: Of the model and its tokenizer.
    """

    def __init__(self, directory: str) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, padding_side="left")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        tokens = range(len(self._tokenizer))
        self._stop_ids = [token for token in tokens if "\n" in self._tokenizer.decode([token])]
        self._stop_ids.append(self._tokenizer.eos_token_id)

    @torch.inference_mode()
    def write(self, prompts: Sequence[str], *, max_new_tokens: int, temperature: float) -> list[str]:
        """Returns a hint for each prompt, from one batch."""
        encoded = self._tokenizer(list(prompts), padding=True, return_tensors="pt")
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        written = self._model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=max_new_tokens,
            eos_token_id=self._stop_ids,
            pad_token_id=self._tokenizer.pad_token_id,
            **sampling,
        )
        new = written[:, encoded["input_ids"].shape[1] :]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.partition("\n")[0].strip() for text in texts]


def create_app(writer: NaiveHintWriter, *, per_state: bool = False, handler: str = "async") -> FastAPI:
    """Returns the application.

    Args:
        writer: The model.
        per_state: `generate` runs for each state by itself.
        handler: `async` computes on the event loop, `sync` in the server's pool of threads.
    """
    app = FastAPI()

    def answer(request: GuidanceRequest) -> GuidanceAnswer:
        prompts = [guidance_prompt(text, task=request.task, actions=request.actions) for text in request.observations]
        if request.seed is not None:
            torch.manual_seed(request.seed)
        batches = [[prompt] for prompt in prompts] if per_state else [prompts]
        write = partial(writer.write, max_new_tokens=request.max_new_tokens, temperature=request.temperature)
        texts = [text for batch in batches for text in write(batch)]
        return GuidanceAnswer(results=[Result(hints=[Hint(text=text)]) for text in texts])

    async def answer_on_the_event_loop(request: GuidanceRequest) -> GuidanceAnswer:
        return answer(request)

    app.post("/guidance")(answer if handler == "sync" else answer_on_the_event_loop)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a directory")
    parser.add_argument("--per-state", action="store_true", help="`generate` once for each state")
    parser.add_argument("--handler", choices=("async", "sync"), default="async", help="where the model runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    serve(create_app(NaiveHintWriter(arguments.model), per_state=arguments.per_state, handler=arguments.handler))


if __name__ == "__main__":
    main()
