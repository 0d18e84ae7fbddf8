"""Which files are kept out of training where the corpus itself does not say: decided by name alone."""

from __future__ import annotations

import zlib
from pathlib import PurePath
from typing import Literal

Split = Literal["train", "valid"]


def held_out(name: str, every: int = 8) -> bool:
    """Whether the file ``name`` belongs to validation: about one in ``every`` does.

    Decided by the CRC-32 of the name without folder and extension: it stays as it is when files are
    added, moved or converted, and training and benchmarks need not share a list. Two files of one
    recording are to carry one stem, or they may fall on both sides.
    """
    return zlib.crc32(PurePath(name).stem.encode()) % every == 0
