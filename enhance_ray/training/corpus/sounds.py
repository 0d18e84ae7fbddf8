"""What is measured of a recording: band, noise, clipping, silence; in one pass over its blocks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float32
from numpy.typing import NDArray

from enhance_ray.training.degrade import Waveform


@dataclass(frozen=True, kw_only=True, slots=True)
class SoundStats:
    """What was measured on a recording."""

    seconds: float
    sample_rate: int
    channels: int
    peak: float
    bandwidth: float
    """Hz; see `effective_bandwidth`."""
    snr_db: float | None
    """See `estimate_snr`: for speech with pauses. None where there is too little sound to tell."""
    clipped: float
    """Share of the samples at full scale or on a flat top."""
    silent: float
    """Share of the 20 ms frames more than 40 dB below the loudest."""
    offset: float
    """Mean of the samples."""


class SoundAnalysis:
    """Measures a recording block by block, keeping 400 bytes a second and a bounded sample of spectra."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._spectra = SpectrumSample()
        self._frame_powers: list[NDArray[np.float64]] = []
        self._frames = self._clipped = self._sample_rate = self._channels = 0
        self._sum = self._peak = 0.0

    def add(self, block: Float32[np.ndarray, "channel time"], sample_rate: int) -> None:
        self._channels, self._sample_rate = block.shape[0], sample_rate
        self._frames += block.shape[1]
        self._sum += float(block.sum(dtype=np.float64))
        self._peak = max(self._peak, float(np.abs(block).max()))
        self._clipped += sum(count_clipped(channel) for channel in block)
        # At 16 bits, channels interleaved: the same for any container and length of blocks.
        samples = np.clip(np.rint(block.T * 32_768), -32_768, 32_767)
        self._sha.update(np.ascontiguousarray(samples, "<i2").tobytes())
        mono: Waveform = block.mean(0)
        self._frame_powers.append(_frames(mono, sample_rate // 50).var(-1, dtype=np.float64))
        self._spectra.add(mono)

    def digest(self) -> str:
        return self._sha.hexdigest()

    def stats(self) -> SoundStats:
        powers = np.concatenate(self._frame_powers)
        samples = self._frames * self._channels
        return SoundStats(
            seconds=self._frames / self._sample_rate,
            sample_rate=self._sample_rate,
            channels=self._channels,
            peak=self._peak,
            bandwidth=effective_bandwidth(self._spectra.frames(), self._sample_rate),
            snr_db=estimate_snr(powers),
            clipped=self._clipped / samples,
            silent=float(np.mean(powers <= 1e-4 * powers.max())),
            offset=self._sum / samples,
        )


class SpectrumSample:
    """Power spectra of up to 4,096 frames spread evenly over a recording of any length.

    When it is full, every second frame is dropped, and from then on every second one is taken.
    """

    POINTS, LIMIT = 2048, 4096

    def __init__(self) -> None:
        self._kept: list[NDArray[np.float32]] = []
        self._stride = 1
        self._seen = 0
        self._window: Waveform = scipy.signal.get_window("hann", self.POINTS).astype(np.float32)

    def add(self, mono: Waveform) -> None:
        frames = _frames(mono, self.POINTS)
        for frame in frames[-self._seen % self._stride :: self._stride]:
            self._kept.append(np.square(np.abs(scipy.fft.rfft(frame * self._window))))
        self._seen += len(frames)
        while len(self._kept) > self.LIMIT:
            self._kept = self._kept[::2]
            self._stride *= 2

    def frames(self) -> Float32[np.ndarray, "frame bin"]:
        return np.stack(self._kept)


def _frames(mono: Waveform, length: int) -> Float32[np.ndarray, "frame sample"]:
    """Whole frames without overlap; what is shorter than one is padded with zeros to one."""
    if mono.size < length:
        mono = np.pad(mono, (0, length - mono.size))
    return mono[: mono.size // length * length].reshape(-1, length)


def effective_bandwidth(spectra: Float32[np.ndarray, "frame bin"], sample_rate: int) -> float:
    """Highest frequency in Hz at which a recording still holds something.

    That is where its spectrum falls 50 dB below its largest value for good. The spectrum is taken
    after pre-emphasis, which makes speech about flat (without, it would be 60 to 70 dB); with each bin
    at the level that a tenth of the active frames passes, so that sibilants count although they are
    rare, and a click does not; and smoothed over 250 Hz, so that a tone does not count.

    Args:
        spectra: power from 0 to half the sample rate.
        sample_rate: Hz.
    """
    frequencies = np.linspace(0, sample_rate / 2, spectra.shape[1])
    emphasis = np.square(np.abs(1 - 0.97 * np.exp(-2j * np.pi * frequencies / sample_rate)))
    emphasized = spectra * emphasis
    loudness = emphasized.sum(-1)
    if loudness.max() == 0:
        return 0.0
    level = np.quantile(emphasized[loudness >= 1e-4 * loudness.max()], 0.9, axis=0)
    smoothed = scipy.ndimage.median_filter(level, max(1, round(250 / frequencies[1])))
    return float(frequencies[np.flatnonzero(smoothed >= 1e-5 * smoothed.max())[-1]])


def estimate_snr(frame_powers: NDArray[np.float64]) -> float | None:
    """Level of speech over that of the quietest tenth, in dB, from the powers of 20 ms frames.

    Speech is what lies 6 dB above the quietest tenth. Frames below -100 dBFS do not count: somebody
    cut or muted there. None where less than half a second remains.
    """
    audible = frame_powers[frame_powers >= 1e-10]
    if audible.size < 25:
        return None
    noise = np.quantile(audible, 0.1)
    speech = audible[audible >= min(4 * noise, audible.max())].mean()
    return float(10 * np.log10(max(speech - noise, 1e-12) / noise))


def count_clipped(channel: Waveform) -> int:
    """Samples at full scale, and samples on flat tops: four or more equal ones in a row, above -26 dBFS.

    A flat top also tells of clipping before the level was lowered.
    """
    magnitude = np.abs(channel)
    same = (np.diff(channel) == 0) & (magnitude[1:] > 0.05)
    flat = same[:-2] & same[1:-1] & same[2:]
    top = magnitude >= 0.9999
    for offset in range(4):
        top[offset : offset + flat.size] |= flat
    return int(np.count_nonzero(top))
