"""How this process gets the memory of its tensors on a CPU.

The networks' larger tensors have tens to hundreds of megabytes. glibc asks the kernel for such a block each
time and gives it back at once, and the kernel fills every page of it with zeros first: that took half of the
time of the original's denoiser. Kept by the process, the memory is used again as it is.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # numbers of glibc's malloc.h
_KEPT_BYTES = 2**31 - 2**20


@functools.cache
def keep_large_blocks() -> bool:
    """Have this process keep up to 2 GiB that it does not use at the moment, instead of none.

    Returns:
        Whether it does: only glibc can be told, and a process whose environment has a setting of malloc
        (``MALLOC_...``, ``GLIBC_TUNABLES``) or another allocator (``LD_PRELOAD``) stays as it is.
    """
    if any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ):
        return False
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena, because those of threads have pieces of 64 MiB, and take what is larger from the kernel.
    settings = ((_ARENA_MAX, 1), (_TRIM_THRESHOLD, _KEPT_BYTES), (_MMAP_MAX, 0))
    return all(mallopt(*setting) for setting in settings)
