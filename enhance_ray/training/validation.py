"""How well a denoiser does on speakers, noises and rooms that it never learned from."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from enhance_ray import metrics
from enhance_ray.options import MODEL_RATE
from enhance_ray.training.examples import Banks, ExampleConfig, make_example
from enhance_ray.training.losses import DenoiserLossConfig
from enhance_ray.training.stages import denoiser_step

_SEED = 20_240_229
"""Of the validation set: its own, so that runs with other seeds are compared on the same examples."""


class Picture(NamedTuple):
    """One validation example to look at and listen to."""

    noisy: Float32[np.ndarray, " time"]
    denoised: Float32[np.ndarray, " time"]
    target: Float32[np.ndarray, " time"]


class Validator:
    """A fixed set of mixtures and the scores of a denoiser on them."""

    def __init__(
        self,
        banks: Banks,
        examples: ExampleConfig,
        loss: DenoiserLossConfig,
        count: int,
        seconds: float,
        pictures: int = 2,
    ) -> None:
        """Draw ``count`` examples of ``seconds`` that all hold speech, as in training otherwise."""
        config = dataclasses.replace(examples, crop_seconds=seconds, silence_probability=0)
        self.examples = [make_example(banks, config, np.random.default_rng([_SEED, i])) for i in range(count)]
        self.loss = loss
        self.pictures = pictures
        self._before: dict[str, float] | None = None

    def run(self, denoiser: nn.Module, device: torch.device) -> tuple[dict[str, float], list[Picture]]:
        """Mean loss, and mean gain of every metric over the unprocessed mixture.

        Scores are SI-SDR (dB), PESQ-WB and ESTOI of the denoised sound, plain and as
        ``gain_...`` over the input.
        """
        losses: list[float] = []
        scores: list[dict[str, float]] = []
        pictures: list[Picture] = []
        for example in self.examples:
            noisy, target = (torch.from_numpy(part)[None].to(device) for part in example)
            with torch.inference_mode():
                result = denoiser_step(denoiser, noisy, target, self.loss)
            losses.append(float(result.loss))
            denoised = result.estimate[0].float().cpu().numpy()
            scores.append(_score(denoised, example.target))
            if len(pictures) < self.pictures:
                peak = float(np.abs(example.noisy).max())
                pictures.append(Picture(example.noisy, denoised * peak, example.target))
        after = _means(scores)
        if self._before is None:
            self._before = _means([_score(noisy, target) for noisy, target in self.examples])
        gains = {f"gain_{name}": after[name] - self._before[name] for name in after}
        return {"loss": float(np.mean(losses)), **after, **gains}, pictures


def _score(
    estimate: Float32[np.ndarray, " time"], reference: Float32[np.ndarray, " time"]
) -> dict[str, float]:
    return {
        "si_sdr": metrics.si_sdr(estimate, reference),
        "pesq": metrics.pesq_wb(estimate, reference, MODEL_RATE),
        "estoi": metrics.estoi(estimate, reference, MODEL_RATE),
    }


def _means(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the examples that it could be measured on."""
    return {name: float(np.nanmean([score[name] for score in scores])) for name in scores[0]}
