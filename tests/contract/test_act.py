"""`POST /act`, line by line of DESIGN section 2."""

import math
import re
import sys
import threading
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest

from hintwise.describers import DESCRIBED_ENV_IDS, describer_for
from hintwise.describers.minigrid import level_ids
from hintwise.phrases import PhraseSet
from hintwise.prompts import action_prompt
from hintwise.tokens import TextEncoder

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEFT_RIGHT = ["push left", "push right"]
TEXTS = [f"cart {n} speed {n + 7} pole 20 turn {40 - n}" for n in range(16)]
NAN, INFINITY = float("nan"), float("inf")
CARTPOLE = {"env_id": "CartPole-v1"}
TEN_MEGABYTES = "word " * (10 * 2**20 // 5)


def body(**changes):
    """Returns a legal request with some fields changed."""
    return {"observations": TEXTS[:2], "actions": LEFT_RIGHT, **changes}


def actions_of(results):
    return [result["action"] for result in results]


def softmax_logs(scores, temperature=1.0):
    scaled = np.array(scores) / temperature
    return scaled - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())


# The answer


async def test_the_answer_names_version_and_readout_and_has_one_result_each(service):
    answer = await service.ask("/act", body())
    assert set(answer) == {"policy_version", "readout", "results"}
    assert (answer["policy_version"], answer["readout"]) == (1, "phrase")
    fields = {"action", "label", "log_prob", "log_probs", "scores", "value", "num_prompt_tokens"}
    assert [set(result) for result in answer["results"]] == [fields, fields]


async def test_action_indexes_the_list_and_label_is_its_text(service):
    for result in await service.act(TEXTS, seed=3):
        assert result["label"] == LEFT_RIGHT[result["action"]]


async def test_log_probs_are_the_log_softmax_of_scores(service):
    for result in await service.act(TEXTS, ["push left", "wait a while", "push right"], temperature=5.0):
        assert result["log_probs"] == pytest.approx(softmax_logs(result["scores"]), abs=1e-5)


async def test_num_prompt_tokens_counts_the_prompt(service, embedded):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    [result] = await service.act([TEXTS[0]], task="Stay.", hints=["push left"])
    assert result["num_prompt_tokens"] == len(encoder.encode(action_prompt(TEXTS[0], task="Stay.", hint="push left")))


# Modes


async def test_greedy_takes_the_best_with_certainty(service):
    for result in await service.act(TEXTS, mode="greedy"):
        assert result["action"] == int(np.argmax(result["scores"]))
        assert result["log_prob"] == 0


async def test_sample_is_the_default_and_reports_the_chosen_log_prob(service):
    results = await service.act(TEXTS * 4, seed=1)
    assert results == await service.act(TEXTS * 4, seed=1, mode="sample")
    assert set(actions_of(results)) == {0, 1}
    for result in results:
        assert result["log_prob"] == pytest.approx(result["log_probs"][result["action"]], abs=1e-5)


async def test_temperature_divides_the_scores(service):
    for result in await service.act(TEXTS, seed=1, temperature=0.01):
        expected = softmax_logs(result["scores"], 0.01)[result["action"]]
        assert result["log_prob"] == pytest.approx(expected, abs=1e-4)


async def test_temperature_zero_is_greedy(service):
    assert await service.act(TEXTS, temperature=0, seed=1) == await service.act(TEXTS, mode="greedy")


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 1e-300, sys.float_info.min])
async def test_the_smallest_temperatures_are_as_good_as_greedy(service, temperature):
    results = await service.act(TEXTS, temperature=temperature, seed=1)
    assert actions_of(results) == actions_of(await service.act(TEXTS, mode="greedy"))
    assert [result["log_prob"] for result in results] == pytest.approx([0] * len(TEXTS))


@pytest.mark.parametrize("fields", [{"mode": "greedy"}, {"mode": "epsilon", "epsilon": 0.5}])
async def test_other_modes_ignore_temperature(service, fields):
    plain = await service.act(TEXTS, seed=2, **fields)
    assert await service.act(TEXTS, seed=2, temperature=50.0, **fields) == plain
    assert await service.act(TEXTS, seed=2, temperature=0.0, **fields) == plain


async def test_sample_ignores_epsilon(service):
    assert await service.act(TEXTS, seed=2, epsilon=1.0) == await service.act(TEXTS, seed=2)


