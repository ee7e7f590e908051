"""`PUT /weights` with `hintwise.format: lora`: an adapter serves as the whole weights that it stands for."""

import copy
import json
import threading

import pytest
import pytest_asyncio
import torch
from safetensors import safe_open
from safetensors.torch import load, save

from hintwise.digests import sha256_of
from service import loaded_trunk, weight_download
from service.loaded_trunk import load_language_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = [f"cart {n} speed {n + 7} pole 20 turn {40 - n}" for n in range(6)]
LAYERS = [f"trunk.transformer.h.{n}.{name}" for n in range(2) for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc")]
ALPHA, RANK = 6.0, 3
A, B = f"{LAYERS[0]}.lora_A.weight", f"{LAYERS[0]}.lora_B.weight"


def base_of(service):
    return service.engine.policy.language_model.sha256


def metadata(service, **changed):
    told = {"format": "lora", "base_sha256": base_of(service), "lora_alpha": str(ALPHA), **changed}
    return {f"hintwise.{name}": value for name, value in told.items() if value is not None}


async def adapter(service, seed=0):
    """An adapter of three kinds of layer, one of them square, with heads of its own."""
    generator, state = torch.Generator().manual_seed(seed), {}
    whole = load((await service.http.get("/weights/1")).content)
    for layer in LAYERS:
        num_inputs, num_outputs = whole[f"{layer}.weight"].shape
        state[f"{layer}.lora_A.weight"] = torch.randn(RANK, num_inputs, generator=generator)
        state[f"{layer}.lora_B.weight"] = 0.05 * torch.randn(num_outputs, RANK, generator=generator)
    heads = {name: tensor for name, tensor in whole.items() if not name.startswith("trunk.")}
    heads["value_head.weight"] = torch.randn(heads["value_head.weight"].shape, generator=generator)
    return state | heads


def by_hand(whole, state):
    """The weights that an adapter stands for, by the formula."""
    merged = whole | {name: tensor for name, tensor in state.items() if not name.startswith("trunk.")}
    for layer in LAYERS:
        down, up = (state[f"{layer}.lora_{which}.weight"].double() for which in "AB")
        merged[f"{layer}.weight"] = (whole[f"{layer}.weight"].double() + ALPHA / RANK * (up @ down).T).float()
    return merged


async def pushed(service, seed=0):
    data = save(await adapter(service, seed), metadata=metadata(service))
    response = await service.put(data)
    assert response.status_code == 200, response.text
    return data, response.json()


async def answers(service):
    return [(result["scores"], result["value"]) for result in await service.act(TEXTS, mode="greedy")]


async def close(service, wanted):
    """Raises unless the service answers as `wanted`, but for rounding."""
    for (scores, value), (wanted_scores, wanted_value) in zip(await answers(service), wanted, strict=True):
        assert [*scores, value] == pytest.approx([*wanted_scores, wanted_value], rel=1e-4, abs=1e-4)


# Serving


async def test_an_adapter_serves_as_the_weights_it_stands_for(fresh):
    whole, first = await fresh.tensors(), await answers(fresh)
    data, info = await pushed(fresh)
    told = await answers(fresh)
    assert told != first
    assert (info["policy_version"], info["sha256"]) == (2, sha256_of(data))
    assert info["num_parameters"] == sum(t.numel() for t in fresh.engine.policy.policy.parameters())
    assert (await fresh.put(save(by_hand(whole, load(data))))).status_code == 200
    await close(fresh, told)


async def test_the_download_is_whole_and_the_pushed_file_is_to_be_had(fresh):
    whole = await fresh.tensors()
    data, info = await pushed(fresh)
    downloaded, wanted = await fresh.tensors(), by_hand(whole, load(data))
    assert downloaded.keys() == whole.keys()
    for name, tensor in downloaded.items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=1e-6, msg=name)
    response = await fresh.http.get("/weights/2?format=pushed")
    assert response.content == data
    assert sha256_of(response.content) == info["sha256"]
    assert (await fresh.http.get("/weights/1?format=pushed")).content == (await fresh.http.get("/weights/1")).content


