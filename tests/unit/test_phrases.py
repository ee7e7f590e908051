"""The tree of candidate phrases, and the rows in which prompts and trees are read."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hintwise.action_batch import collate
from hintwise.phrases import PhraseSet
from hintwise.token_rows import lay_out

phrase = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
item = st.tuples(st.lists(st.integers(6, 9), min_size=3, max_size=6).map(tuple), st.lists(phrase, min_size=1))


@pytest.fixture(params=[256, 2], ids="trees of {}".format)
def small_trees(request, monkeypatch):
    monkeypatch.setattr("hintwise.phrases.MAX_TREE_NODES", request.param)


def path(rows, row, column):
    """The tokens that a place of a row sees, the prefix first."""
    ids, past = rows.input_ids[row].tolist(), rows.prefix_ids.tolist()
    if rows.branches is None:
        return past + ids[: column + 1]
    return past + [ids[k] for k in range(len(ids)) if rows.branches.sees[row, column, k]]


def test_a_common_beginning_is_one_node():
    [tree] = PhraseSet.of([(1, 2), (1, 3)]).trees
    assert (tree.nodes, tree.parents, tree.depths) == ((1,), (-1,), (0,))
    assert not tree.branches


def test_a_beginning_of_another_adds_nothing():
    phrases = PhraseSet.of([(4,), (1, 2), (1, 3, 5)])
    [tree] = phrases.trees
    assert (tree.nodes, tree.parents, tree.depths) == ((1, 3), (-1, 0), (0, 1))
    assert not tree.branches
    assert phrases.num_positions == 2


def test_different_beginnings_branch_and_see_nothing_of_each_other():
    phrases = PhraseSet.of([(1, 2, 3), (4, 5)])
    [tree] = phrases.trees
    assert (tree.nodes, tree.parents, tree.depths) == ((1, 2, 4), (-1, 0, -1), (0, 1, 0))
    assert tree.branches
    assert tree.ancestors.tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    assert phrases.num_positions == 2


def test_many_long_phrases_become_several_trees(monkeypatch):
    monkeypatch.setattr("hintwise.phrases.MAX_TREE_NODES", 3)
    phrases = PhraseSet.of([(1, 2, 3), (1, 4), (5, 6), (7, 8, 9, 9, 9), (8,)])
    assert [tree.nodes for tree in phrases.trees] == [(1, 2, 5), (7, 8, 9, 9)]
    assert phrases.read_at == ((0, 1, 2), (0, 1), (0, 3), (4, 5, 6, 7, 8), (4,))
    assert (phrases.num_rows, phrases.num_row_tokens, phrases.num_positions) == (2, 4, 4)


@pytest.mark.parametrize(
    ("phrases", "decides"),
    [
        ([(1,), (2,)], True),
        ([(1, 2), (1, 3)], True),
        ([(1, 2), (4, 2)], False),
        ([(1,), (1, 2)], False),
        ([(7,)], True),
    ],
)
def test_one_token_decides_where_the_rest_is_common(phrases, decides):
    assert PhraseSet.of(phrases).one_token_decides is decides


@given(st.lists(item, min_size=1, max_size=6), st.integers(0, 2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_phrase_token_is_scored_where_its_own_beginning_ends(small_trees, items, prefix_length):
    prompts = [(6,) * prefix_length + prompt for prompt, _ in items]
    batch = collate(prompts, [PhraseSet.of(phrases) for _, phrases in items], prefix_length=prefix_length)
    rows = batch.rows
    num_reads = rows.read_columns.shape[1]
    places = list(range(rows.read_columns.numel())) if batch.scored_places is None else batch.scored_places.tolist()
    firsts = range(len(items)) if batch.first_rows is None else batch.first_rows.tolist()
    for b, (prompt, (_, phrases), first) in enumerate(zip(prompts, items, firsts, strict=True)):
        assert path(rows, first, rows.read_columns[first, 0]) == list(prompt)
        assert batch.action_mask[b].sum() == len(phrases)
        for a, tokens in enumerate(phrases):
            assert batch.token_mask[b, a].sum() == len(tokens)
            for j, token in enumerate(tokens):
                assert batch.token_ids[b, a, j] == token
                row, read = divmod(places[batch.token_places[b, a, j]], num_reads)
                assert path(rows, row, rows.read_columns[row, read]) == [*prompt, *tokens[:j]]


@given(st.lists(item, min_size=1, max_size=6))
def test_positions_count_what_a_token_sees(items):
    trees = [PhraseSet.of(phrases).trees[0] for _, phrases in items]
    rows = lay_out([prompt for prompt, _ in items], trees, prefix_length=2)
    if rows.branches is not None:
        for row, columns in enumerate(rows.read_columns.tolist()):
            for column in columns:
                assert rows.branches.position_ids[row, column] == len(path(rows, row, column)) - 1


@given(st.lists(item, min_size=1, max_size=6))
def test_the_deciding_token_is_found_where_there_is_one(items):
    trees = [PhraseSet.of(phrases) for _, phrases in items]
    batch = collate([prompt for prompt, _ in items], trees)
    assert (batch.deciding is not None) == all(tree.one_token_decides for tree in trees)
    if batch.deciding is not None:
        for b, (_, phrases) in enumerate(items):
            assert batch.deciding.token_ids[b, : len(phrases)].tolist() == [tokens[-1] for tokens in phrases]
            assert batch.deciding.num_tokens[b].item() == len(phrases[0])
            row, read = divmod(batch.deciding.places[b].item(), batch.rows.read_columns.shape[1])
            assert (row, read) == (b, len(phrases[0]) - 1)


def test_a_common_first_token_is_scored_once():
    batch = collate([(9,)], [PhraseSet.of([(1, 2), (1, 3)])])
    assert batch.rows.read_columns.shape == (1, 2)
    assert batch.token_places[0, 0, 0] == batch.token_places[0, 1, 0]


def test_padding_is_zero_and_stands_on_the_right():
    batch = collate([(7,), (7, 8, 9)], [PhraseSet.of([(1,)])] * 2)
    assert batch.rows.input_ids.tolist() == [[7, 0, 0], [7, 8, 9]]


def test_the_prefix_is_left_out_of_the_rows():
    batch = collate([(7, 8, 1), (7, 8, 9, 2)], [PhraseSet.of([(1, 2), (1, 3)])] * 2, prefix_length=2)
    assert batch.rows.prefix_ids.tolist() == [7, 8]
    assert batch.rows.input_ids.tolist() == [[1, 1, 0], [9, 2, 1]]
    assert batch.rows.read_columns.tolist() == [[0, 1], [1, 2]]


def test_the_layout_of_phrases_lives_no_longer_than_they():
    phrases = PhraseSet.of([(1, 2), (1, 3)])
    collate([(7, 8)], [phrases])
    gone = weakref.ref(phrases)
    del phrases
    gc.collect()
    assert gone() is None


def test_what_a_node_sees_is_itself_and_those_above():
    [tree] = PhraseSet.of([(1, 2, 3, 4), (1, 2, 5, 6), (7, 8)]).trees
    assert np.flatnonzero(tree.ancestors[3]).tolist() == [0, 1, 3]  # 1, 2 and 5
