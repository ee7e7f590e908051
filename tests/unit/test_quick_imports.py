"""The garbage collector waits while packages are imported, and only then."""

from __future__ import annotations

import gc

import pytest

from hintwise.quick_imports import uncollected


def test_nothing_is_collected_inside_and_what_was_made_there_is_never_looked_at_again():
    with uncollected():
        assert not gc.isenabled()
        made = [[] for _ in range(100)]
    assert gc.isenabled()
    assert not any(each is made for each in gc.get_objects())


def test_a_failed_import_leaves_the_collector_on():
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()
