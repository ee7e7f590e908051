"""What the README and the guides show is executed: curl lines with their answers, and Python blocks."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.processes import ROOT, running_service
from tests.e2e.shown_answers import assert_alike

README = (ROOT / "README.md").read_text()
CURL_LINES = re.findall(r"^\$ (curl .*)\n(\{.*\})$", README, re.MULTILINE)
PYTHON_BLOCKS = [
    (page.name, block)
    for page in (ROOT / "README.md", ROOT / "docs" / "service.md", ROOT / "docs" / "describers.md")
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with running_service(tmp_path_factory.mktemp("readme") / "weights") as url:
        yield url


def test_the_readme_shows_all_three_endpoints():
    assert [shlex.split(line)[2].rpartition("/")[2] for line, _ in CURL_LINES] == ["act", "guidance", "reward"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("line", "shown"), CURL_LINES, ids=["act", "guidance", "reward"])
def test_a_curl_line_answers_as_shown(url, line, shown):
    command = [word.replace("localhost:8000", url.removeprefix("http://")) for word in shlex.split(line)]
    if _curl_version() < (7, 82):
        pytest.skip("this curl has no --json")
    ended = subprocess.run([*command, "--max-time", "30"], capture_output=True, text=True, check=True)
    assert_alike(json.loads(ended.stdout), json.loads(shown))


@pytest.mark.parametrize(
    ("page", "block"), PYTHON_BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(PYTHON_BLOCKS)]
)
def test_a_python_block_runs(url, page, block, tmp_path):
    script = tmp_path / "block.py"
    script.write_text(block.replace("http://127.0.0.1:8000", url))
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def _curl_version() -> tuple[int, ...]:
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in said.split()[1].split(".")[:2])


def test_every_target_the_readme_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)`?", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_path_the_readme_names_exists():
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), Path(path)
