"""Connecting to a Ray cluster."""

from __future__ import annotations

import os
from pathlib import Path

import ray

from enhance_ray.audio import is_remote

_PASSED_ON = ("AWS_", "GOOGLE_", "AZURE_", "ENHANCE_RAY_", "HF_", "WANDB_", "MLFLOW_")
"""Prefixes of environment variables that workers need as the driver has them: where storage is, and keys."""


def path_for_workers(path: str) -> str:
    """``path`` as processes of the cluster find it.

    In a submitted job every node has a copy of the job's folder and starts in it, so that relative paths
    stay; otherwise workers start elsewhere, and what is relative to this process is made absolute.
    """
    in_job = "working_dir" in (ray.get_runtime_context().runtime_env or {})
    if in_job or is_remote(path) or not path:
        return path
    return str(Path(path).resolve())


def connect(address: str | None = None) -> None:
    """Join the cluster at ``address``, or start one of this machine.

    Does nothing in a process that is connected already.

    Args:
        address: "auto", host:port or ray://...; None takes RAY_ADDRESS (as in a submitted job), and without
            it starts a cluster of this machine that ends with this process.
    """
    if ray.is_initialized():
        return
    variables = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    ray.init(
        address=address or os.environ.get("RAY_ADDRESS") or "local",
        runtime_env={"env_vars": variables},
    )
