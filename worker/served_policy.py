"""The policy that the service serves, as a learner sees it: which version answers, and is it ours?

    learner ──push──▶ PUT /weights     If-Match: the version we saw last
       ▲                   │ 409: it moved
       │                   ▼
       └── GET /weights: same digest as ours? adopt its number, else push again

The service numbers versions; this side never assumes the next one. The same look-and-push
mends a service that restarted with older weights, and a push whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hintwise.client import Client
from hintwise.digests import sha256_of
from hintwise.errors import VersionConflict
from hintwise.prompts import PROMPT_TEMPLATE_VERSION
from hintwise.schemas import ActResponse, ActResult, ServiceInfo, WeightsInfo
from worker.buffers import Behaviour
from worker.errors import ServiceMismatch
from worker.meanwhile import Meanwhile
from worker.stopwatch import Stopwatch
from worker.text_env import State

MAX_PUSH_ATTEMPTS = 4
"""One that fails because the number moved, one after each of a few races with another writer."""


class Asked(NamedTuple):
    """The service's answers, one per state, and the version that gave them."""

    results: list[ActResult]
    policy_version: int
    stale: bool  # not the version that was pushed last, even after a second look


class ServedPolicy:
    """Pushes weights to a service and asks them for actions.

    Args:
        client: How the service is reached.
        meanwhile: What is done while a question is being answered; the client calls its `run`, where it can.

    Attributes:
        client: How the service is reached; for what is asked besides actions, too.
        info: What the service said about itself at the start.
        policy_version: The version that our weights have there.
        data: Our weights, as the safetensors file that was fetched or pushed last.
        stopwatch: Told when answers are waited for.
    """

    def __init__(self, client: Client, meanwhile: Meanwhile | None = None) -> None:
        self.client = client
        self.meanwhile = meanwhile or Meanwhile()
        self.stopwatch = Stopwatch()
        self.info: ServiceInfo = client.info()
        self.policy_version = 0
        self.data = b""
        self._sha256 = ""
        self._check_prompt_template()

    def check_fits(self, *, architecture: str, tokenizer_sha256: str) -> None:
        """Raises unless the service scores the same tokens with the same kind of model.

        Raises:
            ServiceMismatch: Naming what differs.
        """
        served = self.client.weights()
        for what, theirs, ours in (
            ("architecture", served.architecture, architecture),
            ("tokenizer", served.tokenizer_sha256, tokenizer_sha256),
        ):
            if theirs != ours:
                raise ServiceMismatch(
                    f"the service's policy has another {what} than this worker's ({theirs} there, {ours} here); "
                    "give both the same --model and --readout"
                )

    def check_readout(self, wanted: str | None) -> None:
        """Raises unless the service reads actions as `wanted`: `phrase`, `head`, or None for whatever it does.

        Raises:
            ServiceMismatch: Naming both.
        """
        if wanted is not None and self.info.readout != wanted:
            raise ServiceMismatch(
                f"the service's policy has readout {self.info.readout}, this worker was asked for {wanted}; "
                "start the service with the same --readout, or leave it out here"
            )

    def check_head_answers(self, actions: Sequence[str]) -> None:
        """Raises unless the service's head can choose each of `actions`.

        Raises:
            ServiceMismatch: Naming both lists.
        """
        answers_for = self.info.head_actions or []
        if not set(actions) <= set(answers_for):
            raise ServiceMismatch(
                f"the service's head answers for {answers_for}, but the environment's actions are {list(actions)}; "
                "start it with the --head-actions or --head-env-id of this environment"
            )

    def check_base(self, base_sha256: str) -> None:
        """Raises unless the service loaded the model that adapters of this worker change.

        Raises:
            ServiceMismatch: Naming both digests.
        """
        theirs = self.info.policy.sha256
        if theirs != base_sha256:
            raise ServiceMismatch(
                f"adapters change one model, and the service loaded another ({theirs} there, {base_sha256} here); "
                "give both the same --model"
            )

    def fetch(self, *, as_pushed: bool = False) -> bytes:
        """Returns the weights that answer now, and adopts them as ours.

        Args:
            as_pushed: Whether an adapter comes as one, and not as the whole weights that it stands for.
        """
        served = self.client.weights()
        self.hold(self.client.download_weights(served.policy_version, as_pushed=as_pushed))
        self._adopt(served)
        return self.data

    def hold(self, data: bytes) -> None:
        """Makes `data` our weights without a word to the service; `push`, `resync` or `ask` bring them there."""
        self.data, self._sha256 = data, sha256_of(data)

    def push(self) -> None:
        """Makes our weights the ones that answer.

        Raises:
            VersionConflict: Somebody else keeps changing the weights.
            WeightsRejected: They do not fit; the old ones serve on.
        """
        try:
            self._adopt(self.client.put_weights(self.data, if_match=self.policy_version))
        except VersionConflict:
            self.resync()

    def resync(self) -> None:
        """Looks which weights answer, and pushes ours again unless it is them.

        Raises:
            VersionConflict: Somebody else keeps changing the weights.
        """
        for attempt in range(1, MAX_PUSH_ATTEMPTS + 1):
            served = self.client.weights()
            if served.sha256 == self._sha256:
                self._adopt(served)
                return
            try:
                self._adopt(self.client.put_weights(self.data, if_match=served.policy_version))
                return
            except VersionConflict as conflict:
                if attempt == MAX_PUSH_ATTEMPTS:
                    raise VersionConflict(
                        f"{attempt} pushes in a row met another version of the weights: "
                        "somebody else is training on this service; give each run its own"
                    ) from conflict

    def ask(
        self,
        states: Sequence[State],
        behaviour: Behaviour,
        *,
        task: str | None,
        seed: int | list[int] | None = None,
    ) -> Asked:
        """Returns one answer per state from our weights, if they can be had.

        Where other weights answer, ours are pushed again and the question is asked once more;
        the second answer is taken as it is, and is `stale` where it still came from others.
        """
        answer = self._act(states, behaviour, task, seed)
        if answer.policy_version != self.policy_version:
            self.resync()
            answer = self._act(states, behaviour, task, seed)
        return Asked(answer.results, answer.policy_version, answer.policy_version != self.policy_version)

    def _act(
        self, states: Sequence[State], behaviour: Behaviour, task: str | None, seed: int | list[int] | None
    ) -> ActResponse:
        shared = all(state.actions == states[0].actions for state in states)
        actions = list(states[0].actions) if shared else [list(state.actions) for state in states]
        with self.stopwatch.on("waiting"):
            texts = [state.text for state in states]
            hints = [state.hint for state in states] if any(state.hint for state in states) else None
            answer = self.client.act(texts, actions, task=task, hints=hints, seed=seed, **behaviour._asdict())
        self.meanwhile.run()
        return answer

    def _adopt(self, served: WeightsInfo) -> None:
        self.policy_version = served.policy_version

    def _check_prompt_template(self) -> None:
        theirs = self.info.prompt_template_version
        if theirs != PROMPT_TEMPLATE_VERSION:
            raise ServiceMismatch(
                f"the service writes prompts by template {theirs}, this worker by template {PROMPT_TEMPLATE_VERSION}; "
                "run the same version of hintwise on both sides"
            )
