"""How well a model does on speakers, noises and rooms that it never learned from."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32

from enhance_ray import metrics
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.context import TrainContext
from enhance_ray.training.examples import Banks, ExampleConfig, make_example
from enhance_ray.training.tasks import Task

_SEED = 20_240_229
"""Of the validation set: its own, so that runs with other seeds are compared on the same examples."""


class Picture(NamedTuple):
    """One validation example to look at and listen to."""

    noisy: Float32[np.ndarray, " time"]
    estimate: Float32[np.ndarray, " time"]
    target: Float32[np.ndarray, " time"]


class Validator:
    """A fixed set of mixtures and the scores of a model on them; workers share the work."""

    def __init__(
        self, banks: Banks, examples: ExampleConfig, count: int, seconds: float, pictures: int = 2
    ) -> None:
        """Draw ``count`` examples of ``seconds`` that all hold speech, as in training otherwise."""
        self.banks, self.count, self.pictures = banks, count, pictures
        self.config = dataclasses.replace(examples, crop_seconds=seconds, silence_probability=0)

    def run(self, task: Task, context: TrainContext) -> tuple[dict[str, float], list[Picture]]:
        """Mean loss, mean scores, and mean gains of the scores over the unprocessed mixture.

        Scores are SI-SDR (dB), PESQ-WB, ESTOI and LSD of what the model gives, plain and as ``gain_...`` over
        the mixture. The pictures are those of this worker: on the first, the first of the set.
        """
        mine = range(context.rank, self.count, context.world_size)
        rows: list[dict[str, float]] = []
        pictures: list[Picture] = []
        for index in mine:
            example = make_example(self.banks, self.config, np.random.default_rng([_SEED, index]))
            batch = {
                part: torch.from_numpy(waveform)[None].to(context.device)
                for part, waveform in example._asdict().items()
            }
            batch["index"] = torch.tensor([index])
            with torch.inference_mode():
                heard = task.listen(batch)
            estimate, reference = (part.float().cpu().numpy() for part in (heard.estimate, heard.reference))
            after, before = _score(estimate, reference), _score(example.noisy[: len(reference)], reference)
            gains = {f"gain_{name}": after[name] - before[name] for name in after}
            rows.append({"loss": heard.loss, **after, **gains})
            if len(pictures) < self.pictures:
                pictures.append(Picture(example.noisy, _at_level(estimate, reference), reference))
        # In the order of the set, so that sums do not depend on who did what.
        shares = context.gather(rows)
        ordered = [shares[i % context.world_size][i // context.world_size] for i in range(self.count)]
        return _means(ordered), pictures


def _at_level(
    estimate: Float32[np.ndarray, " time"], reference: Float32[np.ndarray, " time"]
) -> Float32[np.ndarray, " time"]:
    """``estimate`` with the power of ``reference``: a model may answer at another level than the corpus'."""
    power = float(np.square(estimate, dtype=np.float64).sum())
    wanted = float(np.square(reference, dtype=np.float64).sum())
    scaled: Float32[np.ndarray, " time"] = estimate * np.float32(np.sqrt(wanted / max(power, 1e-12)))
    return scaled


def _score(
    estimate: Float32[np.ndarray, " time"], reference: Float32[np.ndarray, " time"]
) -> dict[str, float]:
    return {
        "si_sdr": metrics.si_sdr(estimate, reference),
        "pesq": metrics.pesq_wb(estimate, reference, MODEL_RATE),
        "estoi": metrics.estoi(estimate, reference, MODEL_RATE),
        "lsd": metrics.lsd(_at_level(estimate, reference), reference, MODEL_RATE),
    }


def _means(scores: list[dict[str, float]]) -> dict[str, float]:
    """Mean of every metric over the examples that it could be measured on."""
    return {name: float(np.nanmean([score[name] for score in scores])) for name in scores[0]}
