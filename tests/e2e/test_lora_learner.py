"""What a run of adapters begins from, goes on from, and refuses: a learner in this process, a service in another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
import torch
from safetensors.torch import load

from benchmarks import lora_push
from hintwise import Client
from hintwise.digests import sha256_of
from hintwise.errors import WeightsRejected
from hintwise.lora import is_of_trunk
from hintwise.weights import metadata_in
from tests.e2e.processes import running_service
from worker.checkpoint import Checkpoint
from worker.config import TrainConfig
from worker.errors import CheckpointUnusable, ServiceMismatch
from worker.learner import Learner
from worker.served_policy import ServedPolicy

pytest.importorskip("peft", reason="needs the extra `lora`")

LORA = {"lora_rank": 4}
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> Iterator[str]:
    with running_service(tmp_path_factory.mktemp("weights"), "--max-retained-versions", "100") as url:
        yield url


@pytest.fixture
def client(url) -> Iterator[Client]:
    with Client(url, timeout_s=TIMEOUT_S) as client:
        client.rollback(1)
        yield client


@pytest.fixture
def make(client) -> Iterator[Callable[..., Learner]]:
    """Makes learners of short runs, which begin at once."""
    with ExitStack() as stack:

        def make(*, begin: bool = True, **changed) -> Learner:
            settings = {
                "num_envs": 2,
                "num_steps": 4,
                "minibatch_size": 4,
                "update_epochs": 1,
                "learning_rate": 0.01,
                "total_steps": 80,
                "env_workers": 0,
                **changed,
            }
            config = TrainConfig(env_id="CartPole-v1", **settings)
            learner = stack.enter_context(closing(Learner(config, ServedPolicy(client))))
            if begin:
                learner.begin()
            return learner

        yield make


def learned(make, **settings) -> Checkpoint:
    """A run's checkpoint after one update."""
    learner = make(**settings)
    learner.run_update()
    return learner.checkpoint()


def test_a_run_begins_from_the_base_with_a_checkpoint_of_adapters(make, client):
    learner = make(**LORA, seed=5)
    state = load(learner.checkpoint().policy)
    assert all(not tensor.any() for name, tensor in state.items() if name.endswith("lora_B.weight"))
    assert state["value_scale"] == learner.config.initial_value_scale
    assert client.weights().policy_version == 1
    assert learner.run_update().metrics.first_ratio_error < 1e-4


def test_the_seed_decides_how_adapters_begin(make):
    one, same, other = (load(make(**LORA, seed=seed).checkpoint().policy) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], tensor) for name, tensor in same.items())
    assert any(not torch.equal(one[name], tensor) for name, tensor in other.items())


def test_what_is_pushed_is_what_answers_and_is_known_again(make, client):
    learner = make(**LORA)
    learner.run_update()
    served, pushed = client.weights(), learner.served.data
    assert served.sha256 == sha256_of(pushed)
    assert metadata_in(pushed)["hintwise.format"] == "lora"
    assert "hintwise.canary" in metadata_in(pushed)
    learner.served.resync()  # finds its own, and pushes nothing
    assert client.weights().policy_version == served.policy_version


def test_a_service_that_went_back_gets_the_adapters_again(make, client):
    learner = make(**LORA)
    learner.run_update()
    client.rollback(1)
    report = learner.run_update()
    assert report.stale_transitions == 0
    assert report.metrics.first_ratio_error < 1e-4


def test_a_resumed_run_ends_with_the_weights_of_one_that_went_on(make):
    whole = make(**LORA)
    whole.run_update()
    middle = whole.checkpoint()
    whole.run_update()
    resumed = make(**LORA, begin=False)
    resumed.restore(middle)
    resumed.run_update()
    ours, wanted = resumed.checkpoint(), whole.checkpoint()
    assert ours.state.step == wanted.state.step
    for found, expected in ((load(ours.policy), load(wanted.policy)), (ours.optimizer, wanted.optimizer)):
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_the_optimizer_remembers_what_learns_alone(make):
    optimizer = learned(make, **LORA).optimizer
    names = {key.rpartition("/")[0] for key in optimizer}
    assert all(not is_of_trunk(name) or ".lora_" in name for name in names)
    assert any(".lora_B." in name for name in names)


