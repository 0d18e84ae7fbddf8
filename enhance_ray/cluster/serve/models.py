"""The two models as deployments: segments of many requests come in, and run as batches.

    DenoiserDeployment.denoise(work)  -> denoised rows, back to who asked
    DenoiserDeployment.forward(work)  -> the work with its denoised rows, on to the enhancer
    EnhancerDeployment.enhance(work)  -> restored rows

The answer of `forward` goes from one replica to the other: the ingress passes on a promise of it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from ray import serve

from enhance_ray.cluster.serve.settings import ServeConfig, StageConfig
from enhance_ray.enhancer import Enhancer
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions

_CHECKED_SECONDS = 0.5
_CHECK_WAITS = 5.0
_STALLED_SECONDS = 900.0
"""No batch takes so long, on whatever processor."""


@dataclass(frozen=True, slots=True)
class Work:
    """A segment for a model."""

    rows: NDArray[np.float32]
    """(channel, time), as `engine.analysis.Piece` has them."""
    start: int
    """First sample in the recording."""
    options: EnhanceOptions
    cuts: NDArray[np.float32]
    """(channel,), as a piece has them."""
    denoised: NDArray[np.float32] | None = None
    """(channel, time): what the denoiser made of it."""


Load = Callable[[ServeConfig, bool], Enhancer]
"""Reads a model, or of an enhancer only its denoiser."""


def load_model(settings: ServeConfig, denoiser_only: bool) -> Enhancer:
    """The model that ``settings`` name."""
    return Enhancer.load(
        settings.model,
        device=settings.device,
        precision=settings.precision,
        compiled=settings.compile,
        denoiser_only=denoiser_only,
    )


class _Model:
    """A model that runs one batch at a time, in a thread of its own: replicas answer meanwhile."""

    def __init__(self, settings: ServeConfig, load: Load, *, denoiser_only: bool) -> None:
        self._enhancer = load(settings, denoiser_only)
        self._mode: Literal["denoise", "enhance"] = "denoise" if denoiser_only else "enhance"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._began: float | None = None  # in time.monotonic's seconds: the batch that runs
        self._check()  # ready when it has run once

    @property
    def facts(self) -> dict[str, Any]:
        """What others have to know of it."""
        enhancer = self._enhancer
        return {"fingerprint": enhancer.fingerprint, **dataclasses.asdict(enhancer.framing)}

    async def run(self, works: Sequence[Work]) -> list[NDArray[np.float32]]:
        """The model on each of ``works``: those of one length that ask the same of it as one batch."""
        groups: dict[Any, list[int]] = {}
        for index, work in enumerate(works):
            asked = dataclasses.replace(work.options, mode=self._mode).of_model()
            key = work.rows.shape[-1], dataclasses.astuple(asked), work.denoised is None
            groups.setdefault(key, []).append(index)
        answers: list[NDArray[np.float32] | None] = [None] * len(works)
        loop = asyncio.get_running_loop()
        for group in groups.values():
            outputs = await loop.run_in_executor(self._thread, self._run, [works[index] for index in group])
            for index, output in zip(group, outputs, strict=True):
                answers[index] = output
        return [answer for answer in answers if answer is not None]

    def _run(self, works: list[Work]) -> list[NDArray[np.float32]]:
        self._began = time.monotonic()
        try:
            return self._restored(works)
        finally:
            self._began = None

    def _restored(self, works: list[Work]) -> list[NDArray[np.float32]]:
        rows = torch.from_numpy(np.concatenate([work.rows for work in works]))
        given = [work.denoised for work in works if work.denoised is not None]
        starts = [work.start for work in works for _ in work.rows]
        options = dataclasses.replace(works[0].options, mode=self._mode)
        cuts = torch.from_numpy(np.concatenate([work.cuts for work in works]))
        denoised = torch.from_numpy(np.concatenate(given)) if given else None
        output = self._enhancer.run(rows, options, starts, cuts, denoised=denoised).numpy()
        places = np.cumsum([len(work.rows) for work in works])[:-1]
        return np.split(output, places)

    def _check(self) -> None:
        """Run a short piece of noise; raises what a broken model or device raises."""
        length = self._enhancer.framing.row_length(int(_CHECKED_SECONDS * MODEL_RATE))
        noise = np.random.default_rng(0).standard_normal((1, length), np.float32)
        options = EnhanceOptions(mode=self._mode, nfe=2)
        cuts = np.array([MODEL_RATE / 4], np.float32)  # something to fill
        if not np.isfinite(self._run([Work(noise, 0, options, cuts)])[0]).all():
            raise FloatingPointError("the model gives NaN or infinite samples")

    async def check(self) -> None:
        """The same where nothing runs. A model at work answers by it, and nobody waits for its batch.

        Raises:
            TimeoutError: the batch has been running for longer than any does.
        """
        if (began := self._began) is None:
            checked = asyncio.get_running_loop().run_in_executor(self._thread, self._check)
            if checked in (await asyncio.wait({checked}, timeout=_CHECK_WAITS))[0]:
                return checked.result()
            checked.cancel()  # a batch came before it
        elif time.monotonic() - began > _STALLED_SECONDS:
            raise TimeoutError(f"a batch has been running for {_STALLED_SECONDS:.0f} s")
        return None


class _Replica:
    """What both stages have: a model, batches for it, and answers about it."""

    def __init__(self, settings: ServeConfig, stage: StageConfig, load: Load, *, denoiser_only: bool) -> None:
        self._model = _Model(settings, load, denoiser_only=denoiser_only)
        batched: Any = self._batched
        batched.set_max_batch_size(stage.batch_size)
        batched.set_batch_wait_timeout_s(stage.batch_wait_seconds)

    @serve.batch
    async def _batched(self, works: list[Work]) -> list[NDArray[np.float32]]:
        return await self._model.run(works)

    async def facts(self) -> dict[str, Any]:
        """What others have to know of the model."""
        return self._model.facts

    async def check_health(self) -> None:
        """Called by Serve: a replica whose model no longer runs is replaced."""
        await self._model.check()


@serve.deployment
class DenoiserDeployment(_Replica):
    """The first stage."""

    def __init__(self, settings: ServeConfig, load: Load) -> None:
        super().__init__(settings, settings.denoiser, load, denoiser_only=True)

    async def denoise(self, work: Work) -> NDArray[np.float32]:
        """Denoised rows."""
        return await self._batched(work)

    async def forward(self, work: Work) -> Work:
        """``work`` for the next stage."""
        return dataclasses.replace(work, denoised=await self._batched(work))


@serve.deployment
class EnhancerDeployment(_Replica):
    """The second stage."""

    def __init__(self, settings: ServeConfig, load: Load) -> None:
        super().__init__(settings, settings.enhancer, load, denoiser_only=False)

    async def enhance(self, work: Work) -> NDArray[np.float32]:
        """Restored rows."""
        return await self._batched(work)
