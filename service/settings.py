"""Every setting of the service, once: `--max-batch-tokens` is HINTWISE_MAX_BATCH_TOKENS.

A flag wins over the environment, which wins over the default. An unknown flag is an error.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hintwise.action_head import parse_head_actions
from hintwise.describers import describer_for
from hintwise.errors import InvalidRequest
from hintwise.model_names import CHOICES


def _listed(given: object) -> object:
    """Returns actions that were given as one line as a list."""
    return parse_head_actions(given) if isinstance(given, str) else given


def _thread_count(given: object) -> object:
    """Returns `auto` or a number from 1; one message for both, where a union would have one for each."""
    if given == "auto":
        return given
    number = int(given) if isinstance(given, str) and given.isascii() and given.isdigit() else given
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError("expected a whole number from 1, or auto")
    return number


class Settings(BaseSettings):
    """Serves a language-model policy (POST /act), hints (POST /guidance) and rewards (POST /reward)."""

    model_config = SettingsConfigDict(
        env_prefix="HINTWISE_",
        cli_prog_name="python -m service",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        extra="ignore",  # other programs of the project read other HINTWISE_ variables
        protected_namespaces=(),
    )

    host: str = Field("127.0.0.1", description="Address to listen on; without access tokens, loopback only.")
    port: int = Field(0, ge=0, le=65_535, description="TCP port; 0 takes a free one.")
    tokens_file: Path | None = Field(
        None,
        description="File of access tokens, a line each name:scope,scope:sha256; none: everybody who reaches the "
        "service may do everything, so it stays on loopback. `python -m service.new_token` writes it.",
    )
    model: str = Field("embedded", description=f"The policy's language model: {CHOICES}.")
    guidance: str = Field(
        "embedded", description="Frozen model that writes hints; same choices, but `embedded` is the pretrained one."
    )
    scorer_model: str = Field(
        "embedded", description="Frozen model that scores rewards; same choices, but `embedded` is the pretrained one."
    )
    readout: Literal["phrase", "head"] = Field(
        "phrase",
        description="How actions are read from the model: `phrase` scores the words of any actions, "
        "`head` a fixed list of them by one linear layer.",
    )
    head_actions: Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_listed)] = Field(
        None,
        description="The list of readout `head`: `push left,push right`, or a JSON list where a phrase holds a comma.",
    )
    head_env_id: str | None = Field(
        None, description="Takes the list of readout `head` from this environment's describer instead."
    )
    alpha: float = Field(
        0.0, ge=0, le=2, description="Exponent of phrase length in tokens, for version 1; 0 sums, 1 averages."
    )
    beta: float = Field(1.0, gt=0, le=100, description="Inverse temperature of phrase scores, for version 1.")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N.")
    num_threads: Annotated[int | Literal["auto"], BeforeValidator(_thread_count)] = Field(
        "auto",
        description="CPU threads for one forward pass; a worker on the same machine needs its own. `auto` measures at "
        "start and takes the fewest that are nearly as fast as the fastest.",
    )
    weights_dir: Path = Field(
        Path("weights"), description="Directory that keeps policy versions across restarts; one service at a time."
    )
    weights_path_dirs: str = Field(
        "",
        description="Directories, with ':' between them, whose files PUT /weights may name by path; default none.",
    )
    max_retained_versions: int = Field(8, ge=1, description="Policy versions kept on disk.")
    max_batch_tokens: int = Field(
        4_096,
        ge=1,
        description="Padded tokens in one forward pass: more raises throughput and the longest wait of a lone request.",
    )
    max_cached_answers: int = Field(
        100_000, ge=0, description="Finished answers kept per weights, prompt and actions; 0 keeps none."
    )
    max_cached_hints: int = Field(
        10_000, ge=0, description="Finished hints kept per model, prompt and sampling; 0 keeps none."
    )
    deduplicate: bool = Field(
        True, description="Whether equal prompts of a batch share one forward; off only to measure."
    )
    max_queue_observations: int = Field(
        8_192, ge=4_096, description="Observations that may wait; beyond them requests get 429."
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1_024, description="Largest JSON body, in bytes.")
    request_timeout_ms: int = Field(
        30_000, ge=1, description="Time for queue and compute where the request names none, in milliseconds."
    )
    max_request_timeout_ms: int = Field(
        600_000, ge=1, description="Longest time a request may ask for, in milliseconds."
    )
    shutdown_timeout_s: int = Field(
        30, ge=1, description="After SIGTERM, time for accepted requests to finish, in seconds."
    )
    log_format: Literal["console", "json"] = Field("console", description="Shape of the log lines on stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug adds a line for every request."
    )
    log_texts: bool = Field(
        False,
        description="With --log-level debug, log tasks, observations and hints, and the messages of unforeseen "
        "failures, which may quote them.",
    )
    exit_with_parent: bool = Field(
        False,
        description="Stop when the process that started the service ends.",
    )

    @field_validator("tokens_file", mode="before")
    @classmethod
    def _refuse_empty_name(cls, value: object) -> object:
        """An unset variable of a shell, passed on: taken for no tokens at all, it would open the service."""
        if value == "":
            raise ValueError("the name of the tokens file is empty; name a file, or leave the setting out")
        return value

    @field_validator("weights_path_dirs")
    @classmethod
    def _check_directories(cls, listed: str) -> str:
        for directory in _directories(listed):
            if not directory.is_dir():
                raise ValueError(f"{directory} is no directory; make it first, or leave it out")
        return listed

    @property
    def weights_path_directories(self) -> list[Path]:
        """The directories of `weights_path_dirs`, resolved."""
        return _directories(self.weights_path_dirs)

    @field_validator("guidance")
    @classmethod
    def _refuse_unknown_source(cls, guidance: str) -> str:
        if guidance == "scripted" or guidance.startswith(("openai:", "file:")):
            raise ValueError(f"{guidance!r} is no guidance source of this version; {CHOICES}")
        return guidance

    @property
    def head_list(self) -> tuple[str, ...] | None:
        """The actions that a head answers for; None where phrases are scored."""
        if self.readout == "phrase":
            return None
        if self.head_env_id is not None:
            return tuple(describer_for(self.head_env_id).actions)
        return self.head_actions

    @model_validator(mode="after")
    def _check_head(self) -> Self:
        given = [name for name in ("head_actions", "head_env_id") if getattr(self, name) is not None]
        if self.readout == "head" and len(given) != 1:
            raise ValueError(
                "readout head answers for one list of actions; pass either --head-actions 'push left,push right' "
                "or --head-env-id CartPole-v1"
            )
        if self.readout == "head" and {"alpha", "beta"} & self.model_fields_set:
            raise ValueError("alpha and beta scale the scores of phrases; leave them out with --readout head")
        if self.readout == "phrase" and given:
            raise ValueError(f"--{given[0].replace('_', '-')} is for --readout head; add that, or leave it out")
        try:
            _ = self.head_list
        except InvalidRequest as error:  # the describer does not know the id
            raise ValueError(f"--head-env-id: {error}") from error
        return self

    @model_validator(mode="after")
    def _refuse_open_address(self) -> Self:
        if self.tokens_file is None and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached by others, and there are no access tokens; make one with "
                "`python -m service.new_token NAME --scopes infer,guide --tokens-file FILE` and pass "
                "--tokens-file FILE (HINTWISE_TOKENS_FILE), or listen on 127.0.0.1"
            )
        return self


def _directories(listed: str) -> list[Path]:
    return [Path(directory).resolve() for directory in listed.split(os.pathsep) if directory]


def _is_loopback(host: str) -> bool:
    """Returns whether an address, or every address of the name `localhost`, stays on this machine.

    Other names are not looked up: what a name server answers now, it may not answer when the socket is bound.
    """
    try:
        if host == "localhost":  # a hosts file can give it any address
            found = socket.getaddrinfo(host, None)
            return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)
        return ipaddress.ip_address(host).is_loopback
    except (OSError, ValueError):
        return False