def test_a_run_goes_on_from_adapters_like_its_own(make, client):
    first = make(**LORA, seed=1)
    first.run_update()
    second = load(make(**LORA, seed=2).checkpoint().policy)
    assert all(torch.equal(second[name], tensor) for name, tensor in load(first.served.data).items())


@pytest.mark.parametrize("other", [{"lora_rank": 2}, {"lora_rank": 4, "lora_alpha": 3.0}], ids=["rank", "alpha"])
def test_adapters_of_another_kind_are_refused(make, other):
    learned(make, **LORA)
    with pytest.raises(ServiceMismatch, match="roll it back"):
        make(**other)


def test_a_trunk_that_was_trained_as_a_whole_is_refused(make):
    learned(make)
    with pytest.raises(ServiceMismatch, match="trained as a whole"):
        make(**LORA)


def test_whole_weights_go_on_from_adapters(make, client):
    adapters = make(**LORA)
    adapters.run_update()
    learner = make()
    name = "trunk.transformer.h.0.attn.c_attn"
    merged = adapters.policy.get_submodule(name)
    wanted = merged.base_layer.weight + merged.get_delta_weight("default")
    torch.testing.assert_close(learner.policy.get_submodule(name).weight, wanted, rtol=1e-5, atol=1e-6)
    assert learner.run_update().metrics.first_ratio_error < 1e-4


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lora_rank": 2}, r"lora_rank \(was 4, now 2\)"),
        ({"lora_rank": 4, "lora_alpha": 3.0}, r"lora_alpha \(was None, now 3.0\)"),
        ({"lora_rank": 4, "lora_targets": "c_proj"}, r"lora_targets \(was None, now c_proj\)"),
        ({}, r"lora_rank \(was 4, now 0\)"),
    ],
)
def test_a_run_does_not_go_on_with_other_adapters(make, changed, told):
    saved = learned(make, **LORA)
    with pytest.raises(CheckpointUnusable, match=told):
        make(**changed, begin=False).restore(saved)


def test_a_run_may_go_on_in_more_parts(make):
    saved = learned(make, **LORA)
    make(**LORA, gradient_accumulation=2, begin=False).restore(saved)


def test_a_run_from_before_there_were_adapters_goes_on(make):
    saved = learned(make)
    for name in ("lora_rank", "lora_alpha", "lora_targets", "gradient_accumulation"):
        del saved.state.config[name]
    make(begin=False).restore(saved)


def test_another_base_is_refused_before_anything_is_pushed(make, client, another_base):
    saved = learned(make, **LORA)
    before = client.weights().policy_version
    with pytest.raises(ServiceMismatch, match="give both the same --model") as raised:
        make(**LORA, model=str(another_base))
    assert str(client.info().policy.sha256) in str(raised.value)
    with pytest.raises(WeightsRejected) as raised:
        make(**LORA, model=str(another_base), begin=False).restore(saved)
    assert client.info().policy.sha256 in str(raised.value)
    assert client.weights().policy_version == before


def test_the_benchmark_counts_what_both_kinds_of_push_cost(client):
    told = lora_push.measure(client, "embedded", rank=1, rounds=2)
    assert told["whole"]["bytes"] > 10 * told["adapters"]["bytes"]
    assert told["ratio"]["bytes"] == round(told["whole"]["bytes"] / told["adapters"]["bytes"], 1)
    assert told["adapters"]["bytes"] == told["first_after_whole"]["bytes"]
    assert all(told[kind]["push_s"]["median"] > 0 for kind in ("whole", "first_after_whole", "adapters"))
    assert client.weights().policy_version > 6


def test_named_layers_get_adapters(make):
    policy = load(learned(make, lora_rank=2, lora_targets="c_fc,attn.c_proj").policy)
    layers = {name.rsplit(".", 2)[0].split(".", 4)[-1] for name in policy if is_of_trunk(name)}
    assert layers == {"mlp.c_fc", "attn.c_proj"}
