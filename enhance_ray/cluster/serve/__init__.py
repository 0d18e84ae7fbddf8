"""The endpoint: an ingress that cuts and joins, a denoiser and an enhancer that run segments in batches.

serve run enhance_ray.cluster.serve:app
serve deploy configs/serve.yaml

client -> Ingress -> Work -> DenoiserDeployment -> EnhancerDeployment -> Ingress -> client
             |          storage -> JobsDeployment -> Work ... -> storage
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig

from enhance_ray import resemble
from enhance_ray.cluster.serve.api import Ingress
from enhance_ray.cluster.serve.jobs import JobsDeployment
from enhance_ray.cluster.serve.models import DenoiserDeployment, EnhancerDeployment, Load, load_model
from enhance_ray.cluster.serve.routes import create_api
from enhance_ray.cluster.serve.settings import ServeConfig, StageConfig
from enhance_ray.settings import trees


@serve.deployment
@serve.ingress()
class IngressDeployment(Ingress):
    """Answers HTTP."""

    def __serve_build_asgi_app__(self) -> Any:
        return create_api(self)


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application with these settings, those of `ServeConfig`: what `serve.yaml` names.

    Raises:
        ConfigError: a setting is unknown or wrong.
        CheckpointError: there is no such model.
    """
    return application(trees.from_tree(ServeConfig, args, where="args"))


def application(settings: ServeConfig, load: Load = load_model) -> serve.Application:
    """The deployments and how they are chained.

    Args:
        settings: of the endpoint.
        load: reads a model in the process that runs it.

    Raises:
        CheckpointError: there is no such model.
    """
    # Decorated classes, which their types do not say.
    ingress: Any = IngressDeployment
    first: Any = DenoiserDeployment
    second: Any = EnhancerDeployment
    keeper: Any = JobsDeployment
    denoiser = first.options(**_stage(settings.denoiser, settings)).bind(settings, load)
    enhancer = jobs = None
    if resemble.is_enhancer(settings.model):
        enhancer = second.options(**_stage(settings.enhancer, settings)).bind(settings, load)
    if settings.jobs.folder:
        jobs = keeper.options(ray_actor_options={"num_cpus": settings.jobs.cpus}).bind(
            settings, denoiser, enhancer
        )
    chained: serve.Application = ingress.options(
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=2 * settings.limits.requests,
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        graceful_shutdown_timeout_s=settings.limits.timeout_seconds,
    ).bind(settings, denoiser, enhancer, jobs)
    return chained


def _stage(stage: StageConfig, settings: ServeConfig) -> dict[str, Any]:
    least, most = stage.range
    pool: dict[str, Any] = {"num_replicas": least}
    if most > least:
        pool = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=least,
                max_replicas=most,
                target_ongoing_requests=stage.target_ongoing,
                upscale_delay_s=stage.upscale_seconds,
                downscale_delay_s=stage.downscale_seconds,
            )
        }
    return {
        **pool,
        "ray_actor_options": {"num_cpus": stage.cpus, "num_gpus": stage.gpus},
        # Two batches: one that runs, and one that waits.
        "max_ongoing_requests": 2 * stage.batch_size,
        "max_queued_requests": settings.limits.queue,
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_timeout_s": 60.0,
    }


def __getattr__(name: str) -> Any:
    if name == "app":  # built when it is asked for; for one machine, perhaps with no more than two cores
        return build({"ingress_cpus": 0})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
