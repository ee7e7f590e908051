"""The request bodies in `/openapi.json`: handlers read them themselves, so FastAPI does not see them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from hintwise.schemas import ActRequest, GuidanceRequest, RewardRequest, RollbackRequest, WeightsPath
from service import problems

BODIES: dict[str, type[BaseModel]] = {
    "/act": ActRequest,
    "/guidance": GuidanceRequest,
    "/reward": RewardRequest,
    "/weights/rollback": RollbackRequest,
}
"""The JSON body of each POST."""


def install(app: FastAPI) -> None:
    """Adds the bodies to the document that `app.openapi()` returns."""
    generated = app.openapi

    def with_bodies() -> dict[str, Any]:
        document = generated()
        schemas: list[type[BaseModel]] = [*BODIES.values(), WeightsPath]
        _, definitions = models_json_schema(
            [(schema, "validation") for schema in schemas], ref_template="#/components/schemas/{model}"
        )
        document["components"]["schemas"].update(definitions["$defs"])
        for path, schema in BODIES.items():
            document["paths"][path]["post"]["requestBody"] = {"required": True, "content": _json(schema)}
        document["paths"]["/weights"]["put"].update(_put_weights())
        document["paths"]["/weights/rollback"]["post"]["parameters"] = [
            _header("If-Match", 'Answers 409 unless this version serves, in quotes: "12".', required=False)
        ]
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
    digest = "RFC 9530: sha-256=:base64 of the body's SHA-256:. A safetensors body needs it, a path does not."
    binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "parameters": [
            _header("If-Match", 'The version this push replaces, in quotes: "12".', required=True),
            _header("Content-Digest", digest, required=False),
        ],
        "requestBody": {"required": True, "content": binary | _json(WeightsPath)},
    }


def _json(schema: type[BaseModel]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}
    extra = schema.model_config.get("json_schema_extra")
    if isinstance(extra, dict) and isinstance(examples := extra.get("examples"), list):
        content["example"] = examples[0]
    return {"application/json": content}


def _header(name: str, text: str, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": required, "schema": {"type": "string"}, "description": text}
