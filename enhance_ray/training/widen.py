"""A wider denoiser that begins where a trained one stands.

    python -m enhance_ray.training.widen OUT --model default --hidden 12 --middle-blocks 0
    enhance-ray train configs/compact/train_denoiser.yaml --run RUN --set init_from=OUT

After Chen et al. 2016, "Net2Net", arXiv:1511.05641: new channels are copies of old ones, and what reads a
channel reads its copies in shares that add up to its weight. The shares are drawn at random, so that copies
get gradients of their own and part. The answer is that of the trained net, except where a group of a norm is
not copied as a whole: its mean and variance then weigh some channels twice.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from enhance_ray import checkpoint, resemble
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.errors import ConfigError
from enhance_ray.models.denoiser import Denoiser

_LEAST_SHARE = 0.25
"""Of two copies of a channel neither is read with less than this share of its weight."""


def widen(net: Denoiser, hidden: int, *, middle_blocks: int | None = None, seed: int = 0) -> Denoiser:
    """``net`` with ``hidden`` channels at full resolution, and the multiples of that below.

    Args:
        net: any trained denoiser.
        hidden: from the net's own width to twice that.
        middle_blocks: how many of the net's blocks at the lowest resolution to keep, which have most of the
            weights; by default all. What a block did that is left out is lost.
        seed: of the shares.

    Raises:
        ConfigError: a width or a number of blocks out of range.
    """
    old = net.config
    kept = old.middle_blocks if middle_blocks is None else middle_blocks
    if not old.hidden <= hidden <= 2 * old.hidden:
        raise ConfigError("hidden", f"must be from {old.hidden} to {2 * old.hidden}, got {hidden}")
    if not 0 <= kept <= old.middle_blocks:
        raise ConfigError("middle_blocks", f"must be from 0 to {old.middle_blocks}, got {kept}")
    wide = Denoiser(dataclasses.replace(old, hidden=hidden, middle_blocks=kept))
    weights = net.state_dict()
    generator = torch.Generator().manual_seed(seed)
    wide.load_state_dict(
        {key: _widened(weights[key], like, generator) for key, like in wide.state_dict().items()}
    )
    return wide.train(net.training)


def _widened(weights: Tensor, like: Tensor, generator: torch.Generator) -> Tensor:
    """``weights`` in the shape of ``like``: of outputs copies, of inputs shares."""
    out = len(like)
    weights = torch.cat([weights, weights[: out - len(weights)]])
    if weights.ndim == 1 or weights.shape[1] == like.shape[1]:
        return weights
    copied = like.shape[1] - weights.shape[1]
    shares = torch.empty(out, copied, *[1] * (weights.ndim - 2))
    shares.uniform_(_LEAST_SHARE, 1 - _LEAST_SHARE, generator=generator)
    twice = weights[:, :copied]
    return torch.cat([shares * twice, weights[:, copied:], (1 - shares) * twice], dim=1)


def main() -> None:
    """Write the model that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the model")
    parser.add_argument(
        "--model", default="default", metavar="MODEL", help="what to widen (default: %(default)s)"
    )
    parser.add_argument("--hidden", type=int, required=True, metavar="N", help="channels at full resolution")
    parser.add_argument("--middle-blocks", type=int, metavar="N", help="how many to keep (default: all)")
    arguments = parser.parse_args()
    net = resemble.load_model(arguments.model, denoiser_only=True).denoiser
    wide = widen(net, arguments.hidden, middle_blocks=arguments.middle_blocks)
    config = ModelConfig(name=f"wide-{wide.config.hidden}", denoiser=wide.config)
    checkpoint.save(arguments.out, config, wide.state_dict())


if __name__ == "__main__":
    main()