async def test_a_download_can_be_pushed_as_full_weights(fresh, tmp_path):
    await pushed(fresh)
    told, response = await answers(fresh), await fresh.http.get("/weights/2")
    assert int(response.headers["content-length"]) == len(response.content)
    (tmp_path / "whole").write_bytes(response.content)
    with safe_open(tmp_path / "whole", "pt") as file:
        assert file.metadata() == {"hintwise.format": "full"}
    await fresh.put_noise()
    assert (await fresh.put(response.content)).status_code == 200
    assert await answers(fresh) == told


async def test_a_form_that_there_is_none_of_is_named(service):
    assert set((await service.refused("/weights/1?format=half", method="GET")).fields) == {"format"}


async def test_what_an_adapter_leaves_alone_takes_no_memory(fresh):
    await pushed(fresh)
    loaded = fresh.engine.policy.loaded_trunk.tensors()
    held = dict(fresh.engine.policy.policy.named_parameters())
    shared = {name for name, tensor in held.items() if name in loaded and tensor.data_ptr() == loaded[name].data_ptr()}
    assert loaded.keys() - shared == {f"{layer}.weight" for layer in LAYERS}


async def test_each_adapter_changes_the_model_as_it_was_loaded(fresh):
    await pushed(fresh, seed=1)
    told = await answers(fresh)
    await pushed(fresh, seed=2)
    assert await answers(fresh) != told
    await fresh.put_noise()
    await pushed(fresh, seed=1)
    assert await answers(fresh) == told


async def test_the_head_travels_with_an_adapter(start):
    async with start(readout="head", head_actions="push left,push right") as service:
        state = await adapter(service)
        assert "action_head.weight" in state
        state["action_head.bias"] = torch.tensor([3.0, -2.0])
        assert (await service.put(save(state, metadata=metadata(service)))).status_code == 200
        scores, _ = (await answers(service))[0]
    assert scores == pytest.approx([3.0, -2.0])


async def test_an_adapter_may_come_by_path(start, tmp_path):
    async with start(weights_path_dirs=str(tmp_path)) as service:
        (tmp_path / "adapter").write_bytes(save(await adapter(service), metadata=metadata(service)))
        sent = {"content-type": "application/json", "content-digest": None}
        response = await service.put(json.dumps({"path": str(tmp_path / "adapter")}).encode(), **sent)
    assert (response.status_code, response.json()["policy_version"]) == (200, 2)


# Refusing


@pytest_asyncio.fixture(loop_scope="module")
async def unharmed(fresh):
    before, info = await answers(fresh), (await fresh.http.get("/weights")).json()
    yield fresh
    assert await answers(fresh) == before
    assert (await fresh.http.get("/weights")).json() == info


async def refused(service, state, status=422, **told):
    response = await service.put(save(state, metadata=metadata(service, **told)))
    assert response.status_code == status, response.text
    return {entry["field"]: entry["message"] for entry in response.json()["errors"]}


