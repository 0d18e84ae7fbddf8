"""What an endpoint is told: `args` of an application in `serve.yaml`, or of `serve run`."""

from __future__ import annotations

import ipaddress
from dataclasses import field
from typing import Annotated

from pydantic import AfterValidator

from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import Precision
from enhance_ray.settings.ranges import Count, NotNegative, Positive, Whole, Within, both
from enhance_ray.settings.schema import settings

OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes that jobs may name: a web server could send them on to places that they may not see."""


def _below_a_bucket(prefix: str) -> str:
    if prefix.partition("://")[0] not in OBJECT_STORES or not prefix.endswith("/"):
        known = ", ".join(OBJECT_STORES)
        raise ValueError(f"expected SCHEME://BUCKET/.../ with one of {known}, got {prefix}")
    return prefix


def _address(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"expected addresses or networks, got {text}") from error
    return text


Prefix = Annotated[str, AfterValidator(_below_a_bucket)]
Network = Annotated[str, AfterValidator(_address)]


@settings
class StageConfig:
    """One of the two models: its replicas and how requests share them."""

    replicas: Count | Annotated[tuple[Whole, Count], Within()] = 1
    """A number, or [least, most] between which the load decides."""
    cpus: NotNegative = 1.0
    """Of a replica."""
    gpus: NotNegative = 0.0
    """Of a replica; a fraction lets several share one."""
    batch_size: Count = 8
    """Most segments that run as one batch; they come from any requests."""
    batch_wait_seconds: NotNegative = 0.0
    """How long a segment waits for others while the model is idle; while it is not, they gather anyway."""
    target_ongoing: Positive = 8.0
    """Segments per replica that the load is brought to by adding replicas."""
    upscale_seconds: NotNegative = 10.0
    """How long the load must be high before there are more replicas."""
    downscale_seconds: NotNegative = 120.0
    """How long it must be low before there are fewer."""

    def __post_init__(self) -> None:
        if not self.cpus + self.gpus:
            raise ConfigError("cpus, gpus", "must not both be 0")

    @property
    def range(self) -> tuple[int, int]:
        """Least and most replicas."""
        return both(self.replicas)


@settings
class Limits:
    """What a request may ask for."""

    body_megabytes: Positive = 200.0
    seconds: Positive = 900.0
    """Of audio in one request; longer recordings are jobs."""
    channels: Count = 2
    requests_per_client: Count = 4
    """At the same time, by token, or else by address; from when their recordings have come."""
    uploads_per_client: Count = 16
    """Recordings that are on their way to us at the same time."""
    idle_seconds: Positive = 30.0
    """How long nothing of an upload may come."""
    requests: Count = 32
    """At the same time, in one ingress replica."""
    queue: Count = 64
    """Segments that may wait for a model, in all."""
    timeout_seconds: Positive = 600.0
    """For a whole answer."""
    nfe: Count = 128
    """Most evaluations that may be asked for."""


@settings
class JobsConfig:
    """Jobs of the endpoint: recordings that it reads from a storage, and answers that it writes there.

    Raises:
        ConfigError: a value is out of its range, or only one of ``folder`` and ``prefixes`` is given.
    """

    folder: str = ""
    """URI under which jobs are kept, so that none is lost with a process; none refuses all jobs."""
    prefixes: tuple[Prefix, ...] = ()
    """URIs below which jobs may read and write, such as s3://bucket/shows/."""
    at_once: Count = 4
    """Recordings that are worked on at the same time."""
    recordings: Count = 100
    """Most in one job; more are for jobs/enhance_bulk.py."""
    waiting: Count = 1000
    """Most recordings that wait, in all jobs."""
    cpus: NotNegative = 0.5

    def __post_init__(self) -> None:
        if bool(self.folder) != bool(self.prefixes):
            raise ConfigError("folder, prefixes", "jobs need both")


@settings
class ServeConfig:
    """An endpoint."""

    model: str = "default"
    """As `Enhancer.load` takes it; replicas on other machines need a URI."""
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    """Compile parts of the enhancer: a replica's first answers come later, the others sooner."""
    denoiser: StageConfig = field(default_factory=StageConfig)
    enhancer: StageConfig = field(default_factory=StageConfig)
    ingress_replicas: Count = 1
    """Processes that decode, cut and encode."""
    ingress_cpus: NotNegative = 0.5
    limits: Limits = field(default_factory=Limits)
    tokens: tuple[str, ...] = ()
    """Bearer tokens, of which a request must have one; none lets everyone in. Better by TOKENS_VARIABLE."""
    proxies: tuple[Network, ...] = ()
    """Addresses or networks (10.0.0.0/8) of the proxies before the endpoint: of what comes from them, the
    client is whom their X-Forwarded-For names. From others that header says nothing."""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    origins: tuple[str, ...] = ()
    """Web origins that may call from a browser (CORS), besides the page itself."""


TOKENS_VARIABLE = "ENHANCE_RAY_TOKENS"
"""Environment variable with tokens, separated by commas, in addition to those of the settings."""
