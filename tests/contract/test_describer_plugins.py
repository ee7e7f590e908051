"""The service beside a package that brings the describer of docs/describers.md."""

import re
from pathlib import Path

import pytest

from hintwise.errors import PluginUnusable
from service.__main__ import main

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCS = Path(__file__).parents[2] / "docs" / "describers.md"
HAND = [17, 10, 1]


@pytest.fixture
def plugged(install_plugins):
    """A package with the describer of the page, which reads what JSON holds."""
    [code] = [
        block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL) if "class Black" in block
    ]
    install_plugins("hintwise.describers", "my_worlds", code, **{"Blackjack-v1": "my_worlds:Blackjack"})


async def test_raw_observations_of_a_package_s_environment_are_taken(plugged, start):
    async with start() as service:
        assert "Blackjack-v1" in (await service.http.get("/info")).json()["env_ids"]
        answer = await service.ask("/act", {"observations": [HAND], "env_id": "Blackjack-v1"})
        assert answer["results"][0]["label"] in ("stick", "hit")
        assert (await service.ask("/guidance", {"observations": [HAND], "env_id": "Blackjack-v1"}))["results"]
        refusal = await service.refused("/act", {"observations": [HAND], "actions": ["stick", "hit"]})
        assert "Blackjack-v1" in refusal.fields["observations[0]"]
        refusal = await service.refused("/act", {"observations": [HAND], "env_id": "Blackjak-v1"})
        assert "did you mean Blackjack-v1?" in refusal.fields["env_id"]


async def test_a_describer_that_cannot_be_used_stops_the_start(install_plugins, start):
    install_plugins("hintwise.describers", "my_worlds", "", **{"Blackjack-v1": "my_worlds:Blackjack"})
    with pytest.raises(PluginUnusable, match="describer 'Blackjack-v1' of package plugged"):
        async with start():
            pass


async def test_one_that_a_setting_names_is_a_line_and_no_traceback(install_plugins, monkeypatch, capsys):
    install_plugins("hintwise.describers", "my_worlds", "", **{"Blackjack-v1": "my_worlds:Blackjack"})
    monkeypatch.setattr("sys.argv", ["service", "--readout", "head", "--head-env-id", "Blackjack-v1"])
    assert main() == 1
    assert "describer 'Blackjack-v1' of package plugged" in capsys.readouterr().err
