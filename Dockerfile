# The image for Kubernetes and for `docker run`: the package, Ray, and the versions that the tests passed with.
#
#     docker build --target cpu -t registry.example/enhance-ray:0.1.0-cpu .     # machines without a GPU
#     docker build --target cuda -t registry.example/enhance-ray:0.1.0 .        # NVIDIA GPUs; the default
#     docker run --rm -v "$PWD:/work" -w /work registry.example/enhance-ray:0.1.0-cpu enhance-ray denoise in/ out/
#
# Unpacked, cpu takes about 2.2 GB and cuda 5.9 GB: what the environment takes where it was installed, and 0.15 GB
# of the base. Neither has the extra `eval`.
FROM python:3.12-slim-bookworm AS base

# wget: KubeRay's probes ask Ray by HTTP.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

FROM python:3.12-slim-bookworm AS build

# pesq comes as C source alone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt uv && uv venv /opt/env
ENV VIRTUAL_ENV=/opt/env
# What changes seldom first: the dependencies are a layer of their own.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir enhance_ray && touch enhance_ray/__init__.py

FROM build AS build-cpu
RUN uv pip install --torch-backend=cpu -c constraints.txt "ray[default]" ".[cluster,train,hub]" \
    && uv pip uninstall enhance-ray
COPY enhance_ray enhance_ray
RUN uv pip install --no-deps .

FROM build AS build-cuda
RUN uv pip install -c constraints.txt "ray[default]" ".[cluster,train,hub]" \
    && uv pip uninstall enhance-ray
COPY enhance_ray enhance_ray
RUN uv pip install --no-deps .

FROM base AS runtime
COPY --chown=ray jobs /home/ray/enhance_ray/jobs
COPY --chown=ray configs /home/ray/enhance_ray/configs
ENV PATH=/opt/env/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /home/ray/enhance_ray
# Where Ray was started in the container, it has to answer.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s \
    CMD ["sh", "-c", "test ! -e /tmp/ray/ray_current_cluster || ray health-check"]
CMD ["enhance-ray", "--help"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/env /opt/env

FROM runtime AS cuda
COPY --from=build-cuda /opt/env /opt/env
