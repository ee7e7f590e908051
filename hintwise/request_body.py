"""Arguments of a call -> the JSON body of its request, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from pydantic import BaseModel
from pydantic_core import to_json

from hintwise.errors import InvalidRequest, Offence

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[Any]"
Observations: TypeAlias = "Sequence[object] | Array"
Actions: TypeAlias = "Sequence[str] | Sequence[Sequence[str]] | None"
Tasks: TypeAlias = "str | Sequence[str | None] | None"
Seeds: TypeAlias = "int | Sequence[int] | Array | None"

MAX_NAMED = 8


def to_body(schema: type[BaseModel], fields: Mapping[str, object]) -> bytes:
    """Returns the given fields as JSON; those that are None or the schema's default are left out.

    Values are not checked against the schema, since the service does that. NumPy arrays and
    scalars become what JSON knows.

    Raises:
        InvalidRequest: A value is NaN, infinite, or nothing that JSON can hold; offences name the item.
    """
    defaults = _defaults(schema)
    given = {
        name: value
        for name, value in fields.items()
        if value is not None and not (name in defaults and value == defaults[name])
    }
    try:
        body = to_json(given, fallback=_plain)
    except ValueError as error:
        raise _unsendable(given, str(error)) from error
    # JSON knows no NaN and most readers refuse it; texts may hold the word, so look twice.
    if (b"NaN" in body or b"Infinity" in body) and body != to_json(given, fallback=_plain, inf_nan_mode="null"):
        raise _unsendable(given, "NaN and infinity are no JSON numbers")
    return body


@lru_cache
def _defaults(schema: type[BaseModel]) -> dict[str, object]:
    """Returns the fields of `schema` that are something when left out."""
    fields = schema.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required() and field.default is not None}


def _plain(value: Any) -> Any:
    """Returns a NumPy array or scalar, or another container, as something JSON knows."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _unsendable(fields: Mapping[str, object], reason: str) -> InvalidRequest:
    """Returns the error that names the fields, or items of a field, that JSON cannot hold."""
    offences: list[Offence] = []
    for name, value in fields.items():
        if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
            places: list[tuple[str, object]] = [(name, value)]
        else:
            places = [(f"{name}[{i}]", item) for i, item in enumerate(value)]
        offences += [Offence(place, fault) for place, item in places if (fault := _fault(item))]
    return InvalidRequest(f"the request cannot be sent: {reason}", errors=offences[:MAX_NAMED])


def _fault(value: object) -> str | None:
    """Returns why JSON cannot hold `value`, or None."""
    try:
        exact, without = (to_json(value, fallback=_plain, inf_nan_mode=mode) for mode in ("constants", "null"))
    except ValueError as error:
        return str(error).removeprefix("Error serializing to JSON: ")
    return None if exact == without else "holds NaN or an infinite number"
