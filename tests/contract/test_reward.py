"""`POST /reward`, line by line of DESIGN section 2."""

import math

import pytest
import torch

from hintwise.prompts import progress_prompt
from hintwise.schemas import RewardItem
from service.reward_scorer import Alignment

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEFT_RIGHT = ["push left", "push right"]
NOW, NEXT = "cart 20 speed 21 pole 20 turn 19", "cart 20 speed 13 pole 20 turn 28"


def item(**changes):
    """Returns a legal item with some fields changed; a field given as ... is left out."""
    whole = {
        "hint": "push left",
        "observation": NOW,
        "actions": LEFT_RIGHT,
        "action": "push left",
        "next_observation": NEXT,
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


async def rewards(service, items, **fields):
    return (await service.ask("/reward", {"items": items, **fields}))["results"]


async def test_the_answer_names_scorer_and_model_and_has_one_result_each(service):
    answer = await service.ask("/reward", {"items": [item()] * 3})
    assert set(answer) == {"scorer", "model", "model_sha256", "results"}
    assert (answer["scorer"], answer["model"]) == ("alignment", "embedded-language")
    assert answer["model_sha256"] == service.engine.scorer.language_model.sha256
    assert [set(result) for result in answer["results"]] == [{"reward", "potential", "next_potential"}] * 3


# alignment


async def test_alignment_is_how_much_the_hint_raises_the_action_taken(start):
    """Where frozen model and untouched policy are the same weights, /act tells both log-probs."""
    items = [item(task="Stay.", action=action) for action in LEFT_RIGHT]
    async with start(model="embedded-language") as service:
        [hinted, plain] = await service.act([NOW] * 2, LEFT_RIGHT, hints=["push left", None], task="Stay.")
        given = await rewards(service, items)
    for k, result in enumerate(given):
        expected = math.tanh(hinted["log_probs"][k] - plain["log_probs"][k])
        assert result["reward"] == pytest.approx(expected, rel=1e-2, abs=2e-6)
        assert -1 <= result["reward"] <= 1
        assert result["potential"] is None
        assert result["next_potential"] is None


@pytest.mark.parametrize(("action", "raised"), [("push left", 1.5), ("push right", -2.0)])
async def test_alignment_squashes_the_rise_of_the_log_prob(action, raised):
    answers = [[-0.5, -3.0], [-2.0, -1.0]]  # with the hint, without it
    result = Alignment().result(RewardItem(**item(action=action)), answers, gamma=0.5)
    assert result.reward == pytest.approx(math.tanh(raised))


@pytest.mark.parametrize("hint", ["", None])
async def test_alignment_of_no_hint_is_exactly_zero(service, hint):
    unadvised, advised = await rewards(service, [item(hint=hint), item()])
    assert unadvised["reward"] == 0
    assert advised["reward"] != 0


async def test_alignment_with_one_legal_action_is_zero(service):
    assert (await rewards(service, [item(actions=["wait"], action="wait")]))[0]["reward"] == 0


async def test_an_item_does_not_depend_on_its_neighbours(service):
    others = [item(observation="pole 3 " * n, actions=["a", "b", "c"], action="b") for n in range(1, 40)]
    for scorer in ("alignment", "progress"):
        [alone] = await rewards(service, [item()], scorer=scorer)
        among = (await rewards(service, [*others, item(), *others], scorer=scorer))[len(others)]
        assert among["reward"] == pytest.approx(alone["reward"], abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "field", "said"),
    [
        ({"action": "jump"}, "items[1].action", "jump"),
        ({"action": ...}, "items[1].action", "missing"),
        ({"actions": ...}, "items[1].actions", "missing"),
        ({"hint": ...}, "items[1].hint", "required"),
        ({"observation": ...}, "items[1].observation", "required"),
        ({"observation": [0.0]}, "items[1].observation", "string"),
        ({"actions": ["go", "go"]}, "items[1].actions", "repeats"),
        ({"actions": []}, "items[1].actions", "0 actions"),
        ({"actions": ["push left", " "]}, "items[1].actions", "empty"),
        ({"actions": [f"go to {n}" for n in range(300)]}, "items[1].actions", "300"),
        ({"actions": [["push left"]]}, "items[1].actions", "texts"),
        ({"terminated": "perhaps"}, "items[1].terminated", "boolean"),
        ({"done": True}, "items[1].done", "unknown"),
        ({"observation": "word " * 4_000}, "items[1]", "at most"),
        ({"observation": "word " * 2 * 2**20}, "items[1]", "at most"),
        ({"hint": "word " * 4_000}, "items[1]", "at most"),
    ],
)
async def test_a_bad_item_is_named(service, changes, field, said):
    refusal = await service.refused("/reward", {"items": [item(), item(**changes)]})
    assert set(refusal.fields) == {field}
    assert said in refusal.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("items", []),
        ("items", [item()] * 1025),
        ("gamma", -0.1),
        ("gamma", 1.1),
        ("gamma", float("nan")),
        ("gamma", None),
        ("scorer", "vibes"),
        ("scorer", 3),
        ("observations", ["x"]),
    ],
)
async def test_a_bad_field_is_refused_by_name(service, field, value):
    refusal = await service.refused("/reward", {"items": [item()], field: value})
    assert set(refusal.fields) == {field}


