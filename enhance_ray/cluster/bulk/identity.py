"""Which job the outputs at a place belong to, and what decides their bytes: resolved once, by the driver, and
the same for every actor.

What is promised: the same fingerprint on the same kind of processor with as many threads gives the same
bytes, in the same batches; elsewhere the same sound, to 1e-5 of full scale in float32, which
`tests/e2e/test_promises.py` holds over batches, orders, companions and threads.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import ray
import torch

import enhance_ray
from enhance_ray.audio.storage import FILE_ERRORS
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState, name_by_time
from enhance_ray.cluster.folder import Folder
from enhance_ray.enhancer import resolve_device
from enhance_ray.errors import ConfigError, explain
from enhance_ray.models.precision import resolve_precision
from enhance_ray.records import JOB_FOLDER
from enhance_ray.settings import trees
from enhance_ray.settings.options import Precision
from enhance_ray.settings.schema import readable

_FORMAT = 2


@readable
@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """What decides the sound: outputs of one job have one."""

    model: str
    """Fingerprint of the weights."""
    options: dict[str, Any]
    code: str
    """What `code_version` says."""
    computing: dict[str, str] | None = None
    """Kind of device, precision, and version of torch; None in a job that was planned, and never run."""

    @classmethod
    def of(cls, settings: BulkConfig, model: str, *, runs: bool = True) -> Self:
        """That of a job with these settings, which `resolved` gave if it ``runs``, and the model of that
        fingerprint."""
        options = {
            **trees.to_tree(settings.options),
            **{name: getattr(settings, name) for name in ("layout", "partial", "compile")},
        }
        computing = {
            "device": " and ".join(dict.fromkeys(kind.device.partition(":")[0] for kind in settings.by_kind)),
            "precision": settings.precision,
            "torch": metadata.version("torch"),
        }
        return cls(model=model, options=options, code=code_version(), computing=computing if runs else None)

    def difference(self, before: Fingerprint) -> str:
        """What is not as it was ``before``, for people; empty where all is. What one of them does not know
        yet is no difference."""
        old, new = _values(before), _values(self)
        if before.computing is None or self.computing is None:
            known = old.keys() & new.keys()
            old, new = ({name: tree[name] for name in tree if name in known} for tree in (old, new))
        return ", ".join(
            f"{name} {old.get(name)} -> {new.get(name)}"
            for name in dict.fromkeys([*new, *old])
            if old.get(name) != new.get(name)
        )


def _values(fingerprint: Fingerprint) -> dict[str, Any]:
    return {
        "model": fingerprint.model,
        **fingerprint.options,
        "version": fingerprint.code,
        **(fingerprint.computing or {}),
    }


def open_job(settings: BulkConfig, fingerprint: Fingerprint, *, new: bool = False) -> JobState:
    """The job that the outputs at ``settings.output`` belong to; begins one where there is none.

    Args:
        settings: of the job.
        fingerprint: of what it does.
        new: begin one in any case. Outputs of the old one are replaced as the new one goes on.

    Raises:
        ConfigError: the outputs are those of a job with another fingerprint, or the storage cannot be used.
    """
    folder = Folder(f"{settings.output.rstrip('/')}/{JOB_FOLDER}")
    try:
        found = None if new else _read_job(folder)
        if found is None:
            job = name_by_time()
            _write_job(folder, job, settings.source, fingerprint)
            return JobState(settings.output, job, settings.patience_seconds)
    except ConfigError:
        raise
    except FILE_ERRORS as error:
        raise ConfigError(settings.output, f"cannot be used: {explain(error)}") from error
    job, source, before = found
    if source.rstrip("/") != settings.source.rstrip("/"):
        raise ConfigError(settings.output, f"belongs to a job whose input is {source}; --new-job replaces it")
    if difference := fingerprint.difference(before):
        raise ConfigError(
            settings.output,
            f"holds outputs of a job with other settings ({difference}): choose another place, "
            "or --new-job, which does all files again",
        )
    if before.computing is None and fingerprint.computing is not None:  # it was planned, and runs now
        _write_job(folder, job, source, fingerprint)
    return JobState(settings.output, job, settings.patience_seconds)


def _write_job(folder: Folder, job: str, source: str, fingerprint: Fingerprint) -> None:
    tree = {
        "format": _FORMAT,
        "job": job,
        "input": source,
        "fingerprint": trees.to_tree(fingerprint),
    }
    folder.write("job.json", json.dumps(tree, indent=2).encode())


def _read_job(folder: Folder) -> tuple[str, str, Fingerprint] | None:
    where = f"{folder.uri}/job.json"
    try:
        tree = json.loads(folder.read("job.json"))
        if tree["format"] != _FORMAT:
            raise ConfigError(
                where,
                f"is of another version of enhance_ray (format {tree['format']}, this one knows {_FORMAT}): "
                "finish the job with that version, or replace it with --new-job",
            )
        fingerprint = trees.from_tree(Fingerprint, tree["fingerprint"], where=where)
        return str(tree["job"]), str(tree["input"]), fingerprint
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(where, f"is damaged: {explain(error)}") from error


def resolved(settings: BulkConfig) -> BulkConfig:
    """``settings`` in which no device and no precision is "auto": what it means where actors will run.

    Actors with a GPU are asked on a machine that has one; the others compute as this process would.

    Raises:
        ConfigError: there is no such device, or actors of several kinds would compute in several precisions.
    """
    kinds = [_resolved(kind) for kind in settings.by_kind]
    precisions = dict.fromkeys(kind.precision for kind in kinds)
    if len(precisions) > 1:
        raise ConfigError(
            "precision", f"actors of all kinds compute in one: set it to {' or '.join(precisions)}"
        )
    pools = [
        dataclasses.replace(pool, device=kind.device)
        for pool, kind in zip(settings.pools, kinds[1:], strict=True)
    ]
    return dataclasses.replace(
        settings, device=kinds[0].device, precision=kinds[0].precision, pools=tuple(pools)
    )


def _resolved(settings: BulkConfig) -> BulkConfig:
    """Those of one kind of actors."""
    device, precision = settings.device, settings.precision
    if "auto" not in (device, precision):
        return settings
    if settings.gpus_per_actor:
        there = ray.remote(_what_it_is_here).options(
            num_cpus=settings.cpus_per_actor, num_gpus=settings.gpus_per_actor
        )
        device, precision = ray.get(there.remote(device, precision))
    else:
        if device == "auto" and torch.cuda.is_available():
            device = "cpu"  # a GPU of this machine is not the actors'
        device, precision = _what_it_is_here(device, precision)
    return dataclasses.replace(settings, device=device, precision=precision)


def _what_it_is_here(device: str, precision: Precision) -> tuple[str, Precision]:
    found = resolve_device(device)
    return found.type if device == "auto" else device, resolve_precision(precision, found)


def code_version() -> str:
    """Version of this package, with the commit that was installed or is checked out, where that is known.

    Examples: "0.1.0", "0.1.0+3f2a1bc9d0e1", "0.1.0+3f2a1bc9d0e1-dirty".
    """
    commit = _commit()
    return f"{enhance_ray.__version__}+{commit}" if commit else enhance_ray.__version__


def _commit() -> str | None:
    root = Path(enhance_ray.__file__).parents[1]
    if (root / ".git").exists():
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        try:
            return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):  # no git here, or a folder that is not ours to read
            return None
    try:
        # PEP 610: what an installer notes of a package that came from a repository.
        origin = json.loads(metadata.distribution("enhance-ray").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        return None
    commit = origin.get("vcs_info", {}).get("commit_id")
    return None if commit is None else str(commit)[:12]
