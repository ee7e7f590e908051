"""Checks a describer on real steps: what it promises, and what its texts cost. `worker describe --check` runs it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

import numpy as np

from hintwise.describers import Describer
from hintwise.errors import InvalidRequest
from hintwise.prompts import action_prompt, continuation
from hintwise.tokens import TextEncoder
from worker.errors import DescriberWrong
from worker.text_env import TextEnv, plain

UNREADABLE: tuple[object, ...] = (None, [], {}, [["?"]], 0.5j)
"""No environment's observations; what a request holds may be anything."""


def check(env: TextEnv, encoder: TextEncoder, *, num_steps: int, seed: int) -> str:
    """Returns what a describer's texts cost and tell apart, from steps of random legal actions.

    Args:
        env: The environment, with its describer.
        encoder: That tokens are counted with.
        num_steps: Steps to take; an episode that ends is followed by that of the next seed.
        seed: Of the first episode, and of the random actions.

    Raises:
        DescriberWrong: It breaks a promise; the message has all that are broken, each once.
    """
    _raise_any(env, _constant_faults(env))
    generator = np.random.default_rng(seed)
    texts: dict[str, str] = {}  # of each observation seen, as JSON
    ended = True
    for number in range(num_steps):
        try:
            if ended:
                env.reset(seed + number)
            _raise_any(env, _step_faults(env))
            texts[json.dumps(plain(env.observation))] = env.state.text
            step = env.step(int(generator.integers(len(env.state.actions))))
        except Exception:
            _raise_any(env, _step_faults(env))
            raise  # it was not the describer
        ended = step.terminated or step.truncated
    return "\n".join(_account(env, encoder, texts, num_steps))


def _raise_any(env: TextEnv, faults: Iterable[str]) -> None:
    """Raises `DescriberWrong` with all faults, if there are some."""
    told = list(faults)
    if told:
        raise DescriberWrong("\n- ".join([f"the describer of {env.env_id} is wrong:", *told]))


def _constant_faults(env: TextEnv) -> Iterator[str]:
    """Yields what is wrong whatever is observed."""
    describer, num_actions = env.describer, env.num_actions
    if describer.env_id != env.env_id.rpartition(":")[2]:  # `module:id` also names what registers it
        yield f"env_id is {describer.env_id!r}; expected the environment's own"
    if not describer.task or "\n" in describer.task:
        yield f"task is {describer.task!r}; expected one line that says what to achieve"
    actions = list(describer.actions)
    if len(actions) != num_actions:
        yield f"actions has {len(actions)} phrases for an environment of {num_actions} actions"
    if len(set(actions)) < len(actions):
        yield f"actions repeats itself: {actions}"
    for phrase in actions:
        if not phrase.strip() or "\n" in phrase:
            yield f"an action is called {phrase!r}; expected words on one line"
    yield from _faults_of_unreadable(describer)


def _faults_of_unreadable(describer: Describer) -> Iterator[str]:
    for unreadable in UNREADABLE:
        try:
            describer.describe(unreadable)
        except InvalidRequest:
            continue
        except Exception as error:  # noqa: BLE001 (whatever the code of others raises)
            yield f"describe({unreadable!r}) raises {type(error).__name__}; expected InvalidRequest"
        else:
            yield f"describe({unreadable!r}) takes what is no observation; expected InvalidRequest"


def _step_faults(env: TextEnv) -> Iterator[str]:
    """Yields what is wrong with one observation."""
    describer, observation = env.describer, env.observation
    shown = f"of the observation {plain(observation)}"
    try:
        text, legal = describer.describe(observation), list(describer.legal_actions(observation))
    except Exception as error:  # noqa: BLE001 (whatever the code of others raises)
        yield f"the text or the legal actions {shown} cannot be had: {type(error).__name__}: {error}"
        return
    if not text.strip() or "\n" in text:
        yield f"the text {shown} is {text!r}; expected words on one line"
    if describer.describe(observation) != text:
        yield f"the text {shown} is another the second time; expected the same for the same observation"
    if describer.describe(json.loads(json.dumps(plain(observation)))) != text:
        yield f"the text {shown} is another where it comes as JSON; the service takes observations as JSON"
    yield from _legal_faults(legal, env.num_actions, shown)


def _legal_faults(legal: Sequence[int], num_actions: int, shown: str) -> Iterator[str]:
    if not legal:
        yield f"legal_actions() {shown} is empty; expected at least one"
    if any(type(number) is not int for number in legal):
        yield f"legal_actions() {shown} is {list(legal)}; expected Python's own int, which JSON can hold"
    if len(set(legal)) < len(legal) or not set(legal) <= set(range(num_actions)):
        yield f"legal_actions() {shown} is {list(legal)}; expected distinct numbers from 0 to {num_actions - 1}"


def _account(env: TextEnv, encoder: TextEncoder, texts: dict[str, str], num_steps: int) -> Iterator[str]:
    """Yields lines about what was seen."""
    lengths = [len(encoder.encode(action_prompt(text, task=env.task))) for text in set(texts.values())]
    of_actions = {phrase: len(encoder.encode(continuation(phrase))) for phrase in env.action_phrases}
    yield f"{env.env_id}: nothing is wrong in {num_steps:,} steps"
    yield f"observations: {len(texts):,} different ones, told by {len(set(texts.values())):,} different texts"
    yield f"tokens of a prompt: {min(lengths)} to {max(lengths)}, median {median(lengths):g}"
    yield f"tokens of an action: {min(of_actions.values())} to {max(of_actions.values())}"
    if len(set(of_actions.values())) > 1:
        longest = max(of_actions, key=lambda phrase: of_actions[phrase])
        yield f"to consider: scores are sums over tokens, so a longer phrase such as {longest!r} begins less likely"
