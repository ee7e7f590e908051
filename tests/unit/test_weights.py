import pytest
import torch
from safetensors.torch import load, save, save_file
from torch import nn

from hintwise import weights
from hintwise.errors import WeightsRejected
from hintwise.policy import Policy


def named(error):
    return {offence.field: offence.message for offence in error.value.errors}


@pytest.fixture
def reference():
    return {"a": torch.zeros(2, 3), "b": torch.ones(4)}


def test_a_tied_copy_is_left_out_and_comes_back(fresh_embedded):
    policy = Policy(fresh_embedded)
    state = load(weights.dump(policy))
    assert "trunk.transformer.wte.weight" in state
    assert "trunk.lm_head.weight" not in state
    state["trunk.transformer.wte.weight"] = state["trunk.transformer.wte.weight"] + 1
    weights.apply(policy, state)
    assert torch.equal(policy.trunk.lm_head.weight, state["trunk.transformer.wte.weight"])


@pytest.mark.parametrize("metadata", [{}, {"hintwise.format": 'a "quoted"\n größer'}])
def test_a_dump_is_the_file_that_safetensors_writes(metadata):
    module = nn.Module()
    for i, dtype in enumerate(reversed(weights.DTYPES)):
        module.register_buffer(f"größe_{i}", torch.arange(3 + i).to(dtype))
        module.register_buffer(f"scalar_{i}", torch.ones((), dtype=dtype))
    module.register_buffer("empty", torch.ones(0, 3))
    module.register_buffer("transposed", torch.arange(6.0).view(2, 3).T)
    state = {name: tensor.contiguous() for name, tensor in weights.state_of(module).items()}
    assert weights.dump(module, metadata) == save(state, metadata=metadata)


def test_a_dtype_that_no_file_of_weights_holds_is_named():
    module = nn.Module()
    module.register_buffer("strange", torch.ones(1, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"strange has dtype torch\.complex64"):
        weights.dump(module)


def test_apply_copies_in_place():
    module = nn.Linear(2, 1)
    place = module.weight.data_ptr()
    weights.apply(module, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
    assert module.weight.data_ptr() == place
    assert module.weight.tolist() == [[1, 1]]


def test_exchange_swaps_the_tensors_of_the_same_parameters_and_twice_changes_nothing(fresh_embedded):
    policy = Policy(fresh_embedded)
    before = {name: tensor.clone() for name, tensor in weights.state_of(policy).items()}
    parameters = {name: id(tensor) for name, tensor in policy.state_dict(keep_vars=True).items()}
    new = {name: tensor + 1 for name, tensor in before.items()}
    held = weights.staged(policy, new)
    weights.exchange(policy, held)
    assert all(torch.equal(tensor, new[name]) for name, tensor in weights.state_of(policy).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.items())
    assert policy.trunk.lm_head.weight is policy.trunk.transformer.wte.weight
    weights.exchange(policy, held)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.state_of(policy).items())
    assert {name: id(tensor) for name, tensor in policy.state_dict(keep_vars=True).items()} == parameters


def test_what_is_staged_is_a_copy_of_its_own(tmp_path):
    module, path = nn.Linear(2, 1), tmp_path / "w"
    path.write_bytes(weights.dump(nn.Linear(2, 1)))
    data = path.read_bytes()
    weights.exchange(module, weights.staged(module, weights.read(path)))
    assert weights.dump(module) == data
    with torch.no_grad():
        module.weight.add_(1)
    assert path.read_bytes() == data
    path.unlink()
    assert module.weight.isfinite().all()


def test_metadata_survives(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(weights.dump(nn.Linear(2, 1), {"hintwise.format": "full"}))
    assert weights.read_metadata(path) == {"hintwise.format": "full"}
    assert set(weights.read(path)) == {"weight", "bias"}


def test_a_fitting_state_passes(reference):
    weights.check_fits(dict(reference), reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "missing"),
        ({"c": torch.zeros(1)}, "the policy has no such tensor"),
        ({"a": torch.zeros(3, 2)}, "shape [3, 2], but the policy has [2, 3]"),
        ({"a": torch.zeros(2, 3, dtype=torch.float16)}, "dtype torch.float16, but the policy has torch.float32"),
        ({"a": torch.full((2, 3), torch.nan)}, "holds NaN or infinite numbers"),
        ({"a": torch.tensor([[torch.inf, 0, 0], [0, 0, 0]])}, "holds NaN or infinite numbers"),
    ],
)
def test_each_misfit_is_named(reference, change, message):
    state = {name: tensor for name, tensor in {**reference, **change}.items() if tensor is not None}
    with pytest.raises(WeightsRejected) as error:
        weights.check_fits(state, reference)
    assert named(error) == {next(iter(change)): message}


def test_finite_numbers_whose_sum_overflows_pass(reference):
    reference["b"] = torch.full((4,), 3e38)
    weights.check_fits(dict(reference), reference)


def test_only_the_first_offences_are_listed_but_all_are_counted():
    state = {f"extra{i:02}": torch.zeros(1) for i in range(30)}
    with pytest.raises(WeightsRejected, match="30 of 0 tensors") as error:
        weights.check_fits(state, {})
    assert len(error.value.errors) == weights.MAX_NAMED_OFFENCES


@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: b"pickle", lambda data: b""])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(8)}, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsRejected, match="not a safetensors file"):
        weights.read(path)


def test_a_state_digest_knows_names_values_and_shapes_but_not_order(reference):
    digest = weights.state_sha256(reference)
    assert weights.state_sha256(dict(reversed(reference.items()))) == digest
    changed = [
        {"a": reference["a"], "c": reference["b"]},
        {**reference, "b": torch.tensor([1, 1, 1, 1.0000001])},
        {**reference, "a": torch.zeros(3, 2)},
    ]
    assert all(weights.state_sha256(state) != digest for state in changed)
