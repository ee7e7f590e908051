"""Scorers that other packages bring, by the entry points of group `hintwise.scorers`.

    [project.entry-points."hintwise.scorers"]
    confidence = "my_scorers:Confidence"        name in requests = module:what makes a Scorer

They are loaded once, when the service starts. One that cannot be loaded stops the start: a
learner that counts on it would otherwise find out in its first request.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from hintwise.errors import HintwiseError
from service.reward_scorer import BUILT_IN_SCORERS, Scorer

GROUP = "hintwise.scorers"


class ScorerUnusable(HintwiseError):
    """A package brings a scorer that cannot be loaded."""


def installed_scorers() -> dict[str, Callable[[], Scorer]]:
    """Returns the scorers of this service and of every installed package, by name.

    Raises:
        ScorerUnusable: One cannot be loaded, is no scorer, or has a name that is taken; the message names its package.
    """
    scorers, brought_by = dict(BUILT_IN_SCORERS), dict.fromkeys(BUILT_IN_SCORERS, "this service")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, _package(entry))):
        if entry.name in scorers:
            raise _unusable(entry, f"{brought_by[entry.name]} already has one of that name")
        scorers[entry.name] = _loaded(entry)
        brought_by[entry.name] = f"package {_package(entry)}"
    return scorers


def _loaded(entry: EntryPoint) -> Callable[[], Scorer]:
    try:
        make: Callable[[], Scorer] = entry.load()
        scorer = make()
    except Exception as error:  # whatever the code of others raises
        told = " ".join(str(error).split())  # one line, whatever it says
        raise _unusable(entry, f"{type(error).__name__}: {told}") from error
    lacking = [name for name in ("questions", "result") if not callable(getattr(scorer, name, None))]
    if lacking:
        raise _unusable(entry, f"it has no method {' and no method '.join(lacking)}")
    return make


def _unusable(entry: EntryPoint, reason: str) -> ScorerUnusable:
    package = _package(entry)
    return ScorerUnusable(
        f"scorer {entry.name!r} of package {package} ({entry.value}) cannot be used: {reason}; "
        f"repair {package}, or uninstall it"
    )


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "(unknown)"
