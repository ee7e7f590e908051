"""A tiny language model, and a service in this process that serves it through the client's interface."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from safetensors.torch import load
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hintwise.action_batch import collate
from hintwise.digests import sha256_of
from hintwise.errors import VersionConflict
from hintwise.language_model import load_language_model
from hintwise.policy import Policy
from hintwise.prompts import PROMPT_TEMPLATE_VERSION, action_prompt
from hintwise.schemas import (
    ActResponse,
    ActResult,
    GuidanceResponse,
    GuidanceResult,
    Hint,
    RewardResponse,
    RewardResult,
    ServiceInfo,
    WeightsInfo,
)
from hintwise.tokens import TextEncoder
from hintwise.weights import apply, dump
from tests.unit.worker.runs import connecting


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """A GPT-2 of one layer, as a directory that `load_language_model` takes."""
    directory = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [action_prompt(" ".join(map(str, range(100))), task="Keep the pole upright.") + " push left push right"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=512, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
        ),
    )
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end)
    fast.save_pretrained(directory)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(fast),
        n_positions=128,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_inner=32,
        initializer_range=0.1,  # five times GPT-2's: so small a model tells two states apart sooner
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(directory)
    return directory


@pytest.fixture
def language_model(model_dir):
    return load_language_model(str(model_dir))


@pytest.fixture
def encoder(language_model):
    return TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)


@pytest.fixture
def service(language_model, encoder):
    return InProcessService(language_model, encoder)


@pytest.fixture
def make_service(model_dir):
    """Makes services that share nothing."""

    def make(head_actions=None):
        language_model = load_language_model(str(model_dir))
        encoder = TextEncoder(language_model.tokenizer, max_tokens=language_model.max_tokens)
        return InProcessService(language_model, encoder, head_actions)

    return make


class InProcessService:
    """The client's interface over a policy in this process.

    `before_act[n]` is called before the n-th answer, counted from 0: the place to play tricks.
    """

    def __init__(self, language_model, encoder, head_actions=None):
        self.language_model, self.encoder, self.head_actions = language_model, encoder, head_actions
        self.policy = Policy(language_model, head_actions=head_actions)
        self.served = {1: dump(self.policy)}
        self.version = 1
        self.before_act = {}
        self.adviser_sha256 = "0" * 64
        self.calls = Counter()
        self.seeds, self.batch_sizes = [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def info(self):
        model = {
            "name": self.language_model.name,
            "sha256": self.language_model.sha256,
            "architecture": self.language_model.architecture,
            "num_parameters": self.language_model.num_parameters,
            "max_prompt_tokens": self.language_model.max_tokens,
        }
        return ServiceInfo.model_construct(
            policy_version=self.version,
            readout=self.policy.readout,
            head_actions=self.head_actions,
            prompt_template_version=PROMPT_TEMPLATE_VERSION,
            policy=ServiceInfo.model_fields["policy"].annotation(**model),
            guidance=ServiceInfo.model_fields["guidance"].annotation(
                **{**model, "name": "told", "sha256": self.adviser_sha256}
            ),
            scorer=ServiceInfo.model_fields["scorer"].annotation(
                **{**model, "name": "told", "sha256": self.adviser_sha256}
            ),
        )

    def weights(self):
        self.calls["weights"] += 1
        return WeightsInfo(
            policy_version=self.version,
            sha256=sha256_of(self.served[self.version]),
            num_parameters=self.language_model.num_parameters,
            architecture=self.policy.architecture,
            tokenizer_sha256=self.language_model.tokenizer_sha256,
            retained_versions=sorted(self.served),
            created_at=datetime.now(UTC),
            durable=True,
        )

    def download_weights(self, policy_version, *, as_pushed=False):
        return self.served[policy_version]

    def put_weights(self, data, *, if_match):
        self.calls["put_weights"] += 1
        if if_match != self.version:
            raise VersionConflict(f"version {self.version} serves now, not {if_match}")
        self.force_weights(data)
        return self.weights()

    def force_weights(self, data):
        """What a push by somebody else does."""
        self.version = max(self.served) + 1
        self.served[self.version] = data
        apply(self.policy, load(data))

    def act(
        self, observations, actions, *, task=None, hints=None, mode="sample", epsilon=None, temperature=1.0, seed=None
    ):
        if trick := self.before_act.get(self.calls["act"]):
            trick()
        self.calls["act"] += 1
        self.seeds.append(seed)
        self.batch_sizes.append(len(observations))
        lists = actions if isinstance(actions[0], list) else [actions] * len(observations)
        told = zip(observations, hints or [None] * len(observations), strict=True)
        prompts = [self.encoder.encode(action_prompt(text, task=task, hint=hint)) for text, hint in told]
        with torch.no_grad():
            candidates = [self.policy.candidates(self.encoder, tuple(phrases)) for phrases in lists]
            output = self.policy(collate(prompts, candidates))
        results = []
        for i, phrases in enumerate(lists):
            log_probs = output.log_probs[i, : len(phrases)].double()
            action = int(log_probs.argmax())
            generator = np.random.default_rng((seed[i], 0) if isinstance(seed, list) else (seed or 0, i))
            if mode == "sample":
                drawn_from = torch.softmax(output.scores[i, : len(phrases)].double() / temperature, 0).numpy()
                action = int(generator.choice(len(phrases), p=drawn_from))
            elif mode == "epsilon" and generator.random() < epsilon:
                action = int(generator.integers(len(phrases)))
            results.append(
                ActResult(
                    action=action,
                    label=phrases[action],
                    log_prob=float(log_probs[action]) if mode == "sample" else 0.0,
                    log_probs=log_probs.tolist(),
                    scores=output.scores[i, : len(phrases)].tolist(),
                    value=float(output.values[i]),
                    num_prompt_tokens=len(prompts[i]),
                )
            )
        return ActResponse(policy_version=self.version, readout=self.policy.readout, results=results)

    def hint_for(self, text):
        """What the guidance model says: a test may say something else."""
        return f"push {'left' if len(text) % 2 else 'right'}"

    def guidance(self, observations, actions=None, *, task=None, temperature=0.7, seed=None, **_):
        self.calls["guidance"] += 1
        results = [
            GuidanceResult(hints=[Hint(text=self.hint_for(text), log_prob=-1.0, finish_reason="stop")])
            for text in observations
        ]
        return GuidanceResponse(model="told", model_sha256=self.adviser_sha256, results=results)

    def reward(self, items, *, scorer="alignment", gamma=0.99):
        self.calls["reward"] += 1
        results = [RewardResult(reward=1.0 if item.action == item.hint else -1.0) for item in items]
        if scorer == "progress":
            results = [RewardResult(reward=0.0, potential=len(item.observation) % 10 / 10) for item in items]
        return RewardResponse(scorer=scorer, model="told", model_sha256=self.adviser_sha256, results=results)


@pytest.fixture
def connect(service):
    """Stands in for `worker.connection.connect`."""
    return connecting(lambda: service)