NAN = float("nan")
MISFITS = {
    "no up": (lambda s: s.pop(B), {B}),
    "no down": (lambda s: s.pop(A), {A}),
    "two ranks": (lambda s: s.update({A: s[A][:2].clone()}), {B}),
    "rank 0": (lambda s: s.update({A: s[A][:0].clone(), B: s[B][:, :0].clone()}), {A, B}),
    "no matrix": (lambda s: s.update({A: torch.tensor(1.0)}), {A}),
    "another width": (lambda s: s.update({A: torch.zeros(RANK, 5)}), {A}),
    "fp64": (lambda s: s.update({B: s[B].double()}), {B}),
    "NaN": (lambda s: s[B].view(-1)[7:8].fill_(NAN), {B}),
    "no value head": (lambda s: s.pop("value_head.bias"), {"value_head.bias"}),
    "no beta": (lambda s: s.pop("beta"), {"beta"}),
    "a whole layer": (lambda s: s.update({f"{LAYERS[0]}.weight": torch.zeros(64, 192)}), {f"{LAYERS[0]}.weight"}),
    "a sum that is not finite": (
        lambda s: s.update({A: torch.full_like(s[A], 1e30), B: torch.full_like(s[B], 1e30)}),
        {f"{LAYERS[0]}.weight"},
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
async def test_a_misfit_is_refused_by_name(unharmed, misfit):
    damage, named = MISFITS[misfit]
    state = await adapter(unharmed)
    damage(state)
    assert set(await refused(unharmed, state)) == named


@pytest.mark.parametrize(
    ("layer", "num_inputs", "num_outputs"),
    [
        ("trunk.transformer.h.9.attn.c_attn", 64, 192),  # there is no such layer
        ("trunk.transformer.h.0.ln_1", 64, 64),  # it has no matrix
        ("trunk.transformer.wte", 1024, 64),  # nor a product
        ("trunk.lm_head", 64, 1024),  # it shares its memory with the embedding
        ("value_head", 64, 1),  # it travels whole
        ("", 2, 2),
    ],
)
async def test_a_layer_that_takes_no_adapter_is_named(unharmed, layer, num_inputs, num_outputs):
    more = {f"{layer}.lora_A.weight": torch.zeros(2, num_inputs), f"{layer}.lora_B.weight": torch.zeros(num_outputs, 2)}
    assert set(await refused(unharmed, await adapter(unharmed) | more)) == more.keys()


async def test_a_file_without_an_adapter_is_refused(unharmed):
    heads = {name: tensor for name, tensor in (await adapter(unharmed)).items() if not name.startswith("trunk.")}
    assert set(await refused(unharmed, heads)) == {"hintwise.format"}


async def test_an_adapter_of_another_model_is_refused_with_both_digests(unharmed):
    named = await refused(unharmed, await adapter(unharmed), base_sha256="0" * 64)
    assert set(named) == {"hintwise.base_sha256"}
    assert "0" * 64 in named["hintwise.base_sha256"]
    assert base_of(unharmed) in named["hintwise.base_sha256"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("base_sha256", None), *(("lora_alpha", text) for text in (None, "", "x", "nan", "inf", "0", "-1"))],
)
async def test_what_an_adapter_must_say_is_named(unharmed, field, value):
    assert set(await refused(unharmed, await adapter(unharmed), **{field: value})) == {f"hintwise.{field}"}


async def test_the_canary_of_an_adapter_is_asked_of_the_whole_weights(fresh):
    state, before = await adapter(fresh), await answers(fresh)
    await pushed(fresh)
    whole = (await fresh.http.post("/weights/rollback", json={"policy_version": 1})).json()
    assert whole["policy_version"] == 1
    canary = {"prompts": ["x"], "actions": ["push left", "push right"], "log_probs": [[-0.1, -2.35]]}
    told = metadata(fresh, canary=json.dumps(canary))
    response = await fresh.put(save(state, metadata=told))
    assert response.status_code == 422
    found = [float(entry["message"].rsplit(" ", 1)[1]) for entry in response.json()["errors"]]
    assert await answers(fresh) == before
    canary["log_probs"] = [found]
    told = metadata(fresh, canary=json.dumps(canary))
    assert (await fresh.put(save(state, metadata=told))).status_code == 200


# The model as it was loaded


@pytest.fixture
def readings(monkeypatch):
    """Each time that the model is read again."""
    read = []

    def noted(name):
        read.append(name)
        return load_language_model(name)

    monkeypatch.setattr(loaded_trunk, "load_language_model", noted)
    return read


async def test_the_model_is_read_again_only_after_full_weights_took_its_place(fresh, readings):
    await pushed(fresh, seed=1)
    told = await answers(fresh)
    await pushed(fresh, seed=2)
    assert readings == []
    await fresh.put_noise()
    assert fresh.engine.policy.loaded_trunk._held is None  # or a model would be held twice
    await pushed(fresh, seed=1)
    await pushed(fresh, seed=1)
    assert readings == ["embedded"]
    assert await answers(fresh) == told


async def test_nothing_but_an_adapter_that_serves_holds_the_model_as_it_was_loaded(fresh):
    await pushed(fresh)
    await fresh.put_noise()
    state, wrong = await adapter(fresh), {"prompts": ["x"], "actions": ["a", "b"], "log_probs": [[-9.0, -0.0001]]}
    refusal = await fresh.put(save(state, metadata=metadata(fresh, canary=json.dumps(wrong))))
    assert refusal.status_code == 422
    assert (await fresh.http.get("/weights/2")).status_code == 200
    assert fresh.engine.policy.loaded_trunk._held is None
    await pushed(fresh)
    assert fresh.engine.policy.loaded_trunk._held is not None


async def test_a_refused_push_of_full_weights_keeps_what_adapters_change(fresh, readings):
    state = await fresh.tensors()
    canary = {"prompts": ["x"], "actions": ["push left", "push right"], "log_probs": [[-0.1, -2.35]]}
    data = save(state, metadata={"hintwise.canary": json.dumps(canary)})
    assert (await fresh.put(data)).status_code == 422
    await pushed(fresh)
    assert readings == []


@pytest.mark.parametrize("fate", ["gone", "another"])
async def test_a_model_that_cannot_be_read_again_is_a_clear_failure(fresh, monkeypatch, fate):
    await fresh.put_noise()
    before, state = await answers(fresh), await adapter(fresh)

    def changed(name):
        model = copy.copy(load_language_model("embedded" if fate == "another" else "no/where/at-all"))
        object.__setattr__(model, "sha256", "0" * 64)
        return model

    monkeypatch.setattr(loaded_trunk, "load_language_model", changed)
    response = await fresh.put(save(state, metadata=metadata(fresh)))
    assert response.status_code == 503
    detail = response.json()["detail"]
    assert "as it was loaded" in detail
    assert ("0" * 64 in detail and base_of(fresh) in detail) or fate == "gone"
    assert await answers(fresh) == before


# Keeping


async def test_an_adapter_is_kept_as_it_came_and_served_after_a_rollback(fresh):
    data, _ = await pushed(fresh)
    told = await answers(fresh)
    assert fresh.engine.store.path_of(2).read_bytes() == data
    await fresh.put_noise()
    assert (await fresh.http.post("/weights/rollback", json={"policy_version": 2})).status_code == 200
    assert await answers(fresh) == told


async def test_full_weights_serve_after_a_rollback_from_an_adapter(fresh):
    await fresh.put_noise()
    told = await answers(fresh)
    await pushed(fresh)
    assert (await fresh.http.post("/weights/rollback", json={"policy_version": 2})).status_code == 200
    assert await answers(fresh) == told


async def test_a_restart_serves_the_adapter_and_the_next_one(start):
    async with start() as service:
        await service.put_noise()
        data, info = await pushed(service)
        told, whole = await answers(service), (await service.http.get("/weights/3")).content
        await service.durable()
    async with start() as service:
        assert (await service.http.get("/weights")).json()["sha256"] == info["sha256"] == sha256_of(data)
        assert await answers(service) == told
        assert (await service.http.get("/weights/3")).content == whole
        assert (await service.http.get("/weights/3?format=pushed")).content == data
        await pushed(service, seed=5)
        await service.http.post("/weights/rollback", json={"policy_version": 3})
        assert await answers(service) == told


async def test_what_serves_does_not_depend_on_the_kept_file(fresh):
    data, _ = await pushed(fresh)
    told = await answers(fresh)
    with fresh.engine.store.path_of(2).open("r+b") as file:
        file.write(bytes(len(data)))
    fresh.engine.policy.digest = "another"  # what was answered before is not looked up
    assert await answers(fresh) == told


async def test_a_download_that_takes_too_long_to_make_is_504(fresh, monkeypatch):
    await pushed(fresh)
    release = threading.Event()
    monkeypatch.setattr(weight_download, "whole_file", lambda path, runner: release.wait(60))
    try:
        refusal = await fresh.refused("/weights/2", status=504, method="GET", headers={"x-request-timeout-ms": "50"})
    finally:
        release.set()
    assert "X-Request-Timeout-Ms" in refusal.detail


async def test_a_download_of_a_version_that_is_gone_is_404(fresh):
    await pushed(fresh)
    fresh.engine.store.path_of(2).unlink()
    await fresh.refused("/weights/2", status=404, method="GET")


async def test_it_is_counted_and_told_as_any_push(fresh):
    await pushed(fresh)
    assert await fresh.metric("hintwise_swaps_total") == 1
    assert await fresh.metric("hintwise_swap_seconds_count") == 1
    assert (await fresh.put(save(await adapter(fresh), metadata=metadata(fresh, base_sha256="1")))).status_code == 422
    assert await fresh.metric("hintwise_rejected_swaps_total") == 1
