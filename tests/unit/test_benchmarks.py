"""What benchmarks compare does the same job, and what they count is counted right. How fast is no matter here."""

import json
import math
import random
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import httpx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks import algorithms, cartpole, doorkey_stream, repeats, results_file, trunk
from benchmarks.bare_gpt2 import BareGpt2
from benchmarks.doorkey_stream import RecordedStream, read_streams, write_streams
from benchmarks.engine_prompts import NUM_PROMPT_TOKENS, check_lengths, prompts_of_60_tokens
from benchmarks.light_client import ACTIONS, TASK, parsed_answer, random_observations
from benchmarks.model_shape import ModelShape, Product, depths_of_nodes, needed_flop, needed_products
from benchmarks.naive_scores import NaiveScorer
from benchmarks.naive_service import create_app
from benchmarks.random_models import model_directory
from benchmarks.runners import remembering_runner, scored_prompts
from hintwise.prompts import action_prompt

ROOT = Path(__file__).parents[2]
TWO_TOKENS = [(5, 6), (7, 8), (7, 9), (10, 6)]  # two of them begin alike


@pytest.fixture(scope="module")
def naive():
    return NaiveScorer("embedded")


def our_log_probs(embedded, prompts, actions):
    runner = remembering_runner(embedded)
    candidates = runner.candidates(tuple(actions))
    items = scored_prompts(runner, prompts, candidates)
    return torch.tensor([answer.log_probs for answer in runner.score(items)])


@pytest.mark.parametrize("per_candidate", [False, True])
@pytest.mark.parametrize("handler", ["async", "sync"])
@pytest.mark.parametrize("actions", [ACTIONS, ("wait", "pick up the red key", "go")], ids=["alike", "of many lengths"])
async def test_the_naive_service_says_what_ours_says(embedded, naive, actions, handler, per_candidate):
    observations = [*random_observations(7, random.Random(1)), "pole 3", "pole 3 " * 30]  # of many lengths, too
    app = create_app(naive, per_candidate=per_candidate, handler=handler)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://naive") as client:
        body = {"observations": observations, "actions": actions, "task": TASK, "seed": 1}
        results = (await client.post("/act", json=body)).raise_for_status().json()["results"]
    ours = our_log_probs(embedded, [action_prompt(text, task=TASK) for text in observations], actions)
    torch.testing.assert_close(torch.tensor([each["log_probs"] for each in results]), ours, atol=1e-4, rtol=0)
    assert ours.std(dim=0).min() > 1e-3  # a constant would agree with anything
    assert all(each["log_prob"] == each["log_probs"][each["action"]] for each in results)
    assert all(each["label"] == actions[each["action"]] for each in results)


def test_naive_scores_do_not_depend_on_how_many_rows_a_forward_has(naive):
    rows = naive.encode([action_prompt(text) for text in random_observations(5, random.Random(2))], ACTIONS)
    torch.testing.assert_close(naive.scores_in_parts(rows, 3), naive.scores(rows), atol=1e-5, rtol=0)


