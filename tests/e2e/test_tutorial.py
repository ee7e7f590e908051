"""The tutorial is run from top to bottom: it prints what it shows, and each naive form fails as the text says."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch

from tests.e2e.pages import Block, Session, assert_printed_alike, blocks_of
from tests.e2e.processes import policy_version
from tests.e2e.tutorial import BLOCKS, PAGE, TRUE_GPT2, names_after_the_first_failure


@dataclass(frozen=True)
class Told:
    """A session after its last block, and what each block printed."""

    session: Session
    printed: dict[Block, str]

    def by(self, code: str) -> str:
        """Returns what the one block that has this code printed."""
        (found,) = (text for block, text in self.printed.items() if code in block.text)
        return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    with contextlib.ExitStack() as stack, torch.random.fork_rng():
        session = Session(tmp_path_factory.mktemp("tutorial"), stack)
        yield Told(session, {block: session.run(block) for block in BLOCKS})


@pytest.mark.parametrize("place", range(len(BLOCKS)), ids=[f"{block.language}-{block.line}" for block in BLOCKS])
def test_a_block_prints_what_the_page_shows(told, place):
    block = BLOCKS[place]
    if block.language == "python":
        following = BLOCKS[place + 1 : place + 2]
        shown = "".join(each.text for each in following if each.language == "text")
        assert_printed_alike(told.printed[block], shown)


def test_a_word_of_the_vocabulary_is_hardly_ever_an_action(told):
    names = told.session.names
    assert len(names["probabilities"]) == 50_257
    assert 0 < names["chance"] < 1e-4
    assert names["num_actions"] == 0


def test_a_sum_over_words_rules_the_longer_name_out_and_a_mean_does_not(told):
    names = told.session.names
    short, long = names["policy"](names["embedded"], names["state"], names["longer"]).exp().tolist()
    assert long < 1e-4 < 0.99 < short
    averaged = names["policy"](names["embedded"], names["state"], names["longer"], alpha=1).exp().tolist()
    assert min(averaged) > 0.2


def test_the_likeliest_word_repeats_itself_and_does_not_end(told):
    untrained = ast.literal_eval(told.by("naive_guidance(gpt2, state)"))
    assert len(untrained) >= 16
    assert len(set(untrained)) == 1
    trained = ast.literal_eval(told.by("naive_guidance(writer, state)"))
    assert trained.startswith(" push right\n")
    assert set(trained.split("\n")) == {" push right", ""}  # the hint again, or empty lines: nothing new


def test_a_line_that_is_drawn_ends_and_differs_only_where_it_is_drawn_boldly(told):
    cold, warm = map(ast.literal_eval, told.by("for temperature in").splitlines())
    assert set(cold) == {"push right"}
    assert set(warm) == {"push left", "push right"}


def test_a_log_probability_as_reward_costs_more_than_the_environment_pays(told):
    paid = [float(line.rpartition(" ")[2]) for line in told.by("1 + naive_reward(gpt2").splitlines()]
    assert len(paid) == 2
    assert max(paid) < -5
    assert abs(paid[0] - paid[1]) < 1  # and says next to nothing about the action


def test_a_difference_has_the_right_sign_and_no_scale_and_tanh_has_one(told):
    names = told.session.names
    differences = {hint: names["difference"](names["state"], hint, "push left") for hint in names["hints"]}
    assert differences["push right"] < -5
    assert 0.5 < differences["push left"] < 1
    assert abs(differences["the weather is nice"]) < 0.05
    assert names["reward"](names["state"], "push right", "push left") == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize("endpoint", ["/act", "/reward"])
def test_an_endpoint_gives_the_numbers_computed_by_hand(told, endpoint):
    *_, served, by_hand = (line.split() for line in told.by(f'show("{endpoint}"').splitlines())
    assert (served[0], by_hand[:2]) == (endpoint, ["by", "hand"])
    assert list(map(float, served[1:])) == pytest.approx(list(map(float, by_hand[2:])), abs=1e-4)


def test_the_service_serves_what_the_run_learned_in_the_end(told):
    assert policy_version(told.session.url) == 2


def test_one_changed_line_takes_another_gpt2(told, tmp_path):
    gpt2 = told.session.names["small_gpt2"]()
    gpt2.model.save_pretrained(tmp_path)
    gpt2.tokenizer.save_pretrained(tmp_path)
    assert f"`{TRUE_GPT2}`" in PAGE.read_text(encoding="utf-8")
    changed = TRUE_GPT2.removeprefix("gpt2 = ").replace("openai-community/gpt2", str(tmp_path))
    names = names_after_the_first_failure(tmp_path, changed)
    assert names["gpt2"].name == str(tmp_path)
    assert names["chance"] == pytest.approx(told.session.names["chance"], rel=1e-3)


def test_the_chinese_page_has_the_same_code():
    translated = blocks_of(PAGE.with_name("tutorial.zh.md"))
    assert [block.language for block in translated] == [block.language for block in BLOCKS]
    for ours, theirs in zip(BLOCKS, translated, strict=True):
        assert theirs.meaning == ours.meaning, f"{theirs.name} differs from {ours.name}"
