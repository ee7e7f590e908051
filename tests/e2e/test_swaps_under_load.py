"""Weights are swapped while clients act: every answer is of the version that it names."""

import signal
import threading
from collections import defaultdict

import httpx
import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from hintwise.action_batch import collate
from hintwise.digests import content_digest, sha256_of
from hintwise.policy import Policy
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder
from tests.e2e.connection import PATIENCE_S

ACTIONS = ["push left", "push right"]
NUM_SWAPS, NUM_CLIENTS = 200, 8


class Caller(threading.Thread):
    """Calls /act without pause with texts of its own, and keeps every answer."""

    def __init__(self, url, texts, seen):
        super().__init__()
        self.texts, self.answers, self.failures = texts, [], []
        self.over = threading.Event()
        self._url, self._seen = url, seen

    def run(self):
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while not self.over.is_set():
                response = client.post("/act", json={"observations": self.texts, "actions": ACTIONS})
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                answer = response.json()
                version = answer["policy_version"]
                assert response.headers["x-policy-version"] == str(version)
                self.answers.append((version, np.array([result["log_probs"] for result in answer["results"]])))
                self._seen(version)


class Newest:
    """The newest version that any caller met."""

    def __init__(self):
        self.version, self._changed = 0, threading.Condition()

    def __call__(self, version):
        with self._changed:
            self.version = max(self.version, version)
            self._changed.notify_all()

    def wait_for(self, version):
        with self._changed:
            assert self._changed.wait_for(lambda: self.version >= version, PATIENCE_S), f"nobody met {version}"


def noise(state, version):
    """Returns the weights pushed as `version`; only the trunk's numbers differ."""
    generator = torch.Generator().manual_seed(version)
    return {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) if tensor.dim() else tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
def recomputed(language_model, state, texts):
    """Returns what weights say about texts, offline."""
    policy = Policy(language_model)
    assert policy.load_state_dict(state, strict=False).missing_keys == ["trunk.lm_head.weight"]
    encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
    prompts = [encoder.encode(action_prompt(text)) for text in texts]
    return policy(collate(prompts, [encoder.phrases(tuple(ACTIONS))] * len(prompts))).log_probs.numpy()


@pytest.mark.slow
def test_200_swaps_while_8_clients_act_without_pause(own_service, fresh_embedded):
    url, newest = own_service.url, Newest()
    original = load(httpx.get(f"{url}/weights/1").content)
    sizes = [1, 2, 3, 4, 8, 8, 16, 200]  # the last travels in more than one batch
    assert len(sizes) == NUM_CLIENTS
    texts = [[f"cart {n % 41} speed {k} pole 20 turn {n // 41}" for n in range(size)] for k, size in enumerate(sizes)]
    callers = [Caller(url, each, newest) for each in texts]
    for caller in callers:
        caller.start()
    try:
        newest.wait_for(1)
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            for version in range(2, NUM_SWAPS + 2):
                data = save(noise(original, version))
                headers = {"if-match": f'"{version - 1}"', "content-digest": content_digest(sha256_of(data))}
                response = client.put("/weights", content=data, headers=headers)
                assert response.status_code == 200, response.text
                assert response.json()["policy_version"] == version
                if version % 2:  # every other version is pushed on the heels of the one before
                    newest.wait_for(version)
        newest.wait_for(NUM_SWAPS + 1)
    finally:
        for caller in callers:
            caller.over.set()
        for caller in callers:
            caller.join()
    assert [caller.failures for caller in callers] == [[]] * NUM_CLIENTS
    check_answers(fresh_embedded, original, callers)
    assert own_service.metric("hintwise_swaps_total") == NUM_SWAPS
    own_service.stop(signal.SIGINT)


def check_answers(language_model, original, callers):
    """Every answer's log-probs are those of the version it names, and of no other."""
    answers = defaultdict(list)
    for k, caller in enumerate(callers):
        for version, log_probs in caller.answers:
            answers[version].append((k, log_probs))
    assert len(answers) >= NUM_SWAPS / 2
    previous: np.ndarray | None = None
    for version in sorted(answers):
        state = original if version == 1 else noise(original, version)
        everything = recomputed(language_model, state, [text for caller in callers for text in caller.texts])
        parts = np.split(everything, np.cumsum([len(caller.texts) for caller in callers])[:-1])
        for k, log_probs in answers[version]:
            tolerance = 1e-5 * (1 + np.abs(parts[k]))
            assert (np.abs(log_probs - parts[k]) <= tolerance).all(), f"version {version}, caller {k}"
        if previous is not None:  # the weights differ enough for this to mean something
            assert (np.abs(previous - everything) > 1e-3).any()
        previous = everything