def small_gpt2(num_layers):
    torch.manual_seed(0)
    config = GPT2Config(n_layer=num_layers, n_embd=32, n_head=2, vocab_size=50, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("part", [2, 64])
def test_the_bare_loop_scores_as_transformers_does(part):
    model, candidates, prompts = small_gpt2(3), torch.tensor(TWO_TOKENS), torch.randint(50, (5, 11))
    rows = torch.cat([prompts.repeat_interleave(4, 0), candidates.repeat(5, 1)], dim=1)  # (B * A, P + 2)
    with torch.no_grad():
        log_probs = model(rows).logits.log_softmax(-1)[:, :-1].gather(-1, rows[:, 1:, None]).squeeze(-1)
    scores = BareGpt2(model, TWO_TOKENS, 11, part=part).scores(prompts)
    torch.testing.assert_close(scores, log_probs[:, -2:].sum(-1).view(5, 4), atol=1e-4, rtol=1e-4)


def test_readings_that_begin_alike_are_counted_once():
    assert depths_of_nodes([(1, 2, 3), (1, 2, 4), (1, 5), (6,)]) == [1, 2]
    assert depths_of_nodes(TWO_TOKENS) == [1, 1, 1]
    assert depths_of_nodes([(1,), (2,)]) == []


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_the_bare_loop_multiplies_what_the_formula_says(num_layers):
    model, depths = small_gpt2(num_layers), depths_of_nodes(TWO_TOKENS)
    bare = BareGpt2(model, TWO_TOKENS, 11, part=8)
    with FlopCounterMode(display=False) as counter:
        bare.scores(torch.randint(50, (5, 11)))
    counted = counter.get_flop_counts()["Global"]
    of_weights = sum(flop for operation, flop in counted.items() if "mm" in str(operation))
    products = needed_products(ModelShape.of(model.config), 5, 11, depths)
    assert of_weights == sum(product.flop * times for product, times in products.items())


def test_needed_arithmetic_by_hand():
    shape = ModelShape(num_layers=2, width=2, inner_width=3, vocabulary=5)
    # One prompt of 3 tokens and one node behind it: T = 4, M = 2.
    first = Counter({Product(4, 2, 6): 1, Product(4, 2, 2): 1, Product(4, 2, 3): 1, Product(4, 3, 2): 1})
    last = Counter({Product(4, 2, 4): 1, Product(2, 2, 2): 2, Product(2, 2, 3): 1, Product(2, 3, 2): 1})
    logits = Counter({Product(2, 2, 5): 1})
    assert needed_products(shape, 1, 3, [1]) == first + last + logits
    # Pairs: 1 + 2 + 3 in the prompt, 4 of the node; in the last layer 3 of the last prompt token and 4 of the node.
    products = 96 + 32 + 48 + 48 + 64 + 16 * 2 + 24 + 24 + 40
    assert needed_flop(shape, 1, 3, [1]) == products + 4 * 2 * (6 + 4 + 3 + 4)
    assert needed_flop(shape, 7, 3, [1]) == 7 * needed_flop(shape, 1, 3, [1])


def test_prompts_have_the_length_they_are_said_to_have(embedded):
    encoder = remembering_runner(embedded).encoder
    texts = prompts_of_60_tokens(encoder, 20, random.Random(3)).texts
    prompts = [encoder.encode(text) for text in texts]
    assert {len(prompt) for prompt in prompts} == {NUM_PROMPT_TOKENS}
    assert len(set(texts)) == 20
    check_lengths(prompts, [(1, 2), (3, 2)])
    for wrong in ([(1, 2), (1, 3)], [(1, 2), (3,)]):
        with pytest.raises(RuntimeError, match="--tokenizer"):
            check_lengths(prompts, wrong)


@pytest.mark.parametrize(
    ("name", "size", "share"), [("random_5x5", 4096, 0.02), ("random_8x8", 8192, 0.07), ("scripted_8x8", 1792, 0.35)]
)
def test_a_recorded_stream_is_whole(embedded, name, size, share):
    stream = read_streams()[name]
    assert len(stream.order) == size
    assert len(set(stream.texts)) == len(stream.texts)
    assert list(dict.fromkeys(stream.order)) == list(range(len(stream.texts)))  # in the order they were first met
    assert stream.distinct_share == pytest.approx(share, abs=0.005)
    encoder = remembering_runner(embedded).encoder
    lengths = sorted(len(encoder.encode(action_prompt(text, task=stream.task))) for text in stream.texts)
    assert 45 <= lengths[len(lengths) // 2] <= 50


def test_streams_are_read_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.setattr(doorkey_stream, "PATH", tmp_path / "streams.json.gz")
    streams = {"short": RecordedStream("Some-v0", "Go.", ("left", "right"), ("a", "b"), (0, 1, 0, 0))}
    write_streams(streams, seed=1)
    assert read_streams() == streams
    assert streams["short"].observations == ["a", "b", "a", "a"]
    assert streams["short"].distinct_share == 0.5


def test_other_answers_are_no_comparison():
    answers = [repeats.Answer(0, [-0.5, -1.0]), repeats.Answer(1, [-2.0, -0.1])]
    assert repeats._difference(answers, answers) == 0
    with pytest.raises(RuntimeError, match="actions differ"):
        repeats._difference(answers, [answers[0], answers[1]._replace(action=0)])
    with pytest.raises(RuntimeError, match="parity rule"):
        repeats._difference(answers, [answers[0], answers[1]._replace(log_probs=[-2.001, -0.1])])


def test_an_answer_is_read_when_all_of_it_is_there():
    body = json.dumps({"results": []}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    for length in range(len(answer)):
        assert parsed_answer(answer[:length]) is None
    assert parsed_answer(answer) == body
    with pytest.raises(RuntimeError, match="429"):
        parsed_answer(answer.replace(b"200 OK", b"429 Too Many Requests"))


def test_a_random_model_has_the_size_its_name_says():
    with model_directory("random:1x64") as directory:
        config = GPT2Config.from_pretrained(directory)
    assert (config.n_layer, config.n_embd) == (1, 64)
    with model_directory("embedded") as name:
        assert name == "embedded"


def test_a_recorded_command_tells_nothing_of_the_machines_directories():
    given = ["--tokenizer", "/some/where/gpt2", "--tokenizer=/some/where/gpt2", "--rounds", "3", "runs/here"]
    assert list(map(results_file.shown, given)) == [
        "--tokenizer",
        "gpt2",
        "--tokenizer=gpt2",
        "--rounds",
        "3",
        "runs/here",
    ]


def test_the_bar_is_reached_at_the_first_update_whose_mean_is_there(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    assert trunk._first_above(metrics, 475) is None  # nothing is written yet
    means = [math.nan, 474.9, 475.0, 480.0]
    ended = [[0], [0] * 98, [0], [0]]
    told = enumerate(zip(means, ended, strict=True))
    lines = [json.dumps({"step": 1_024 * (k + 1), "mean_return": mean, "episodes": e}) for k, (mean, e) in told]
    metrics.write_text("\n".join([*lines[:2], ""]))
    assert trunk._first_above(metrics, 475) is None
    metrics.write_text("\n".join([*lines, '{"step": 9']))  # a line in the making
    assert trunk._first_above(metrics, 475) == 3_072
    assert trunk._first_above(metrics, 474) == 3_072  # by then a hundred episodes have ended


def test_a_run_that_never_reached_the_bar_counts_as_the_slowest():
    runs = [trunk.Run("CartPole-v1", name, seed) for name in ("pretrained", "random") for seed in (1, 2, 3)]
    told = trunk._summary("CartPole-v1", runs, [10, None, 30, None, None, 50])
    assert told["pretrained"] == {"steps_by_seed": {1: 10, 2: None, 3: 30}, "reached": 2, "median_steps": 30}
    assert told["random"]["median_steps"] is None


def test_a_run_that_does_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(trunk, "MAX_RUN_S", 0.0)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with pytest.raises(RuntimeError, match="has not ended"):
        trunk._watched(sleeper, tmp_path / "metrics.jsonl", 475)
    assert sleeper.wait(10) != 0


def test_results_of_other_seeds_and_conditions_are_kept():
    def row(condition, seed, steps=100, episodes=100, mean_return=0.0):
        return {"condition": condition, "seed": seed, "steps": steps, "episodes": episodes, "mean_return": mean_return}

    before = [row("a", 1), row("a", 2), row("b", 1), row("c", 1, steps=50), row("d", 1)]
    now = [row("a", 2, mean_return=1.0), row("c", 2), row("d", 2, episodes=500)]
    assert algorithms.joined(before, now, ("condition",)) == [row("a", 1), row("b", 1), *now]


def test_a_sweep_without_runs_or_judged_otherwise_than_its_peers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["algorithms", str(tmp_path)])
    with pytest.raises(SystemExit, match="holds no finished run"):
        algorithms.main()
    (tmp_path / "results.jsonl").write_text(json.dumps({"evaluation": {"mode": "sample"}}))
    with pytest.raises(SystemExit, match="peers play greedily"):
        algorithms.main()


def test_the_benchmark_of_cartpole_trains_what_make_train_trains():
    assert f"worker train {' '.join(cartpole.TRAIN)} --seed $(SEED)" in (ROOT / "Makefile").read_text()
    experiment = tomllib.loads((ROOT / "experiments" / "cartpole.toml").read_text())
    assert experiment["conditions"]["ppo"]["advantage_floor"] == cartpole.FLOOR
