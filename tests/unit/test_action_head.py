"""The head's list of actions: its identity, its columns, and how a batch of them is laid out."""

import pytest

from hintwise.action_batch import PhraseBatch, collate
from hintwise.action_head import HeadActions, HeadColumns, parse_head_actions
from hintwise.errors import InvalidRequest
from hintwise.phrases import PhraseSet
from service.settings import Settings

ACTIONS = ("push left", "wait", "push right")


def test_columns_are_those_of_the_actions_asked_for_in_their_order():
    head = HeadActions(ACTIONS)
    assert head.columns(("push right", "push left")).columns == (2, 0)
    assert head.columns(ACTIONS).columns == (0, 1, 2)


def test_an_action_the_head_was_not_built_for_is_refused_with_the_list():
    with pytest.raises(InvalidRequest) as error:
        HeadActions(ACTIONS).columns(("wait", "jump"), place="actions[3]")
    (offence,) = error.value.errors
    assert offence.field == "actions[3]"
    assert "'jump'" in offence.message
    assert '["push left", "wait", "push right"]' in offence.message


def test_a_long_list_is_shown_by_its_beginning():
    shown = str(HeadActions([f"go to place {i}" for i in range(256)]))
    assert len(shown) < 400
    assert shown.endswith("... (256)")


@pytest.mark.parametrize(
    "other", [("push left", "push right"), ("wait", "push left", "push right"), ("push left", "wait", "push  right")]
)
def test_other_actions_and_another_order_are_another_identity(other):
    assert HeadActions(ACTIONS).identity.startswith("head 3:")
    assert HeadActions(ACTIONS).identity == HeadActions(list(ACTIONS)).identity
    assert HeadActions(other).identity != HeadActions(ACTIONS).identity


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("push left,push right", ("push left", "push right")),
        (" push left , push right ", ("push left", "push right")),
        ('["left, then right", "wait"]', ("left, then right", "wait")),
        (' ["wait"]', ("wait",)),
        ("wait", ("wait",)),
    ],
)
def test_a_list_is_given_with_commas_or_as_json(text, actions):
    assert parse_head_actions(text) == actions


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "entry 0 is empty"), ("a,,b", "entry 1 is empty"), ("a,a", "distinct"), ('["a"', "JSON"), ("[1]", "texts")],
)
def test_what_is_no_list_of_actions_says_why(text, message):
    with pytest.raises(ValueError, match=message):
        parse_head_actions(text)


def test_a_batch_reads_each_prompt_alone_and_gathers_its_own_columns():
    batch = collate([(7,), (7, 8, 9)], [HeadColumns((2, 0)), HeadColumns((1,))])
    assert batch.rows.input_ids.tolist() == [[7, 0, 0], [7, 8, 9]]
    assert batch.rows.read_columns.tolist() == [[0], [2]]
    assert batch.columns.tolist() == [[2, 0], [1, 0]]
    assert batch.action_mask.tolist() == [[True, True], [True, False]]


def test_a_head_adds_nothing_behind_the_prompt():
    columns = HeadActions(ACTIONS).columns(ACTIONS)
    assert (columns.num_rows, columns.num_row_tokens, columns.num_positions, columns.num_actions) == (1, 0, 0, 3)
    phrases = PhraseSet.of([(1, 2), (3, 4), (5,)])
    assert (phrases.num_rows, phrases.num_row_tokens, phrases.num_positions, phrases.num_actions) == (1, 2, 1, 3)


def test_phrases_are_laid_out_as_phrases():
    assert isinstance(collate([(7,)], [PhraseSet.of([(1, 2)])]), PhraseBatch)


@pytest.mark.parametrize(
    ("given", "actions"),
    [
        ({"readout": "head", "head_actions": "push left,push right"}, ("push left", "push right")),
        ({"readout": "head", "head_actions": ["a, b", "c"]}, ("a, b", "c")),
        ({"readout": "head", "head_env_id": "MountainCar-v0"}, ("push left", "wait", "push right")),
        ({}, None),
    ],
)
def test_settings_name_the_list(given, actions):
    assert Settings(**given).head_list == actions


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"readout": "head"}, "either --head-actions .* or --head-env-id"),
        ({"readout": "head", "head_actions": "a,b", "head_env_id": "CartPole-v1"}, "either --head-actions"),
        ({"head_actions": "a,b"}, "--head-actions is for --readout head"),
        ({"head_env_id": "CartPole-v1"}, "--head-env-id is for --readout head"),
        ({"readout": "head", "head_actions": "a,a"}, "distinct"),
        ({"readout": "head", "head_env_id": "CartPole"}, "--head-env-id: .*did you mean CartPole-v1"),
    ],
)
def test_settings_that_do_not_go_together_say_what_to_do(given, message):
    with pytest.raises(ValueError, match=message):
        Settings(**given)