@pytest.mark.parametrize("epsilon", [0, 0.3, 1])
async def test_epsilon_mixes_uniform_into_the_best(service, epsilon):
    results = await service.act(TEXTS * 8, mode="epsilon", epsilon=epsilon, seed=4)
    strayed = 0
    for result in results:
        best = result["action"] == int(np.argmax(result["scores"]))
        strayed += not best
        assert result["log_prob"] == pytest.approx(math.log(epsilon / 2 + (1 - epsilon) * best))
    assert (strayed > 0) == (epsilon > 0)


# Seeds


async def test_a_scalar_seed_repeats_the_draws_and_no_seed_does_not(service):
    first = await service.act(TEXTS * 8, seed=7)
    assert await service.act(TEXTS * 8, seed=7) == first
    assert actions_of(await service.act(TEXTS * 8, seed=8)) != actions_of(first)
    assert actions_of(await service.act(TEXTS * 8)) != actions_of(await service.act(TEXTS * 8))


async def test_a_scalar_seed_draws_each_place_anew(service):
    drawn = actions_of(await service.act(TEXTS[:1] * 64, seed=7))
    assert set(drawn) == {0, 1}
    assert actions_of(await service.act(TEXTS[:1] * 32, seed=7)) == drawn[:32]


@pytest.mark.parametrize("fields", [{}, {"mode": "epsilon", "epsilon": 0.7}])
async def test_with_a_list_of_seeds_an_item_depends_on_its_own_seed_and_content_alone(service, fields):
    texts, seeds = TEXTS * 4, list(range(64))
    together = actions_of(await service.act(texts, seed=seeds, **fields))
    assert set(together) == {0, 1}
    backwards = await service.act(texts[::-1], seed=seeds[::-1], **fields)
    assert actions_of(backwards)[::-1] == together
    halves = [await service.act(texts[part], seed=seeds[part], **fields) for part in (slice(20), slice(20, 64))]
    assert actions_of(halves[0] + halves[1]) == together


async def test_equal_seeds_in_a_list_draw_equal_actions(service):
    assert len(set(actions_of(await service.act(TEXTS[:1] * 16, seed=[5] * 16)))) == 1


@pytest.mark.parametrize("seed", [0, 2**53 - 1, [0, 2**53 - 1]])
async def test_the_whole_range_of_seeds_is_taken(service, seed):
    await service.act(TEXTS[:2], seed=seed)


@pytest.mark.parametrize("seed", [-1, 2**53, 1.5, "7", True, [1, -1], [1, None]])
async def test_other_seeds_are_refused_by_name(service, seed):
    refusal = await service.refused("/act", body(seed=seed))
    assert any(field.startswith("seed") for field in refusal.fields)
    assert all(field in {"seed", "seed[1]"} for field in refusal.fields)


# Task and hints


async def test_a_task_changes_the_answer_and_may_differ_per_observation(service):
    plain, stay, go = [(await service.act(TEXTS[:1], task=task, mode="greedy"))[0] for task in (None, "Stay.", "Go.")]
    assert len({str(result["scores"]) for result in (plain, stay, go)}) == 3
    mixed = await service.act(TEXTS[:1] * 3, task=["Go.", None, "Stay."], mode="greedy")
    for result, alone in zip(mixed, (go, plain, stay), strict=True):
        assert result["scores"] == pytest.approx(alone["scores"], abs=1e-4)
        assert result["num_prompt_tokens"] == alone["num_prompt_tokens"]


async def test_a_hint_changes_its_own_observation_alone(service):
    plain = await service.act(TEXTS[:3], mode="greedy")
    hinted = await service.act(TEXTS[:3], mode="greedy", hints=[None, "push left", None])
    assert [a["scores"] == pytest.approx(b["scores"], abs=1e-4) for a, b in zip(plain, hinted, strict=True)] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize("hints", [None, [None, None], ["", ""]])
async def test_no_hint_is_no_hint_however_it_is_said(service, hints):
    assert await service.act(TEXTS[:2], hints=hints, seed=1) == await service.act(TEXTS[:2], seed=1)


# Raw observations


