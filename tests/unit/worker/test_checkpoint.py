"""Checkpoints, and the promise that a resumed run is the run that was never interrupted."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from hintwise.errors import ServiceUnreachable
from hintwise.policy import Policy
from hintwise.weights import dump
from tests.unit.worker.runs import begun, small_config
from worker import checkpoint as checkpoint_page
from worker.checkpoint import (
    last_checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from worker.errors import CheckpointUnusable, Interrupted, ServiceMismatch
from worker.learner import Learner
from worker.served_policy import ServedPolicy

LEFT_RIGHT = ["push left", "push right"]


@pytest.fixture
def config(tmp_path, model_dir):
    settings = {"num_envs": 2, "num_steps": 16, "update_epochs": 2, "gamma": 0.99, "seed": 3}
    return small_config(tmp_path, model_dir, total_steps=160, **settings)


def resumed(config, service, checkpoint):
    learner = Learner(config, ServedPolicy(service))
    learner.restore(checkpoint)
    return learner


def numbers(report):
    """The report without what the clock decides."""
    return {name: value for name, value in report.record().items() if not name.endswith("_s")}


def raiser(error):
    def fail(*_, **__):
        raise error

    return fail


def on_disk(run_dir, learner):
    return load_checkpoint(save_checkpoint(run_dir, learner.checkpoint()))


def test_a_resumed_run_has_the_same_numbers_bit_for_bit(config, service, make_service):
    learner = begun(config, service)
    whole = [numbers(learner.run_update()) for _ in range(5)]

    first = begun(config, make_service())
    again = [numbers(first.run_update()) for _ in range(2)]
    second_service = first.served.client
    second = resumed(config, second_service, on_disk(config.directory, first))
    again += [numbers(second.run_update()) for _ in range(3)]
    assert again == whole
    ours, theirs = load(second.served.data), load(learner.served.data)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_run_resumed_on_a_service_that_lost_everything_has_the_same_numbers(config, service, make_service):
    learner = begun(config, service)
    learner.run_update()
    checkpoint = on_disk(config.directory, learner)
    expected = numbers(learner.run_update())
    got = numbers(resumed(config, make_service(), checkpoint).run_update())
    assert {**got, "policy_version": None} == {**expected, "policy_version": None}


def test_a_run_that_stops_in_a_rollout_is_saved_as_it_was_before(config, service, make_service):
    learner = begun(config, service)
    whole = [numbers(learner.run_update()) for _ in range(3)]

    stopped, calls = begun(config, make_service()), []

    def stop():
        calls.append(1)
        if len(calls) == 7:
            raise Interrupted("stopped by SIGINT", signal_number=signal.SIGINT)

    again = [numbers(stopped.run_update())]
    with pytest.raises(Interrupted):
        stopped.run_update(before_step=stop)
    second = resumed(config, stopped.served.client, on_disk(config.directory, stopped))
    again += [numbers(second.run_update()) for _ in range(2)]
    assert again == whole


def test_an_update_whose_push_failed_is_not_lost(config, service, make_service, monkeypatch):
    learner = begun(config, service)
    whole = [numbers(learner.run_update()) for _ in range(2)]

    cut = begun(config, make_service())
    other = cut.served.client
    with monkeypatch.context() as patched:
        patched.setattr(other, "put_weights", raiser(ServiceUnreachable("gone")))
        with pytest.raises(ServiceUnreachable):
            cut.run_update()
    checkpoint = on_disk(config.directory, cut)
    assert checkpoint.state.update == 1
    assert numbers(resumed(config, other, checkpoint).run_update()) == whole[1]


def test_the_service_serves_the_checkpoint_after_resuming(config, service, make_service):
    learner = begun(config, service)
    learner.run_update()
    fresh = make_service()
    resumed(config, fresh, on_disk(config.directory, learner))
    assert fresh.served[fresh.version] == learner.served.data


@pytest.mark.parametrize("changed", [{"seed": 4}, {"gamma": 0.9}, {"num_steps": 8}, {"env_id": "CartPole-v0"}])
def test_other_settings_are_refused_by_name(config, service, changed, monkeypatch):
    checkpoint = begun(config, service).checkpoint()
    other = config.model_copy(update=changed)
    (name,) = changed
    if name == "env_id":  # gymnasium warns of the old version
        monkeypatch.setattr("worker.learner.open_envs", lambda *_, **__: None)
    with pytest.raises(CheckpointUnusable, match=rf"{name} \(was .*, now {changed[name]}\)"):
        resumed(other, service, checkpoint)


def test_settings_that_enter_no_number_may_change(config, service):
    checkpoint = begun(config, service).checkpoint()
    other = config.model_copy(update={"total_steps": 999, "num_threads": 2, "checkpoint_every": 1, "resume": True})
    assert resumed(other, service, checkpoint).step == 0


@pytest.mark.parametrize("name", ["architecture", "tokenizer_sha256", "prompt_template_version"])
def test_a_checkpoint_of_another_model_is_refused(config, service, name):
    checkpoint = begun(config, service).checkpoint()
    setattr(checkpoint.state, name, 99 if name == "prompt_template_version" else "other")
    with pytest.raises(CheckpointUnusable, match=name):
        resumed(config, service, checkpoint)


def test_the_value_scale_is_set_while_the_head_is_untrained(config, service):
    learner = begun(config, service)
    assert learner.policy.value_scale.item() == pytest.approx(50)
    learner.run_update()
    assert load(service.served[2])["value_scale"].item() == pytest.approx(50)  # it travels with the weights


def test_the_value_scale_of_a_trained_head_is_kept(config, service):
    service.policy.value_head.bias.data.fill_(0.1)
    service.force_weights(dump(service.policy))
    assert begun(config, service).policy.value_scale.item() == 1.0


def test_choosing_the_value_scale_changes_no_answer_before_the_first_update(config, service):
    learner = begun(config, service)
    data = learner.checkpoint().policy
    assert data == service.served[1]
    assert resumed(config, service, learner.checkpoint()).policy.value_scale.item() == pytest.approx(50)


def test_the_optimizer_survives_a_checkpoint(config, service, language_model):
    learner = begun(config, service)
    learner.run_update()
    checkpoint = on_disk(config.directory, learner)
    assert checkpoint.optimizer.keys() == optimizer_tensors(learner.algorithm.optimizer, learner.policy).keys()
    policy = Policy(language_model)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.5)
    restore_optimizer(optimizer, policy, checkpoint.optimizer)
    for theirs, ours in zip(learner.policy.parameters(), policy.parameters(), strict=True):
        for what, tensor in learner.algorithm.optimizer.state[theirs].items():
            assert torch.equal(optimizer.state[ours][what], tensor)


def test_an_optimizer_of_another_policy_is_refused(language_model):
    policy = Policy(language_model)
    with pytest.raises(CheckpointUnusable, match="other"):
        restore_optimizer(torch.optim.Adam(policy.parameters()), policy, {"other/step": torch.tensor(1.0)})


@pytest.mark.parametrize("keep", [1, 3])
def test_only_the_last_few_are_kept(config, service, tmp_path, keep):
    learner = begun(config, service)
    saved = [save_checkpoint(tmp_path, learner.checkpoint(), keep=keep)]
    for _ in range(keep + 1):
        learner.run_update()
        saved.append(save_checkpoint(tmp_path, learner.checkpoint(), keep=keep))
    assert sorted((tmp_path / "checkpoints").iterdir()) == saved[-keep:]
    save_checkpoint(tmp_path, learner.checkpoint(), keep=1)  # fewer, and nothing new
    assert sorted((tmp_path / "checkpoints").iterdir()) == saved[-1:]
    assert last_checkpoint(tmp_path) == saved[-1]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_its_name_before_older_ones_lose_anything(
    config, service, tmp_path, monkeypatch
):
    learner, done = begun(config, service), []

    def noting(name, real):
        def call(path, *others):
            done.append((name, Path(path).name))
            return real(path, *others)

        return call

    monkeypatch.setattr(checkpoint_page, "sync", noting("sync", checkpoint_page.sync))
    monkeypatch.setattr(checkpoint_page, "_prune", noting("prune", checkpoint_page._prune))
    monkeypatch.setattr(Path, "rename", noting("rename", Path.rename))
    saved = save_checkpoint(tmp_path, learner.checkpoint())
    partial = f".writing-{saved.name}"
    synced = {("sync", path.name) for path in saved.iterdir()}
    assert set(done[: len(synced)]) == synced
    assert done[len(synced) :] == [
        ("sync", partial), ("rename", partial), ("sync", saved.parent.name), ("prune", tmp_path.name)
    ]  # fmt: skip


def test_a_checkpoint_half_written_is_not_the_last(config, service, tmp_path, monkeypatch):
    learner = begun(config, service)
    whole = save_checkpoint(tmp_path, learner.checkpoint())
    learner.run_update()
    with monkeypatch.context() as patched:
        patched.setattr("worker.checkpoint.save", raiser(OSError("disk full")))
        with pytest.raises(OSError, match="full"):
            save_checkpoint(tmp_path, learner.checkpoint())
    assert last_checkpoint(tmp_path) == whole
    later = save_checkpoint(tmp_path, learner.checkpoint())
    assert sorted((tmp_path / "checkpoints").iterdir()) == [whole, later]


@pytest.mark.parametrize("name", ["policy.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_checkpoint_is_named(config, service, tmp_path, name, damage):
    directory = save_checkpoint(tmp_path, begun(config, service).checkpoint())
    path = directory / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointUnusable, match=directory.name):
        load_checkpoint(directory)


def test_a_state_with_a_field_too_many_is_named(config, service, tmp_path):
    directory = save_checkpoint(tmp_path, begun(config, service).checkpoint())
    state = json.loads((directory / "state.json").read_text())
    (directory / "state.json").write_text(json.dumps({**state, "colour": "blue"}))
    with pytest.raises(CheckpointUnusable, match="colour"):
        load_checkpoint(directory)


def test_a_checkpoint_written_before_there_were_heads_is_one_of_phrases(config, service, tmp_path):
    directory = save_checkpoint(tmp_path, begun(config, service).checkpoint())
    state = json.loads((directory / "state.json").read_text())
    del state["head_actions"], state["config"]["readout"]
    (directory / "state.json").write_text(json.dumps(state))
    assert load_checkpoint(directory).state.head_actions is None
    assert resumed(config, service, load_checkpoint(directory)).policy.readout == "phrase"


def test_a_heads_run_resumes_with_the_same_numbers(config, make_service):
    learner = begun(config, make_service(LEFT_RIGHT))
    whole = [numbers(learner.run_update()) for _ in range(3)]
    first = begun(config, make_service(LEFT_RIGHT))
    again = [numbers(first.run_update())]
    checkpoint = on_disk(config.directory, first)
    assert checkpoint.state.head_actions == LEFT_RIGHT
    second = resumed(config, first.served.client, checkpoint)
    again += [numbers(second.run_update()) for _ in range(2)]
    assert repr(again) == repr(whole)  # before the first episode has ended its mean is nan, which equals nothing


@pytest.mark.parametrize(
    ("head_actions", "readout", "message"),
    [
        (["jump"], None, "head answers for"),
        (LEFT_RIGHT, "phrase", "asked for phrase"),
        (None, "head", "asked for head"),
    ],
)
def test_a_learner_refuses_a_service_that_reads_other_actions(config, make_service, head_actions, readout, message):
    asked = config.model_copy(update={"readout": readout})
    with pytest.raises(ServiceMismatch, match=message):
        Learner(asked, ServedPolicy(make_service(head_actions)))


def test_a_checkpoint_of_another_readout_is_refused(config, service, make_service):
    checkpoint = begun(config, make_service(LEFT_RIGHT)).checkpoint()
    with pytest.raises(CheckpointUnusable, match=r"architecture \(was .* head 2:"):
        resumed(config, service, checkpoint)


def test_nothing_in_a_checkpoint_is_pickle(config, service, tmp_path):
    directory = save_checkpoint(tmp_path, begun(config, service).checkpoint())
    assert {path.suffix for path in directory.iterdir()} == {".safetensors", ".json"}


def test_a_directory_without_checkpoints_has_no_last_one(tmp_path):
    assert last_checkpoint(tmp_path) is None
