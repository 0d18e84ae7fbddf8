"""The two models behind their handles, as a thread that restores a recording sees them."""

from __future__ import annotations

import math
import time
from typing import Any, Literal

from enhance_ray.cluster.serve.models import Work
from enhance_ray.cluster.serve.refusals import RequestError
from enhance_ray.cluster.serve.restoring import Models
from enhance_ray.engine.framing import Framing

Mode = Literal["denoise", "enhance"]

_PATIENCE = 60.0
"""Seconds: a first replica may still be reading its model."""


class Stages:
    """What is served. Its methods wait, and are for threads, not for an event loop."""

    def __init__(self, denoiser: Any, enhancer: Any | None) -> None:
        self._handles = (
            {"denoise": denoiser} if enhancer is None else {"denoise": denoiser, "enhance": enhancer}
        )
        self._facts: dict[str, dict[str, Any]] = {}

    def facts(self, seconds: float | None = _PATIENCE) -> dict[str, dict[str, Any]]:
        """What the models are, by mode; asked of them until they have answered once.

        Args:
            seconds: how long to wait for a replica of each; None has no limit.

        Raises:
            RequestError: there was none.
        """
        if not self._facts:
            try:
                self._facts = {
                    mode: handle.facts.remote().result(timeout_s=seconds)
                    for mode, handle in self._handles.items()
                }
            except TimeoutError as error:
                raise RequestError(503, "unavailable", "the models are not there yet; try again") from error
        return self._facts

    def models(self, mode: Mode, deadline: float = math.inf, *, patient: bool = False) -> Models:
        """The way to the models for one recording.

        Args:
            mode: what is to be done with it.
            deadline: in time.monotonic's seconds.
            patient: wait where they have too much to do.

        Raises:
            RequestError: there is no enhancer here, or no model yet.
        """
        waits = deadline - time.monotonic() if math.isfinite(deadline) else None if patient else _PATIENCE
        if mode not in self.facts(waits):
            raise RequestError(409, "not_served", "this endpoint has a denoiser alone")
        ask = self._handles["denoise"].denoise.remote if mode == "denoise" else self._chained
        facts = self.facts()["denoise"]
        return Models(Framing(facts["hop"], facts["shortest"], facts["keeps_waves"]), ask, deadline, patient)

    def _chained(self, work: Work) -> Any:
        enhancer = self._handles["enhance"]
        if not work.options.denoise_strength:
            return enhancer.enhance.remote(work)
        # A promise: the rows go from the denoiser to the enhancer, and not through here.
        return enhancer.enhance.remote(self._handles["denoise"].forward.remote(work))
