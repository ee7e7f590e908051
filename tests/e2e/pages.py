"""Pages whose blocks are one session: Python that builds on the blocks above it, and commands at a prompt."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.processes import run_worker, running_service

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(-?\d+\.\d+)")
SHOWN_URL = "http://127.0.0.1:8000"
FEW_STEPS = ("--total-steps", 256, "--num-envs", 4, "--num-steps", 32, "--minibatch-size", 64, "--update-epochs", 1)


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    page: str
    line: int
    """Of the page, on which its first line stands."""
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}, line {self.line}"

    @property
    def meaning(self) -> str:
        """Returns what a translation must keep: a program without its comments and docstrings, else every letter."""
        if self.language != "python":
            return self.text
        program = ast.parse(self.text)
        for node in ast.walk(program):
            if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                del node.body[0]
        return ast.dump(program, indent=1)


def blocks_of(page: Path) -> list[Block]:
    """Returns the blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page.name, text.count("\n", 0, found.start(2)) + 1, found[1], found[2]) for found in BLOCK.finditer(text)
    ]


@dataclass
class Session:
    """Runs blocks one after the other, as a reader does who types them.

    Args:
        directory: Stands in for the page's `runs/`.
        stack: Stops what a command started.
    """

    directory: Path
    stack: contextlib.ExitStack
    names: dict[str, object] = field(default_factory=lambda: {"__name__": "page"})
    url: str = SHOWN_URL

    def run(self, block: Block) -> str:
        """Returns what a block prints; what is only shown prints nothing."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if block.language == "python":
                self._execute(block)
            if block.language == "console":
                for line in block.text.splitlines():
                    print(self._command(line), end="")  # noqa: T201 (what a command says is what the block prints)
        return printed.getvalue()

    def _execute(self, block: Block) -> None:
        text = "\n" * (block.line - 1) + block.text.replace(SHOWN_URL, self.url)  # a trace names the page's own line
        exec(compile(text, block.page, "exec"), self.names)  # noqa: S102 (the page is ours)

    def _command(self, line: str) -> str:
        prompt, python, module, program, *arguments = shlex.split(line)
        assert [prompt, python, module] == ["$", "python", "-m"], line
        arguments = [self._here(word) for word in arguments]
        if program == "service":
            self._serve(arguments)
            return ""
        assert program == "worker", line
        ended = run_worker(*arguments, *(FEW_STEPS if arguments[0] == "train" else ()))
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def _here(self, word: str) -> str:
        return str(self.directory / word) if word.startswith("runs/") else word.replace(SHOWN_URL, self.url)

    def _serve(self, arguments: list[str]) -> None:
        place = arguments.index("--weights-dir")
        weights_dir = Path(arguments[place + 1])
        del arguments[place : place + 2]
        arguments[arguments.index("--port") + 1] = "0"  # the page's own may be taken
        self.url = self.stack.enter_context(running_service(weights_dir, *arguments))


def assert_printed_alike(printed: str, shown: str) -> None:
    """Equal but for the last digits of fractions, which differ between machines."""
    given, wanted = NUMBER.split(printed), NUMBER.split(shown)
    assert given[::2] == wanted[::2], f"printed:\n{printed}\nshown:\n{shown}"
    assert list(map(float, given[1::2])) == pytest.approx(list(map(float, wanted[1::2])), abs=2e-3, rel=2e-2)