async def test_an_unknown_scorer_is_refused_with_the_known_ones(service):
    refusal = await service.refused("/reward", {"items": [item()], "scorer": "vibes"})
    assert all(scorer in refusal.text for scorer in (await service.http.get("/info")).json()["scorers"])


async def test_1024_items_are_taken(service):
    items = [item(observation=f"cart {n % 41} speed {n // 41}") for n in range(1024)]
    assert len({result["reward"] for result in await rewards(service, items)}) > 500


# progress


@pytest.mark.parametrize("gamma", [0.0, 0.98, 1.0])
async def test_progress_is_the_discounted_rise_of_a_potential(service, gamma):
    [result] = await rewards(service, [item()], scorer="progress", gamma=gamma)
    assert 0 <= result["potential"] <= 1
    assert 0 <= result["next_potential"] <= 1
    assert result["potential"] != result["next_potential"]
    assert result["reward"] == pytest.approx(gamma * result["next_potential"] - result["potential"], abs=1e-12)


async def test_gamma_defaults_to_099(service):
    [plain] = await rewards(service, [item()], scorer="progress")
    [named] = await rewards(service, [item()], scorer="progress", gamma=0.99)
    assert plain == named


async def test_a_potential_is_the_models_yes(service):
    [result] = await rewards(service, [item(task="Stay.")], scorer="progress")
    encoder, runner = service.engine.scorer.encoder, service.engine.scorer
    prompt = encoder.encode(progress_prompt(NOW, "push left", task="Stay."))
    no, yes = [encoder.phrases((answer,)).token_ids[0][0] for answer in ("no", "yes")]
    logits = runner.language_model.model(input_ids=torch.tensor([prompt])).logits[0, -1].tolist()
    assert result["potential"] == pytest.approx(1 / (1 + math.exp(logits[no] - logits[yes])), abs=1e-4)


async def test_a_terminal_state_has_no_potential(service):
    [ended] = await rewards(service, [item(terminated=True)], scorer="progress")
    [lasting] = await rewards(service, [item()], scorer="progress")
    assert ended["next_potential"] == 0
    assert ended["potential"] == pytest.approx(lasting["potential"])
    assert ended["reward"] == pytest.approx(-ended["potential"])
    assert (await rewards(service, [item(terminated=True, next_observation=...)], scorer="progress"))[0] == ended


async def test_next_hint_defaults_to_hint_and_counts_when_given(service):
    items = [item(), item(next_hint=None), item(next_hint="push left"), item(next_hint="push right")]
    plain, null, same, other = await rewards(service, items, scorer="progress")
    assert plain == null == same
    assert other["potential"] == plain["potential"]
    assert other["next_potential"] != plain["next_potential"]


async def test_progress_needs_no_actions_but_the_next_observation(service):
    await rewards(service, [item(actions=..., action=...)], scorer="progress")
    refusal = await service.refused("/reward", {"scorer": "progress", "items": [item(), item(next_observation=...)]})
    assert set(refusal.fields) == {"items[1].next_observation"}
