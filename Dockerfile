# The image for Kubernetes and for `docker run`: the package, Ray, and the versions that the tests passed with.
#
#     docker build -t registry.example/enhance-ray:0.1.0 .
#     docker run --rm -v "$PWD:/work" registry.example/enhance-ray:0.1.0 enhance-ray denoise in/ out/
FROM python:3.12-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/env
ENV PATH=/opt/env/bin:$PATH
WORKDIR /src
# What changes seldom first: the dependencies are a layer of their own.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir enhance_ray && touch enhance_ray/__init__.py \
    && pip install -c constraints.txt "ray[default]" ".[cluster,eval,hub]" \
    && pip uninstall --yes enhance-ray
COPY enhance_ray enhance_ray
RUN pip install --no-deps .

FROM python:3.12-slim-bookworm

# wget: KubeRay's probes ask Ray by HTTP.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray
COPY --from=build /opt/env /opt/env
COPY --chown=ray jobs /home/ray/enhance_ray/jobs
COPY --chown=ray configs /home/ray/enhance_ray/configs
ENV PATH=/opt/env/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER 1000
WORKDIR /home/ray/enhance_ray
# Where Ray was started in the container, it has to answer.
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s \
    CMD ["sh", "-c", "test ! -e /tmp/ray/ray_current_cluster || ray health-check"]
CMD ["enhance-ray", "--help"]
