"""Examples as the net sees them, and how a net is fitted to them."""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from enhance_ray.models.activity import ActivityNet
from enhance_ray.training.activity.examples import ActivityBanks, make_example

logger = logging.getLogger(__name__)

NARROWEST = 35
"""Bands that a telephone leaves: up to 3.4 kHz."""


class Features(Dataset[tuple[Tensor, Tensor]]):
    """Examples as the net sees them, with the labels; equal (seed, index) give equal ones."""

    def __init__(self, banks: ActivityBanks, seed: int, count: int) -> None:
        self.banks, self.seed, self.count = banks, seed, count
        self.net = ActivityNet()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(1)
        example = make_example(self.banks, np.random.default_rng([self.seed, index]))
        with torch.no_grad():
            features = self.net.features(torch.from_numpy(np.asarray(example.waveform, np.float32))[None])[0]
        return features.half(), torch.from_numpy(example.heard)


def train(
    features: Tensor, heard: Tensor, *, seed: int, epochs: int, batch: int = 32, rate: float = 3e-3
) -> ActivityNet:
    """Fit a net: binary cross-entropy of both answers, AdamW, one cycle of the learning rate.

    The learning rate goes as in Smith and Topin 2017, arXiv:1708.07120.

    Args:
        features: (example, band, frame).
        heard: (example, 2, step).
        seed: decides weights and order.
        epochs: over all examples.
        batch: examples in a step.
        rate: the cycle's highest learning rate.
    """
    torch.manual_seed(seed)
    net = ActivityNet().train()
    steps = epochs * (len(features) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(len(features)).split(batch):
            if len(rows) < batch:
                continue
            x = _narrow(features[rows].float())
            loss = F.binary_cross_entropy_with_logits(net.classify(x), heard[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        logger.info("epoch %d: loss %.4f", epoch + 1, np.mean(losses))
    return net.eval()


def _narrow(features: Float[Tensor, "batch band frame"]) -> Float[Tensor, "batch band frame"]:
    """Empty the bands above some frequency, 3.4 kHz at the least, in three of ten examples."""
    bands = features.shape[1]
    kept = torch.randint(NARROWEST, bands, (len(features), 1, 1))
    kept = torch.where(torch.rand(kept.shape) < 0.3, kept, bands)
    return features * (torch.arange(bands)[:, None] < kept)