@pytest.mark.parametrize("env_id", [env_id for env_id in DESCRIBED_ENV_IDS if env_id not in level_ids()])
async def test_raw_observations_are_described_as_the_library_does(service, env_id):
    env = gymnasium.make(env_id)
    raw = [np.asarray(env.reset(seed=seed)[0]).tolist() for seed in range(4)]
    env.close()
    describer = describer_for(env_id)
    legal = [describer.legal_actions(observation) for observation in raw]
    described = await service.ask("/act", {"observations": raw, "env_id": env_id, "seed": 1})
    by_hand = await service.act(
        [describer.describe(observation) for observation in raw],
        [[describer.actions[k] for k in numbers] for numbers in legal],
        task=describer.task,
        seed=1,
    )
    for numbers, result in zip(legal, by_hand, strict=True):
        result["action"] = numbers[result["action"]]
    assert described["results"] == by_hand


async def test_a_text_may_stand_beside_raw_observations(service):
    described = describer_for("CartPole-v1").describe([0.0] * 4)
    results = (await service.ask("/act", {"observations": [[0.0] * 4, described], **CARTPOLE}))["results"]
    assert results[0]["log_probs"] == pytest.approx(results[1]["log_probs"], abs=1e-5)


async def test_a_task_replaces_the_described_one(service):
    raw = {"observations": [[0.0] * 4], **CARTPOLE, "mode": "greedy"}
    described = (await service.ask("/act", raw))["results"]
    assert (await service.ask("/act", {**raw, "task": "Fall over."}))["results"] != described


async def test_actions_of_ones_own_replace_the_described_ones(service):
    answer = await service.ask("/act", {"observations": [[0.0] * 4], **CARTPOLE, "actions": ["a", "b", "c"]})
    assert len(answer["results"][0]["scores"]) == 3


async def test_action_is_the_environments_own_number(service, monkeypatch):
    described = SimpleNamespace(
        task="", actions=["n", "e", "s", "w"], describe=str, legal_actions=lambda observation: [1, 3]
    )
    monkeypatch.setattr("service.states.describer_for", lambda env_id: described)
    request = {"observations": [[float(n)] for n in range(32)], "env_id": "Maze", "seed": 1, "temperature": 100}
    chosen = {(result["action"], result["label"]) for result in (await service.ask("/act", request))["results"]}
    assert chosen == {(1, "e"), (3, "w")}


@pytest.mark.parametrize("raw", [[0.0, 1.0], 1.5, {"image": [1]}])
async def test_raw_observations_need_env_id_and_the_known_ids_are_told(service, raw):
    refusal = await service.refused("/act", body(observations=["x", raw]))
    assert set(refusal.fields) == {"observations[1]"}
    assert all(env_id in refusal.text for env_id in DESCRIBED_ENV_IDS)


@pytest.mark.parametrize("endpoint", ["/act", "/guidance"])
async def test_an_unknown_env_id_is_refused_with_the_known_ones(service, endpoint):
    refusal = await service.refused(endpoint, {"observations": [[0.0]], "env_id": "Ant-v5"})
    assert set(refusal.fields) == {"env_id"}
    assert all(env_id in refusal.text for env_id in (*DESCRIBED_ENV_IDS, "Ant-v5"))


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("endpoint", ["/act", "/guidance"])
async def test_a_raw_number_that_is_not_finite_is_named(service, endpoint, number):
    refusal = await service.refused(endpoint, {"observations": [[0.0] * 4, [0.0, number, 0.0, 0.0]], **CARTPOLE})
    assert set(refusal.fields) == {"observations[1]"}


@pytest.mark.parametrize(
    "raw",
    [[], [0.0] * 3, [0.0] * 5, [[0.0] * 4], [0, 0, 0, "x"], [0, 0, None, 0], [10**400, 0, 0, 0], 3, 0.5, {"image": []}],
    ids=str,
)
async def test_a_raw_observation_of_another_shape_is_named(service, raw):
    refusal = await service.refused("/act", {"observations": [[0.0] * 4, raw], **CARTPOLE})
    assert set(refusal.fields) == {"observations[1]"}


@pytest.mark.parametrize("observation", [None, True])
async def test_an_observation_of_no_known_type_is_named(service, observation):
    refusal = await service.refused("/act", body(observations=["x", observation]))
    assert set(refusal.fields) == {"observations[1]"}
    assert "expected a text" in refusal.text


