"""What an endpoint is told: `args` of an application in `serve.yaml`, or of `serve run`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from enhance_ray.errors import ConfigError
from enhance_ray.settings.options import Precision


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One of the two models: its replicas and how requests share them.

    Raises:
        ConfigError: a value is out of its range.
    """

    replicas: int | tuple[int, int] = 1
    """A number, or [least, most] between which the load decides."""
    cpus: float = 1.0
    """Of a replica."""
    gpus: float = 0.0
    """Of a replica; a fraction lets several share one."""
    batch_size: int = 8
    """Most segments that run as one batch; they come from any requests."""
    batch_wait_seconds: float = 0.0
    """How long a segment waits for others while the model is idle; while it is not, they gather anyway."""
    target_ongoing: float = 8.0
    """Segments per replica that the load is brought to by adding replicas."""
    upscale_seconds: float = 10.0
    """How long the load must be high before there are more replicas."""
    downscale_seconds: float = 120.0
    """How long it must be low before there are fewer."""

    def __post_init__(self) -> None:
        least, most = self.range
        if not 0 <= least <= most or most < 1:
            raise ConfigError("replicas", f"expected a number or [least, most], got {self.replicas}")
        if min(self.cpus, self.gpus, self.batch_wait_seconds) < 0 or not self.cpus + self.gpus:
            raise ConfigError(
                "cpus, gpus, batch_wait_seconds", "must not be negative, cpus and gpus not both 0"
            )
        if self.batch_size < 1 or self.target_ongoing <= 0:
            raise ConfigError("batch_size, target_ongoing", "must be at least 1, and positive")

    @property
    def range(self) -> tuple[int, int]:
        """Least and most replicas."""
        return (self.replicas, self.replicas) if isinstance(self.replicas, int) else self.replicas


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a request may ask for.

    Raises:
        ConfigError: a value is out of its range.
    """

    body_megabytes: float = 200.0
    seconds: float = 900.0
    """Of audio in one request; longer recordings are jobs."""
    channels: int = 2
    requests_per_client: int = 4
    """At the same time, by token, or else by address; from when their recordings have come."""
    uploads_per_client: int = 16
    """Recordings that are on their way to us at the same time."""
    idle_seconds: float = 30.0
    """How long nothing of an upload may come."""
    requests: int = 32
    """At the same time, in one ingress replica."""
    queue: int = 64
    """Segments that may wait for a model, in all."""
    timeout_seconds: float = 600.0
    """For a whole answer."""
    nfe: int = 128
    """Most evaluations that may be asked for."""

    def __post_init__(self) -> None:
        for name in ("body_megabytes", "seconds", "timeout_seconds", "idle_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be positive, got {getattr(self, name)}")
        for name in ("channels", "requests_per_client", "uploads_per_client", "requests", "queue", "nfe"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobsConfig:
    """Jobs of the endpoint: recordings that it reads from a storage, and answers that it writes there.

    Raises:
        ConfigError: a value is out of its range, or only one of ``folder`` and ``prefixes`` is given.
    """

    folder: str = ""
    """URI under which jobs are kept, so that none is lost with a process; none refuses all jobs."""
    prefixes: tuple[str, ...] = ()
    """URIs below which jobs may read and write, such as s3://bucket/shows/."""
    at_once: int = 4
    """Recordings that are worked on at the same time."""
    recordings: int = 100
    """Most in one job; more are for jobs/enhance_bulk.py."""
    waiting: int = 1000
    """Most recordings that wait, in all jobs."""
    cpus: float = 0.5

    def __post_init__(self) -> None:
        for prefix in self.prefixes:
            scheme = prefix.partition("://")[0]
            if scheme not in OBJECT_STORES or not prefix.endswith("/"):
                known = ", ".join(OBJECT_STORES)
                raise ConfigError(
                    "prefixes", f"expected SCHEME://BUCKET/.../ with one of {known}, got {prefix}"
                )
        if bool(self.folder) != bool(self.prefixes):
            raise ConfigError("folder, prefixes", "jobs need both")
        for name in ("at_once", "recordings", "waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")


OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes that jobs may name: a web server could send them on to places that they may not see."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """An endpoint.

    Raises:
        ConfigError: a value is out of its range.
    """

    model: str = "default"
    """As `Enhancer.load` takes it; replicas on other machines need a URI."""
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    """Compile parts of the enhancer: a replica's first answers come later, the others sooner."""
    denoiser: StageConfig = field(default_factory=StageConfig)
    enhancer: StageConfig = field(default_factory=StageConfig)
    ingress_replicas: int = 1
    """Processes that decode, cut and encode."""
    ingress_cpus: float = 0.5
    limits: Limits = field(default_factory=Limits)
    tokens: tuple[str, ...] = ()
    """Bearer tokens, of which a request must have one; none lets everyone in. Better by TOKENS_VARIABLE."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks (10.0.0.0/8) of the proxies before the endpoint: of what comes from them, the
    client is whom their X-Forwarded-For names. From others that header says nothing."""
    jobs: JobsConfig = field(default_factory=JobsConfig)
    origins: tuple[str, ...] = ()
    """Web origins that may call from a browser (CORS), besides the page itself."""

    def __post_init__(self) -> None:
        for proxy in self.proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ConfigError("proxies", f"expected addresses or networks, got {proxy}") from error


TOKENS_VARIABLE = "ENHANCE_RAY_TOKENS"
"""Environment variable with tokens, separated by commas, in addition to those of the settings."""
