"""`POST /reward` and `GET /info` beside a package that brings the scorer of docs/scorers.md."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCS = Path(__file__).parents[2] / "docs" / "scorers.md"
ITEM = {"hint": "push left", "observation": "cart 20 speed 21", "actions": ["push left", "push right"]}


@pytest.fixture
def plugged(install_plugins):
    """A package with the scorer of the page."""
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    install_plugins("hintwise.scorers", "my_scorers", code, confidence="my_scorers:Confidence")


async def test_the_scorer_of_a_package_is_listed_and_answers(plugged, start):
    async with start() as service:
        assert (await service.http.get("/info")).json()["scorers"] == ["alignment", "progress", "confidence"]
        answer = await service.ask("/reward", {"items": [ITEM], "scorer": "confidence"})
        assert answer["scorer"] == "confidence"
        assert answer["results"][0]["reward"] < 0  # a log-probability
        lacking = {name: value for name, value in ITEM.items() if name != "actions"}
        await service.refused("/reward", {"items": [lacking], "scorer": "confidence"}, 422)
        refusal = await service.refused("/reward", {"items": [ITEM], "scorer": "vibes"})
        assert "confidence" in refusal.text
