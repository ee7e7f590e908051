"""Every refused item of a request is named, in order, once, and not without end."""

import pytest

from hintwise.errors import InvalidRequest, Offence
from service.faults import ItemFaults
from service.problems import MAX_NAMED


def refuse_odd(index):
    if index % 2:
        raise InvalidRequest(f"{index} is odd")
    return 10 * index


def raised(faults):
    with pytest.raises(InvalidRequest) as error:
        faults.raise_any()
    return error.value


def test_what_is_accepted_is_returned_and_nothing_is_raised():
    faults = ItemFaults("items[{}]".format)
    assert faults.each((0, 2, 4), refuse_odd) == [0, 20, 40]
    faults.raise_any()


def test_every_refused_item_is_named_in_order_whenever_it_was_found():
    faults = ItemFaults("items[{}]".format)
    assert faults.each((3, 4), refuse_odd) == [40]
    assert faults.each((0, 1), refuse_odd) == [0]
    error = raised(faults)
    assert error.errors == (Offence("items[1]", "1 is odd"), Offence("items[3]", "3 is odd"))
    assert error.detail == "2 items are not valid"


def test_two_items_of_one_name_are_named_once():
    faults = ItemFaults(lambda index: f"items[{index // 2}]")
    faults.each((1, 3), refuse_odd)
    faults.each((0,), lambda index: refuse_odd(5))
    assert raised(faults).errors == (Offence("items[0]", "5 is odd"), Offence("items[1]", "3 is odd"))


def test_the_fields_of_an_item_stand_behind_its_name():
    def refuse(index):
        raise InvalidRequest("two are missing", errors=[Offence("action", "missing"), Offence("actions", "missing")])

    faults = ItemFaults("items[{}]".format)
    faults.each((7,), refuse)
    error = raised(faults)
    assert error.detail == "two are missing"
    assert [offence.field for offence in error.errors] == ["items[7].action", "items[7].actions"]


def test_the_answer_stays_short_and_tells_how_many_there_are():
    faults = ItemFaults("items[{}]".format)
    faults.each(range(1, 200, 2), refuse_odd)
    error = raised(faults)
    assert len(error.errors) == MAX_NAMED
    assert error.detail == "100 items are not valid"
