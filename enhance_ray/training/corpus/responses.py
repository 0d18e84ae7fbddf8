"""Room responses: a folder of them read for `degrade.Distorter`, and what is measured of each.

A folder of responses holds mono `.npy` files at 44.1 kHz, as in the reference (which takes them to be
at 44.0 kHz), or audio files at any rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from enhance_ray import audio
from enhance_ray.errors import AudioReadError
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.degrade import Response, direct_path, resample_fft
from enhance_ray.training.splits import Split, held_out

Block = Float32[np.ndarray, "channel time"]

PRE_RAMP = MODEL_RATE // 1000
"""Samples that a response keeps before its direct path: 1 ms of microphone or simulation ringing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseStats:
    """What was measured on a room response."""

    seconds: float
    direct_seconds: float
    """Where the direct path is."""
    t60: float | None
    """See `reverberation_time`."""
    drr_db: float
    """See `direct_to_reverberant`."""


def response_stats(response: Response, sample_rate: int = MODEL_RATE) -> ResponseStats:
    """Measure one room response."""
    return ResponseStats(
        seconds=response.size / sample_rate,
        direct_seconds=direct_path(response) / sample_rate,
        t60=reverberation_time(response, sample_rate),
        drr_db=direct_to_reverberant(response, sample_rate),
    )


def energy_decay(response: Response) -> NDArray[np.float64]:
    """(time,) energy from each sample to the end, as a share of all (Schroeder 1965)."""
    energy = np.square(response, dtype=np.float64)[::-1].cumsum()[::-1]
    decay: NDArray[np.float64] = energy / energy[0]
    return decay


def reverberation_time(response: Response, sample_rate: int) -> float | None:
    """T60 in seconds: three times the time in which the decay falls from -5 to -25 dB (ISO 3382-1).

    None where it falls by more than that from one sample to the next: there is no tail.
    """
    decay = energy_decay(response[direct_path(response) :])
    start, end = (int(np.argmax(decay < 10 ** (level / 10))) for level in (-5, -25))
    return 3 * (end - start) / sample_rate if end > start else None


def direct_to_reverberant(response: Response, sample_rate: int) -> float:
    """Energy up to 2.5 ms after the direct path over the energy after that, in dB."""
    edge = direct_path(response) + round(2.5e-3 * sample_rate)
    energy = np.square(response, dtype=np.float64)
    return float(10 * np.log10(energy[:edge].sum() / max(energy[edge:].sum(), 1e-12)))


# --------------------------------------------------------------------------------------- reading


def load_rirs(folder: str | Path, *, split: Split | None = None, held_out_every: int = 8) -> list[Response]:
    """Read the room responses under ``folder``, `.npy` at 44.1 kHz or audio at any rate, by name.

    Each channel is a response of its own. It is cut to begin at most 1 ms before its direct path, and
    to end where what is left is 60 dB below the whole.

    Args:
        folder: local, searched recursively.
        split: the files of one side only (`splits.held_out`); by default all.
        held_out_every: one in so many files is for validation.

    Raises:
        AudioReadError: there is no such folder, or a file in it is not a response.
    """
    paths = [*audio.find_audio(str(folder)), *map(str, Path(folder).rglob("*.npy"))]
    if split:
        paths = [path for path in paths if held_out(path, held_out_every) == (split == "valid")]
    return [
        trim_response(response)
        for path in sorted(paths)
        for response in (read_npy(path) if path.endswith(".npy") else _read_audio(path))
    ]


def trim_response(response: Response) -> Float32[np.ndarray, " kept"]:
    """Cut what comes earlier than 1 ms before the direct path, and the tail below -60 dB."""
    start = max(0, direct_path(response) - PRE_RAMP)
    end = int(np.count_nonzero(energy_decay(response) >= 1e-6))
    return response[start:end]


def read_npy(path: str) -> Block:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise AudioReadError(path, f"it is not an .npy array: {error}") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioReadError(path, f"it holds {array.dtype}, not floating-point samples")
    responses = np.atleast_2d(array.squeeze()).astype(np.float32)
    if responses.ndim > 2 or responses.shape[0] > 64:
        raise AudioReadError(path, f"expected (time,) or (channel, time), got {array.shape}")
    return _checked_responses(path, responses)


def _read_audio(path: str) -> Block:
    with audio.decode(path) as blocks:
        waveforms = np.concatenate(list(blocks), axis=-1)
        sample_rate = blocks.info.sample_rate
    if sample_rate != MODEL_RATE:
        waveforms = np.stack([resample_fft(each, sample_rate, MODEL_RATE) for each in waveforms])
    return _checked_responses(path, waveforms)


def _checked_responses(path: str, responses: Block) -> Block:
    if not np.isfinite(responses).all():
        raise AudioReadError(path, "it holds NaN or infinite samples")
    if responses.size == 0 or not responses.any(-1).all():
        raise AudioReadError(path, "it is silent")
    return responses
