"""Scorers that other packages bring, by the entry points of group `hintwise.scorers`.

    [project.entry-points."hintwise.scorers"]
    confidence = "my_scorers:Confidence"        name in requests = module:what makes a Scorer

They are loaded once, when the service starts. One that cannot be loaded stops the start: a
learner that counts on it would otherwise find out in its first request.
"""

from __future__ import annotations

from collections.abc import Callable

from hintwise.plugins import Plugins
from service.reward_scorer import BUILT_IN_SCORERS, Scorer

GROUP = "hintwise.scorers"


def installed_scorers() -> dict[str, Callable[[], Scorer]]:
    """Returns the scorers of this service and of every installed package, by name.

    Raises:
        PluginUnusable: One cannot be loaded, is no scorer, or has a name that is taken; the message names its package.
    """
    return Plugins(BUILT_IN_SCORERS, group=GROUP, kind="scorer", needs=("questions", "result")).load()
