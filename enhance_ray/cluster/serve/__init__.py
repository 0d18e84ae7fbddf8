"""The endpoint: an ingress that cuts and joins, a denoiser and an enhancer that run segments in batches.

serve run enhance_ray.cluster.serve:app
serve deploy configs/serve.yaml

client -> Ingress -> Work -> DenoiserDeployment -> EnhancerDeployment -> Ingress -> client
"""

# No annotations as text here: FastAPI reads those of the routes.
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import Request, Response, WebSocket
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from ray import serve
from ray.serve.config import AutoscalingConfig

from enhance_ray import checkpoint, config
from enhance_ray.cluster.serve.api import Ingress, create_api
from enhance_ray.cluster.serve.models import DenoiserDeployment, EnhancerDeployment
from enhance_ray.cluster.serve.settings import ServeConfig, StageConfig

WEB = Path(__file__).parent / "web"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src blob:; img-src data: blob:; worker-src blob:; "
    "connect-src 'self' blob:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
}
"""The page asks nobody else for anything."""

api = create_api()
api.mount("/web", StaticFiles(directory=WEB))


@serve.deployment
@serve.ingress(api)
class IngressDeployment(Ingress):
    """The routes."""

    @api.post("/v1/enhance")
    async def enhance(self, request: Request) -> Response:
        """Restore a recording: noise, distortion, band."""
        return await self.restore(request, "enhance")

    @api.post("/v1/denoise")
    async def denoise(self, request: Request) -> Response:
        """Take the noise out of a recording."""
        return await self.restore(request, "denoise")

    @api.websocket("/v1/stream")
    async def stream(self, socket: WebSocket) -> None:
        """Denoise sound while it arrives."""
        await self.live(socket)

    @api.get("/", include_in_schema=False)
    async def page(self) -> Response:
        """The page for people."""
        return HTMLResponse((WEB / "index.html").read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        """What is served."""
        return {"models": [{"mode": mode, **facts} for mode, facts in (await self.facts()).items()]}

    @api.get("/metrics", include_in_schema=False)
    async def metrics(self) -> Response:
        """For Prometheus: of this process."""
        return self._metrics.text()

    @api.get("/healthz")
    async def alive(self) -> dict[str, str]:
        """Whether this process answers."""
        return {"status": "ok"}

    @api.get("/readyz")
    async def ready(self) -> Response:
        """Whether the models answer."""
        try:
            await self.facts()
        except Exception:  # whatever it is, the answer is no
            return JSONResponse({"status": "starting"}, 503, {"Retry-After": "2"})
        return JSONResponse({"status": "ready"})


def build(args: Mapping[str, Any]) -> serve.Application:
    """The application with these settings (`ServeConfig`).

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    settings = config.from_tree(ServeConfig, args, where="args")
    # Decorated classes, which their types do not say.
    ingress: Any = IngressDeployment
    first: Any = DenoiserDeployment
    second: Any = EnhancerDeployment
    denoiser = first.options(**_stage(settings.denoiser, settings)).bind(settings)
    enhancer = None
    if _has_enhancer(settings.model):
        enhancer = second.options(**_stage(settings.enhancer, settings)).bind(settings)
    application: serve.Application = ingress.options(
        num_replicas=settings.ingress_replicas,
        max_ongoing_requests=2 * settings.limits.requests,
        ray_actor_options={"num_cpus": settings.ingress_cpus},
        graceful_shutdown_timeout_s=settings.limits.timeout_seconds,
    ).bind(settings, denoiser, enhancer)
    return application


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
        "health_check_timeout_s": 120.0,  # it waits behind a batch
        "graceful_shutdown_timeout_s": 60.0,
    }


def _has_enhancer(model: str) -> bool:
    """Whether a model is more than a denoiser."""
    from enhance_ray import resemble

    return model == checkpoint.DEFAULT or resemble.load_model(model).net is not None


def __getattr__(name: str) -> Any:
    if name == "app":  # built when it is asked for
        return build({})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
