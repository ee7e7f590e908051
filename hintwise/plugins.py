"""What other packages bring, by their entry points.

    [project.entry-points."hintwise.scorers"]
    confidence = "my_scorers:Confidence"        a name = module:what makes one

What cannot be used is an error that names its package: who counts on it would otherwise find out late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from hintwise.errors import PluginUnusable

Made = TypeVar("Made")


def with_plugins(
    built_in: Mapping[str, Callable[[], Made]], *, group: str, kind: str, needs: Sequence[str]
) -> dict[str, Callable[[], Made]]:
    """Returns what is built in and what every installed package brings, by name.

    Args:
        built_in: What there is without them.
        group: Of the entry points.
        kind: What one is called in errors, such as `scorer`.
        needs: Attributes that one must have.

    Raises:
        PluginUnusable: One cannot be made, lacks an attribute, or has a name that is taken.
    """
    found, brought_by = dict(built_in), dict.fromkeys(built_in, "hintwise")
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, _package(entry))):
        if entry.name in found:
            raise _unusable(kind, entry, f"{brought_by[entry.name]} already has one of that name")
        found[entry.name] = _loaded(kind, entry, needs)
        brought_by[entry.name] = f"package {_package(entry)}"
    return found


def _loaded(kind: str, entry: EntryPoint, needs: Sequence[str]) -> Callable[[], Made]:
    try:
        make: Callable[[], Made] = entry.load()
        one: object = make()
        lacking = [name for name in needs if not hasattr(one, name)]
    except Exception as error:  # whatever the code of others raises
        told = " ".join(str(error).split())  # one line, whatever it says
        raise _unusable(kind, entry, f"{type(error).__name__}: {told}") from error
    if lacking:
        raise _unusable(kind, entry, f"it has no {' and no '.join(lacking)}")
    return make


def _unusable(kind: str, entry: EntryPoint, reason: str) -> PluginUnusable:
    package = _package(entry)
    return PluginUnusable(
        f"{kind} {entry.name!r} of package {package} ({entry.value}) cannot be used: {reason}; "
        f"repair {package}, or uninstall it"
    )


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "(unknown)"
