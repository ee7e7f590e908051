"""The examples of the wire's reference are executed, in order, against a fresh service."""

from __future__ import annotations

import json
import shutil

import pytest

from docs.wire_examples import ANSWERS, EXAMPLES, run
from service.routes import router
from tests.e2e.processes import running_service
from tests.e2e.shown_answers import assert_alike, assert_text_alike


def test_every_endpoint_has_an_example():
    endpoints = {f"{method} {route.path}" for route in router.routes for method in route.methods}
    assert {example.endpoint for example in EXAMPLES} == endpoints


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="curl or openssl is not installed")
def test_every_example_answers_as_shown(tmp_path):
    shown = json.loads(ANSWERS.read_text())
    with running_service(tmp_path / "weights") as url:
        for example, answer in zip(EXAMPLES, shown, strict=True):
            given = run(example, url, tmp_path)
            if answer.startswith("{"):
                assert_alike(json.loads(given), json.loads(answer))
            else:
                assert_text_alike(given, answer)
