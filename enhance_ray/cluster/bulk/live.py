"""What a run prints while it goes on."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from enhance_ray.cluster.bulk.ledger import Snapshot
from enhance_ray.cluster.bulk.settings import BulkConfig

logger = logging.getLogger(__name__)

_LOG_SECONDS = 30.0


class LiveLine:
    """How far a run is: one line that is drawn over on a terminal, and now and then one in a log."""

    def __init__(self, settings: BulkConfig) -> None:
        self._settings = settings
        self._files = self._bytes = 0
        self._started = self._logged = time.time()
        self._write: Callable[[str], Any] | None = sys.stderr.write if sys.stderr.isatty() else None

    def expect(self, files: int, total_bytes: int) -> None:
        """There is more to do."""
        self._files += files
        self._bytes += total_bytes

    def show(self, now: Snapshot, *, final: bool = False) -> None:
        """Draw it."""
        text = self.text(now)
        if self._write is not None:
            self._write(f"\r\x1b[2K{text}" + ("\n" if final else ""))
            sys.stderr.flush()
        elif final or time.time() - self._logged > _LOG_SECONDS:
            self._logged = time.time()
            logger.info("%s", text)

    def text(self, now: Snapshot) -> str:
        """Hours, speed, time left, failures, money."""
        finished = now.done + now.failed
        hours = sum(actor.seconds_done for actor in now.actors.values()) / 3600
        actor_hours = now.actor_hours
        parts = [f"{hours:,.2f} h of audio", f"{finished:,} of {self._files:,} files"]
        share = now.bytes / self._bytes if self._bytes else finished / self._files if self._files else 0.0
        parts[-1] += f" ({share:.0%})"
        gpus = 0.0 if self._settings.pools else self._settings.gpus_per_actor
        unit, size = ("GPU", gpus) if gpus else ("actor", 1.0)
        if actor_hours:
            parts.append(f"{hours / (actor_hours * size):,.0f} h per {unit}-hour")
        if share:
            parts.append(f"{_span((time.time() - self._started) * (1 / min(share, 1.0) - 1))} left")
        parts.append(f"{now.failed:,} failed")
        if now.deaths:
            parts.append(f"{now.deaths:,} actors lost")
        if (cost := self._settings.cost(now.hours)) is not None:
            parts.append(f"{cost:,.2f} spent")
        return ", ".join(parts)


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 48 * 60:
        return f"{minutes / 1440:.1f} days"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds:.0f} s"
