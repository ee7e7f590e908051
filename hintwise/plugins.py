"""What other packages bring, by their entry points.

    [project.entry-points."hintwise.scorers"]
    confidence = "my_scorers:Confidence"        a name = module:what makes one

What cannot be used is an error that names its package: who counts on it would otherwise find out late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from hintwise.errors import PluginUnusable

Made = TypeVar("Made")


class Plugins(Generic[Made]):
    """What is built in and what installed packages bring, by name. Code of others runs when it is asked for.

    Args:
        built_in: What there is without them.
        group: Of the entry points.
        kind: What one is called in errors, such as `scorer`.
        needs: Attributes that one must have.
    """

    def __init__(
        self, built_in: Mapping[str, Callable[[], Made]], *, group: str, kind: str, needs: Sequence[str]
    ) -> None:
        self._built_in = built_in
        self._kind, self._needs = kind, needs
        self._entries: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, _package(entry))):
            self._entries.setdefault(entry.name, []).append(entry)
        self._loaded: dict[str, Callable[[], Made]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """What is built in, then what packages bring; nothing is loaded for it."""
        return tuple(dict.fromkeys([*self._built_in, *self._entries]))

    def maker(self, name: str) -> Callable[[], Made] | None:
        """Returns what makes the one of this name; None where there is none.

        Raises:
            PluginUnusable: A package brings it, and it cannot be used.
        """
        if name in self._built_in:
            return self._built_in[name]
        if name in self._entries and name not in self._loaded:
            self._loaded[name] = self._load(*self._entries[name])
        return self._loaded.get(name)

    def load(self) -> dict[str, Callable[[], Made]]:
        """Loads what every package brings, and returns all by name.

        Raises:
            PluginUnusable: One cannot be made, lacks an attribute, or has a name that is taken.
        """
        for name, (entry, *_) in self._entries.items():
            if name in self._built_in:
                raise self._unusable(entry, "hintwise already has one of that name")
            self.maker(name)
        return {**self._built_in, **self._loaded}

    def _load(self, entry: EntryPoint, *others: EntryPoint) -> Callable[[], Made]:
        for other in others:
            raise self._unusable(other, f"package {_package(entry)} already has one of that name")
        try:
            make: Callable[[], Made] = entry.load()
            one: object = make()
            lacking = [name for name in self._needs if not hasattr(one, name)]
        except Exception as error:  # whatever the code of others raises
            told = " ".join(str(error).split())  # one line, whatever it says
            raise self._unusable(entry, f"{type(error).__name__}: {told}") from error
        if lacking:
            raise self._unusable(entry, f"it has no {' and no '.join(lacking)}")
        return make

    def _unusable(self, entry: EntryPoint, reason: str) -> PluginUnusable:
        package = _package(entry)
        return PluginUnusable(
            f"{self._kind} {entry.name!r} of package {package} ({entry.value}) cannot be used: {reason}; "
            f"repair {package}, or uninstall it"
        )


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "(unknown)"
