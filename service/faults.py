"""What is wrong with the items of a request, gathered so that one answer names every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from hintwise.errors import InvalidRequest, Offence
from service.problems import MAX_NAMED

T = TypeVar("T")


def blamed_on(place: str, error: InvalidRequest) -> InvalidRequest:
    """Returns `error` with `place` in front of the fields it names, or naming `place` alone."""
    named = [Offence(f"{place}.{field}", message) for field, message in error.errors]
    if not named:
        return InvalidRequest("the request is not valid", errors=[Offence(place, error.detail)])
    return InvalidRequest(error.detail, errors=named)


class ItemFaults:
    """Looks at items one by one, goes on behind one that is refused, and raises for all of them at the end.

    Args:
        place_of: Names item i as the caller knows it; two items of one name are named once.
    """

    def __init__(self, place_of: Callable[[int], str]) -> None:
        self._place_of = place_of
        self._errors: dict[int, InvalidRequest] = {}

    def each(self, indices: Iterable[int], look: Callable[[int], T]) -> list[T]:
        """Returns what `look` returns for every index that it does not refuse."""
        accepted: list[T] = []
        for index in indices:
            try:
                accepted.append(look(index))
            except InvalidRequest as error:
                self._errors[index] = error
        return accepted

    def raise_any(self) -> None:
        """Raises `InvalidRequest` for the items that were refused; after it, `each` has returned all of them."""
        if not self._errors:
            return
        blamed: dict[str, InvalidRequest] = {}
        for index, error in sorted(self._errors.items(), key=lambda found: found[0]):
            place = self._place_of(index)
            blamed.setdefault(place, blamed_on(place, error))
        errors = list(blamed.values())
        named = [offence for error in errors for offence in error.errors][:MAX_NAMED]
        detail = errors[0].detail if len(errors) == 1 else f"{len(errors)} items are not valid"
        raise InvalidRequest(detail, errors=named)
