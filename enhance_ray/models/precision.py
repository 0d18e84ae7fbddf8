"""In which type the networks' matrix products compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from enhance_ray.settings.options import Precision


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """What "auto" means on ``device``: bf16 where the processor computes in it natively."""
    if precision != "auto":
        return precision
    return "bf16" if _computes_in_bf16(device) else "fp32"


def _computes_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        # Older releases of torch cannot tell; they get fp32.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