# Actions


async def test_each_observation_may_have_its_own_actions(service):
    lists = [["push left", "push right"], ["wait"], ["up", "down", "fire"]]
    results = await service.act(TEXTS[:3], lists, mode="greedy")
    assert [len(result["log_probs"]) for result in results] == [2, 1, 3]
    for text, actions, result in zip(TEXTS, lists, results, strict=False):
        assert result["label"] == actions[result["action"]]
        [alone] = await service.act([text], actions, mode="greedy")
        assert result["log_probs"] == pytest.approx(alone["log_probs"], abs=1e-5)


async def test_the_only_action_is_certain(service):
    [result] = await service.act(["x"], ["wait"])
    assert (result["action"], result["log_prob"], result["log_probs"]) == (0, 0, [0])


async def test_256_actions_are_taken(service):
    [result] = await service.act(["x"], [f"go to {n}" for n in range(256)])
    assert len(result["log_probs"]) == 256


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ([], "empty"),
        ([f"go to {n}" for n in range(257)], "257"),
        ([f"go to {n}" for n in range(300)], "300"),
        (["push left", ""], "entry 1 is empty"),
        (["push left", " \t\n"], "entry 1 is empty"),
        (["wait", "go", "wait"], "entry 2 repeats entry 0"),
        (["wait", 3], "texts"),
        (["wait", ["go"]], "one kind"),
        ([["wait"], "go"], "list 1"),
        ([["wait"], []], "list 1"),
        ([["wait"], ["go", "go"]], "list 1 entry 1 repeats entry 0"),
        ([["wait"], [f"go to {n}" for n in range(300)]], "list 1 has 300"),
        ([["wait"]], "1 entries for 2 observations"),
        ([["wait"]] * 3, "3 entries for 2 observations"),
        ("wait", "array"),
        (["x" * 10 * 2**20], "characters"),
    ],
)
async def test_bad_actions_are_refused_by_name(service, actions, said):
    refusal = await service.refused("/act", body(actions=actions))
    assert "actions" in refusal.text
    assert said in refusal.text


async def test_actions_may_only_be_left_out_with_env_id(service):
    refusal = await service.refused("/act", {"observations": ["x"]})
    assert set(refusal.fields) == {"actions"}


# Bounds of the other fields


@pytest.mark.parametrize("count", [1, 1024])
async def test_1_to_1024_observations_are_taken(service, count):
    assert len(await service.act(["x"] * count)) == count


@pytest.mark.parametrize("observations", [[], ["x"] * 1025, "x", None])
async def test_no_or_too_many_observations_are_refused_by_name(service, observations):
    refusal = await service.refused("/act", body(observations=observations))
    assert set(refusal.fields) == {"observations"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("hints", ["a"]), ("hints", []), ("task", ["a"] * 3), ("seed", [1]), ("hints", ["a"] * 3)],
)
async def test_a_list_of_the_wrong_length_is_refused_by_name(service, field, value):
    refusal = await service.refused("/act", body(**{field: value}))
    assert refusal.fields == {field: f"has {len(value)} entries for 2 observations"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "best"),
        ("mode", None),
        ("epsilon", 1.1),
        ("epsilon", -0.1),
        ("epsilon", NAN),
        ("temperature", -1),
        ("temperature", 100.1),
        ("temperature", NAN),
        ("temperature", None),
        ("task", 3),
        ("task", {"text": "Stay."}),
        ("hints", "push left"),
        ("env_id", 3),
        ("obsevations", ["x"]),
        ("max-tokens", 3),
        ("two words", 3),
        ("action_space", {"low": 0, "high": 1}),
    ],
)
async def test_a_bad_or_unknown_field_is_refused_by_name(service, field, value):
    refusal = await service.refused("/act", body(**{field: value}))
    assert set(refusal.fields) == {field}


@pytest.mark.parametrize(("field", "value"), [("hints", ["a", 3]), ("task", ["a", 3])])
async def test_a_bad_entry_of_a_list_is_refused_by_name(service, field, value):
    refusal = await service.refused("/act", body(**{field: value}))
    assert f"{field}[1]" in refusal.fields


