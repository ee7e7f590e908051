"""Which service a worker uses, with which models: what `train`, `evaluate` and `record` have the same flags for."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

MAX_REQUEST_TIMEOUT_S = 600.0
"""What a service allows a request, unless told otherwise."""


class ServiceSettings(BaseModel):
    """The service"""

    service_url: str | None = Field(
        None, pattern=r"^https?://\S+$", description="Service to use; none: start one, and stop it at the end."
    )
    model: str | None = Field(
        None,
        description="Language model: `embedded`, a directory or a hub id; none: what the service at --service-url "
        "says, else `embedded`.",
    )
    guidance_model: str | None = Field(
        None, description="Guidance model of a service of one's own, named as `--model`; none: the service's default."
    )
    device: str = Field(
        "cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Where models run, here and in a service of one's own: cpu, cuda, cuda:N.",
    )
    service_timeout_s: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="How long the service may be away until the run ends, in seconds."
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        le=MAX_REQUEST_TIMEOUT_S,
        description="How long one request may take before the run ends, in seconds.",
    )
    num_threads: int = Field(
        1, ge=1, description="CPU threads of this process; a service on the same machine needs its own."
    )

    @model_validator(mode="after")
    def _check_whose_guidance_model(self) -> Self:
        if self.guidance_model is not None and self.service_url is not None:
            raise ValueError("--guidance-model cannot change the service at --service-url; leave one of the two out")
        return self
