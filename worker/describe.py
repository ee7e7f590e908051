"""Shows an environment as the model reads it: `python -m worker describe --env-id Taxi-v4`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from hintwise.language_model import load_language_model
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder
from worker.config import DescribeConfig
from worker.describer_check import check
from worker.text_env import State, Step, TextEnv


def describe(config: DescribeConfig) -> None:
    """Prints some steps: the prompt and its tokens, the legal actions, the random one taken and what it led to.

    Raises:
        DescriberWrong: `check` found something wrong.
        EnvironmentUnsupported: The environment cannot be used.
        InvalidRequest: It cannot be put into words.
    """
    language_model = load_language_model("embedded")
    encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
    with closing(TextEnv(config.env_id, config.env_kwargs, config.memory)) as env:
        if config.check:
            print(check(env, encoder, num_steps=config.steps, seed=config.seed))  # noqa: T201
            return
        for text in shown_steps(env, encoder, num_steps=config.steps, seed=config.seed):
            print(text)  # noqa: T201


def shown_steps(env: TextEnv, encoder: TextEncoder, *, num_steps: int, seed: int) -> Iterator[str]:
    """Yields one text per step; an episode that ends is followed by that of the next seed."""
    generator = np.random.default_rng(seed)
    state = env.reset(seed)
    for number in range(num_steps):
        prompt = action_prompt(state.text, task=env.task)
        choice = int(generator.integers(len(state.actions)))
        step = env.step(choice)
        yield _shown(number, prompt, len(encoder.encode(prompt)), state, choice, step)
        state = step.state
        if step.terminated or step.truncated:
            seed += 1
            state = env.reset(seed)


def _shown(number: int, prompt: str, num_tokens: int, state: State, choice: int, step: Step) -> str:
    end = ", terminated" if step.terminated else ", truncated" if step.truncated else ""
    lines = [
        f"step {number}: {num_tokens} tokens",
        *(f"  | {line}" for line in prompt.splitlines()),
        f"  legal: {', '.join(state.actions)}",
        f"  taken: {state.actions[choice]}, reward {step.reward:g}{end}",
    ]
    return "\n".join(lines)
