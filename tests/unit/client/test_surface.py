"""The two clients, the schemas and the docs agree."""

import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hintwise import AsyncClient, Client, errors
from hintwise.errors import BY_TITLE
from hintwise.schemas import ActRequest, GuidanceRequest, RewardRequest
from tests.unit.client.scripted import INFORMED

ROOT = Path(__file__).parents[3]


async def test_a_client_is_closed_by_its_context(service):
    client = service.client(INFORMED)
    if service.kind == "sync":
        with client as entered:
            assert entered is client
    else:
        async with client as entered:
            assert entered is client
    with pytest.raises(RuntimeError, match="closed"):
        await service.call(client, "info")


def test_the_clients_sleep_for_real():
    assert Client()._sleep.__module__ == "time"
    assert AsyncClient()._sleep is asyncio.sleep


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_calls():
    assert public(Client) - {"close"} == public(AsyncClient) - {"aclose"}
    for name in public(Client) - {"close"}:
        signatures = [inspect.signature(getattr(kind, name)) for kind in (Client, AsyncClient)]
        sync, awaited = (
            [(p.name, p.default, p.kind) for p in signature.parameters.values()] for signature in signatures
        )
        assert sync == awaited, name
        if name != "stream_guidance":  # an iterator, and an asynchronous one
            assert signatures[0].return_annotation == signatures[1].return_annotation, name
    sync, awaited = (
        [(p.name, p.default, p.kind) for p in inspect.signature(kind.__init__).parameters.values()]
        for kind in (Client, AsyncClient)
    )
    assert [each for each in sync if each[0] != "while_waiting"] == awaited  # an event loop has other tasks meanwhile


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("act", ActRequest),
        ("guidance", GuidanceRequest),
        ("stream_guidance", GuidanceRequest),
        ("reward", RewardRequest),
    ],
)
def test_arguments_and_their_defaults_are_those_of_the_schema(name, schema):
    parameters = [p for p in inspect.signature(getattr(Client, name)).parameters.values() if p.name != "self"]
    for parameter in parameters:
        field = schema.model_fields[parameter.name]
        if field.is_required():
            assert parameter.default is inspect.Parameter.empty
        else:
            assert parameter.default == field.default, parameter.name


def test_importing_the_package_loads_no_torch():
    code = "import hintwise, sys; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_the_guide_names_every_error_and_only_calls_that_exist():
    page = (ROOT / "docs" / "client.md").read_text()
    for kind in {*BY_TITLE.values(), errors.ServiceUnreachable}:
        assert re.search(rf"^\| `{kind.__name__}` +\| {kind.status} ", page, re.MULTILINE), kind.__name__
    for text in (page, sys.modules[Client.__module__].__doc__):
        called = set(re.findall(r"\bclient\.(\w+)\(", text))
        assert called
        assert called <= public(Client) | public(AsyncClient)
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        compile(block, "docs/client.md", "exec")
