"""A net that agrees with the ratings of clips, and the ways in which the clips are varied for it."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional as F

from enhance_ray.models.opinion import OpinionNet
from enhance_ray.training.mos.collection import Rated

LOG_EVERY = 200


def train(rated: Rated, *, steps: int, seed: int, batch: int = 16, max_lr: float = 3e-3) -> OpinionNet:
    """A net that agrees with the ``rated`` clips: Huber loss, AdamW, one cycle of the learning rate.

    A clip is turned in time, as its repetition in DNSMOS is, cut to 60 to 100 % of its length, and varied.
    """
    torch.manual_seed(seed)
    net = OpinionNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=max_lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps=steps, pct_start=0.1)
    clips, frames = rated.features.shape[0], rated.features.shape[-1]
    total = 0.0
    for step in range(1, steps + 1):
        chosen = torch.randint(clips, (batch,))
        length = int(torch.randint(int(0.6 * frames), frames + 1, ()))
        starts = torch.randint(frames, (batch,))
        turned = [rated.features[i].roll(-int(s), dims=-1) for i, s in zip(chosen, starts, strict=True)]
        crops = _vary(torch.stack(turned)[..., :length].float())
        loss = F.smooth_l1_loss(net.judge(crops), rated.ratings[chosen], beta=0.3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % LOG_EVERY == 0:
            print(f"step {step}: loss {total / LOG_EVERY:.4f}", flush=True)  # noqa: T201
            total = 0.0
    return net.eval()


def _vary(crops: Float32[Tensor, "batch 2 band frame"]) -> Float32[Tensor, "batch 2 band frame"]:
    """Other voices and microphones: a smooth equalizer of about 2 dB, noise of the features, bands that hide.

    The opinion would hardly change by them, and the net does not learn its few speakers by heart.
    """
    batch, _, bands, _ = crops.shape
    place = torch.arange(bands) / bands
    waves = torch.cos(torch.pi * torch.arange(1, 6)[:, None] * place)
    equalizer = 0.03 * torch.randn(batch, len(waves)) @ waves
    varied = crops + 0.03 * torch.randn_like(crops)
    varied[:, 0] += equalizer[..., None]
    # Six bands of half of the crops take the mean of all.
    first = torch.randint(2 * bands, (batch, 1))
    hidden = (torch.arange(bands) >= first) & (torch.arange(bands) < first + 6)
    return torch.where(hidden[:, None, :, None], varied.mean(dim=(2, 3), keepdim=True), varied)
