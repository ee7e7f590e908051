"""Every endpoint and the scope a token needs for it. What is not listed here is refused, never open."""

from __future__ import annotations

import re
from typing import NamedTuple

INFER, GUIDE, ADMIN = "infer", "guide", "admin"
SCOPES = (INFER, GUIDE, ADMIN)
OPEN = "open"
"""Needs no token: load balancers ask, and have none."""
ANY = "any"
"""Any known token, whatever its scopes."""

ENDPOINTS = {
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("POST", "/act"): INFER,
    ("GET", "/info"): INFER,
    ("GET", "/weights"): INFER,
    ("POST", "/guidance"): GUIDE,
    ("POST", "/reward"): GUIDE,
    ("PUT", "/weights"): ADMIN,
    ("POST", "/weights/rollback"): ADMIN,
    ("GET", "/weights/{policy_version}"): ADMIN,
    ("GET", "/metrics"): ADMIN,
    ("GET", "/docs"): ANY,
    ("GET", "/docs/oauth2-redirect"): ANY,
    ("GET", "/redoc"): ANY,
    ("GET", "/openapi.json"): ANY,
}


class Endpoint(NamedTuple):
    method: str
    template: str  # the path as the table writes it, so that no stranger's text is in it
    scope: str


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("[^/]+".join(re.escape(fixed) for fixed in re.split(r"\{\w+\}", template)))


_BY_PATH: dict[str, list[Endpoint]] = {}
for (_method, _template), _scope in ENDPOINTS.items():
    _BY_PATH.setdefault(_template, []).append(Endpoint(_method, _template, _scope))
_AT_FIXED_PATHS = {path: tuple(listed) for path, listed in _BY_PATH.items() if "{" not in path}
_WITH_PARAMETERS = [(_pattern(template), listed) for template, listed in _BY_PATH.items() if "{" in template]


def endpoints_at(path: str) -> tuple[Endpoint, ...]:
    """Returns what is answered at a decoded path; a path in the table is nobody's parameter.

    The whole path has to match: Starlette's own patterns end in `$`, which forgives a line break.
    """
    if path in _AT_FIXED_PATHS:
        return _AT_FIXED_PATHS[path]
    return tuple(endpoint for pattern, listed in _WITH_PARAMETERS if pattern.fullmatch(path) for endpoint in listed)


def find_endpoint(method: str, path: str) -> Endpoint | None:
    """Returns the endpoint that answers, a HEAD as its GET; None where the table has none."""
    wanted = "GET" if method == "HEAD" else method
    return next((endpoint for endpoint in endpoints_at(path) if endpoint.method == wanted), None)
