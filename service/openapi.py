"""The request bodies in `/openapi.json`: handlers read them themselves, so FastAPI does not see them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hintwise.schemas import ActRequest, GuidanceRequest, RewardRequest
from service import problems

BODIES: dict[str, type[BaseModel]] = {"/act": ActRequest, "/guidance": GuidanceRequest, "/reward": RewardRequest}


def install(app: FastAPI) -> None:
    """Adds the bodies to the document that `app.openapi()` returns."""
    generated = app.openapi

    def with_bodies() -> dict[str, Any]:
        document = generated()
        _, definitions = models_json_schema(
            [(schema, "validation") for schema in BODIES.values()], ref_template="#/components/schemas/{model}"
        )
        document["components"]["schemas"].update(definitions["$defs"])
        for path, schema in BODIES.items():
            reference = {"$ref": f"#/components/schemas/{schema.__name__}"}
            document["paths"][path]["post"]["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": reference}},
            }
        document["paths"]["/weights"]["put"].update(_put_weights())
        _announce_problems(document)
        return document

    app.openapi = with_bodies  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _announce_problems(document: dict[str, Any]) -> None:
    """Gives failures the media type they really have, without FastAPI's own kind of 422, which nothing answers."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            failure = operation["responses"]["default"]
            failure["content"] = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _put_weights() -> dict[str, Any]:
    headers = {
        "If-Match": 'The version this push replaces, in quotes: "12".',
        "Content-Digest": "RFC 9530: sha-256=:base64 of the body's SHA-256:",
    }
    return {
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": text}
            for name, text in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    }