async def test_every_fault_of_a_request_is_listed(service):
    refusal = await service.refused("/act", {"observations": [], "mode": "best", "epsilon": 2, "typo": 1})
    assert set(refusal.fields) == {"observations", "mode", "epsilon", "typo"}


async def test_mode_epsilon_needs_epsilon(service):
    refusal = await service.refused("/act", body(mode="epsilon"))
    assert set(refusal.fields) == {"epsilon"}


async def test_an_image_observation_is_refused(service):
    refusal = await service.refused("/act", body(observations=["x", {"image": {"data": "..."}}]))
    assert set(refusal.fields) == {"observations[1]"}


# Length


def text_of(tokens, encoder):
    """Returns an observation whose prompt has exactly so many tokens."""
    bare = len(encoder.encode(action_prompt("")))
    text = " 20" * (tokens - bare)
    assert len(encoder.encode(action_prompt(text))) == tokens
    return text


async def test_a_prompt_is_taken_up_to_the_last_position_and_refused_with_both_counts_beyond(service, embedded):
    encoder = TextEncoder(embedded.tokenizer, max_tokens=embedded.max_tokens)
    read = encoder.phrases(("push left", "push right")).num_positions  # the last token is predicted, never read
    fits = embedded.max_tokens - read
    assert (await service.act([text_of(fits, encoder)]))[0]["num_prompt_tokens"] == fits
    refusal = await service.refused("/act", body(observations=["x", text_of(fits + 1, encoder)]))
    assert set(refusal.fields) == {"observations[1]"}
    assert str(fits + 1) in refusal.text
    assert str(embedded.max_tokens) in refusal.text


@pytest.mark.parametrize(
    "fields",
    [
        {"observations": ["x", TEN_MEGABYTES, "y"]},
        {"observations": ["x"] * 3, "task": ["", TEN_MEGABYTES, ""]},
        {"observations": ["x"] * 3, "hints": [None, TEN_MEGABYTES, None]},
    ],
    ids=["observation", "task", "hint"],
)
async def test_a_10_mb_text_is_refused_with_both_counts_and_never_tokenized(service, fields):
    refusal = await service.refused("/act", body(**fields))
    assert set(refusal.fields) == {"observations[1]"}
    assert re.search(r"at least \d+ tokens", refusal.text)  # an estimate: nobody has counted them
    assert str(service.engine.policy.encoder.max_tokens) in refusal.text


async def test_any_text_is_taken(service):
    texts = ["", " ", "ünïcödé", "日本語 🙂", "a\nb\x00c", "<|endoftext|>", "action: push left"]
    assert len(await service.act(texts)) == len(texts)


LONG = ["word " * 180] * 256
LONG_BODIES = [
    ("/act", {"observations": LONG, "actions": LEFT_RIGHT}),
    ("/act", {"observations": ["x"] * 256, "hints": LONG, "actions": LEFT_RIGHT}),
    ("/act", {"observations": ["x"] * 256, "task": LONG[0], "actions": LEFT_RIGHT}),
    ("/act", {"observations": ["x"] * 256, "actions": [[f"{n} {LONG[n]}", "go"] for n in range(256)]}),
    ("/guidance", {"observations": LONG, "max_new_tokens": 1}),
    (
        "/reward",
        {
            "items": [
                {"hint": "go", "observation": f"{n} {LONG[n]}", "actions": LEFT_RIGHT, "action": "push left"}
                for n in range(256)
            ]
        },
    ),
]


@pytest.mark.parametrize(
    ("endpoint", "long_body"), LONG_BODIES, ids=["observations", "hints", "task", "actions", "guidance", "reward"]
)
async def test_much_text_is_tokenized_off_the_event_loop(service, monkeypatch, endpoint, long_body):
    engine, threads = service.engine, set()
    encoder = {"/act": engine.policy, "/guidance": engine.hints, "/reward": engine.scorer}[endpoint].encoder

    def encode_all(texts):
        threads.add(threading.current_thread())
        return [(1, 2, 3)] * len(texts)

    def phrases(listed):
        threads.add(threading.current_thread())
        return PhraseSet.of([(k,) for k in range(len(listed))])

    monkeypatch.setattr(encoder, "encode_all", encode_all)
    monkeypatch.setattr(encoder, "phrases", phrases)
    await service.ask(endpoint, long_body)
    assert threads
    assert threading.main_thread() not in threads
