"""`POST /reward` and `GET /info` beside a package that brings the scorer of docs/scorers.md."""

import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCS = Path(__file__).parents[2] / "docs" / "scorers.md"
ITEM = {"hint": "push left", "observation": "cart 20 speed 21", "actions": ["push left", "push right"]}


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """A package as `pip install` leaves it."""
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hintwise.scorers]\nconfidence = my_scorers:Confidence\n")
    (tmp_path / "my_scorers.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_scorers", raising=False)


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
