"""An example of every endpoint, as shell lines that run in this order against a fresh service.

    python -m docs.wire_examples        runs them and writes what was answered to wire_answers.json

`docs/generate.py` shows both in the reference of the wire, and a test runs the lines again.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

ANSWERS = Path(__file__).parent / "wire_answers.json"
SHOWN_URL = "localhost:8000"
ANYTHING = "..."
"""Stands in an answer for what differs from run to run."""
VARYING = {"created_at"}
LIMIT_S = 60
STATE = "cart 20 speed 23 pole 15 turn 20"
MOVED = "cart 21 speed 22 pole 17 turn 19"


class Example(NamedTuple):
    endpoint: str
    says: str
    command: str


def _json(path: str, body: object) -> str:
    return f"curl -s {SHOWN_URL}{path} --json '{json.dumps(body)}'"


EXAMPLES = [
    Example(
        "POST /act",
        "Texts, with the legal actions, what to achieve, and a seed.",
        _json(
            "/act",
            {
                "observations": [STATE],
                "actions": ["push left", "push right"],
                "task": "Keep the pole upright.",
                "seed": 7,
            },
        ),
    ),
    Example(
        "POST /act",
        "Raw observations of a described environment, a hint for the first of them, greedily.",
        _json(
            "/act",
            {
                "env_id": "CartPole-v1",
                "observations": [[0.0, 0.3, -0.05, 0.0], [0.1, -0.2, 0.03, 0.4]],
                "hints": ["push left", None],
                "mode": "greedy",
            },
        ),
    ),
    Example(
        "POST /guidance",
        "A hint of at most six tokens, written greedily.",
        _json("/guidance", {"observations": [STATE], "max_new_tokens": 6, "temperature": 0}),
    ),
    Example(
        "POST /guidance",
        "The likelier of two candidate hints, and how much likelier.",
        _json(
            "/guidance",
            {
                "observations": [STATE],
                "mode": "ranked",
                "candidates": ["push left", "push right"],
                "num_hints": 2,
                "temperature": 0,
            },
        ),
    ),
    Example(
        "POST /guidance",
        "A hint while it is written, as server-sent events.",
        _json("/guidance", {"observations": [STATE], "max_new_tokens": 1, "temperature": 0, "stream": True}),
    ),
    Example(
        "POST /reward",
        "Did the action follow the hint?",
        _json(
            "/reward",
            {
                "items": [
                    {
                        "hint": "push left",
                        "observation": STATE,
                        "actions": ["push left", "push right"],
                        "action": "push left",
                    }
                ]
            },
        ),
    ),
    Example(
        "POST /reward",
        "How much further has the hint been carried out?",
        _json(
            "/reward",
            {
                "scorer": "progress",
                "gamma": 0.99,
                "items": [{"hint": "push left", "observation": STATE, "next_observation": MOVED}],
            },
        ),
    ),
    Example("GET /weights", "", f"curl -s {SHOWN_URL}/weights"),
    Example(
        "GET /weights/{policy_version}",
        "",
        f"curl -s {SHOWN_URL}/weights/1 -o policy.safetensors -w '%{{http_code}} %{{content_type}}\\n'",
    ),
    Example(
        "PUT /weights",
        "Pushes the file of the example before as the next version.",
        f"curl -s -X PUT {SHOWN_URL}/weights --data-binary @policy.safetensors"
        " -H 'Content-Type: application/octet-stream' -H 'If-Match: \"1\"'"
        ' -H "Content-Digest: sha-256=:$(openssl dgst -sha256 -binary policy.safetensors | base64):"',
    ),
    Example(
        "POST /weights/rollback",
        "Serves version 1 again; the next push will be version 3.",
        _json("/weights/rollback", {"policy_version": 1}),
    ),
    Example("GET /info", "", f"curl -s {SHOWN_URL}/info"),
    Example("GET /livez", "", f"curl -s {SHOWN_URL}/livez"),
    Example("GET /readyz", "", f"curl -s {SHOWN_URL}/readyz"),
    Example("GET /metrics", "", f"curl -s {SHOWN_URL}/metrics | grep ^hintwise_swaps_total"),
]


def run(example: Example, url: str, directory: Path) -> str:
    """Returns what the shell line prints, sent to the service at `url` from within `directory`."""
    command = example.command.replace(SHOWN_URL, url.removeprefix("http://"))
    return subprocess.run(
        ["bash", "-c", command], cwd=directory, capture_output=True, text=True, timeout=LIMIT_S, check=True
    ).stdout.strip()


def main() -> None:
    from tests.e2e.processes import running_service

    with (
        tempfile.TemporaryDirectory() as directory,
        running_service(Path(directory) / "weights", start=subprocess.Popen) as url,
    ):
        answers = [_shown(run(example, url, Path(directory))) for example in EXAMPLES]
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n")


def _shown(answer: str) -> str:
    """Returns an answer as the reference shows it."""
    if not answer.startswith("{"):
        return answer
    return json.dumps(_rounded(json.loads(answer)))


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: ANYTHING if name in VARYING else _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
