"""The import rules of docs/architecture.md, checked by reading the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "hintwise": {"service", "worker", "fastapi", "uvicorn", "gymnasium"},
    "service": {"worker", "gymnasium"},
    "worker": {"service", "fastapi", "uvicorn"},
}
WRAPPERS = ROOT / "hintwise" / "wrappers"
TORCH_FREE = [
    "hintwise/__init__.py",
    "hintwise/async_client.py",
    "hintwise/client.py",
    "hintwise/client_address.py",
    "hintwise/client_answers.py",
    "hintwise/client_core.py",
    "hintwise/digests.py",
    "hintwise/errors.py",
    "hintwise/fields.py",
    "hintwise/guidance_stream.py",
    "hintwise/prompts.py",
    "hintwise/request_body.py",
    "hintwise/schemas.py",
    "hintwise/weight_calls.py",
    *(str(path.relative_to(ROOT)) for path in sorted(WRAPPERS.rglob("*.py"))),
    "service/batch_run.py",
    "service/batcher.py",
    "service/event_stream.py",
    "service/hint_reader.py",
]
MAX_LINES = 300
MAX_FUNCTION_LINES = 50
NO_NAMES = {"utils", "common", "base", "manager", "helper", "helpers", "misc"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    """Dotted names imported by one file, function bodies included."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def every_file() -> list[Path]:
    return [path for package in FORBIDDEN for path in files(package)]


def test_no_forbidden_imports():
    for package, forbidden in FORBIDDEN.items():
        for path in files(package):
            roots = {name.split(".")[0] for name in imports(path)}
            allowed = {"gymnasium"} if path.is_relative_to(WRAPPERS) else set()
            assert not roots & forbidden - allowed, f"{path} imports {roots & forbidden - allowed}"


def test_the_library_works_without_its_wrappers_which_need_gymnasium():
    for path in every_file():
        if not path.is_relative_to(WRAPPERS):
            assert not any(name.startswith("hintwise.wrappers") for name in imports(path)), path


def test_algorithms_know_neither_http_nor_environments():
    for path in files("worker/algorithms"):
        found = imports(path)
        assert not {name.split(".")[0] for name in found} & {"httpx", "gymnasium"}, path
        assert not any(name.startswith("hintwise.client") for name in found), path


def test_what_a_light_client_imports_loads_no_torch():
    for name in TORCH_FREE:
        roots = {imported.split(".")[0] for imported in imports(ROOT / name)}
        assert not roots & {"torch", "transformers"}, name


SLOW = "torch", "transformers", "fastapi"


@pytest.mark.parametrize(("program", "arguments"), [("service", ["--port", "x"]), ("worker", ["train", "--seed", "x"])])
def test_a_wrong_setting_is_answered_before_anything_slow_is_imported(program, arguments):
    code = (
        f"import atexit, runpy, sys; atexit.register(lambda: print([name for name in {SLOW} if name in sys.modules]))\n"
    )
    code += f"sys.argv = [{program!r}, *{arguments}]; runpy.run_module({program!r}, run_name='__main__')"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (2, "[]\n"), ran.stderr


def test_files_and_functions_stay_small():
    for path in every_file():
        lines = len(path.read_text().splitlines())
        assert lines <= MAX_LINES, f"{path}: {lines} lines"
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= MAX_FUNCTION_LINES, f"{path}: {node.name} has {length} lines"


def test_no_name_that_says_nothing():
    for path in every_file():
        assert path.stem not in NO_NAMES, path
