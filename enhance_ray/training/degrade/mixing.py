"""Speech and noise put together at a share or a ratio."""

from __future__ import annotations

import math

import numpy as np

from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training.degrade.effect import Waveform, Waveforms


def peak_normalize(waveform: Waveforms) -> Waveforms:
    """Divide by the largest magnitude over time. Silence stays silence."""
    peak: Waveforms = np.abs(waveform).max(-1, keepdims=True)
    return waveform / (peak + 1e-7)


def mix_at_share(clean: Waveforms, noise: Waveforms, share: float) -> tuple[Waveforms, Waveforms]:
    """The reference's mixture: ``share`` of clean and ``1 - share`` of noise, at equal energy before.

    Args:
        clean: speech at any level.
        noise: noise at any level.
        share: the reference's alpha, within [0, 1]. The SNR over the whole length is
            20 log10(share / (1 - share)) dB: 0.2 is -12 dB, 0.8 is +12 dB.

    Returns:
        The mixture with peak 1, and the clean part of it.
    """
    share = float(share)  # a NumPy float64 would widen the arrays
    part = share * _unit_energy(clean)
    mixture = part + (1 - share) * _unit_energy(noise)
    peak = np.abs(mixture).max(-1, keepdims=True) + 1e-7
    return mixture / peak, part / peak


def _unit_energy(waveform: Waveforms) -> Waveforms:
    waveform = peak_normalize(waveform)
    norm: Waveforms = np.sqrt(np.square(waveform).sum(-1, keepdims=True) + 1e-7)
    return np.asarray(waveform / norm, np.float32)


def mix_at_snr(
    clean: Waveform,
    noise: Waveform,
    snr_db: float,
    sample_rate: int = MODEL_RATE,
    *,
    noise_pauses: bool = False,
) -> Waveform:
    """Add ``noise`` to ``clean``, scaled so that their power ratio is ``snr_db``.

    Args:
        clean: speech at any level.
        noise: noise at any level.
        snr_db: 10 log10(speech power / noise power) in dB: the speech measured where it is active
            (`active_power`), so that pauses do not make the noise weaker; the noise over all.
        sample_rate: Hz.
        noise_pauses: measure the noise where it is active, too, because it comes in bursts.

    Returns:
        The mixture, with ``clean`` at the level it came in; peaks may pass 1. Where the speech is
        silent no gain gives the ratio, and the noise passes as it is: the model must learn to
        answer noise alone with silence.
    """
    speech_power = active_power(clean, sample_rate)
    noise_power = active_power(noise, sample_rate) if noise_pauses else power_of(noise)
    if speech_power == 0 or noise_power == 0:
        return np.asarray(clean + noise, np.float32)
    gain = math.sqrt(speech_power / noise_power) * 10 ** (-snr_db / 20)
    return clean + float(gain) * noise  # a NumPy float64 would widen the arrays


def active_power(waveform: Waveform, sample_rate: int) -> float:
    """Mean power of the 20 ms frames within 40 dB of the loudest one; 0 for silence."""
    frame = max(1, sample_rate // 50)
    whole = waveform[: waveform.size // frame * frame] if waveform.size >= frame else waveform
    powers = np.square(whole, dtype=np.float64).reshape(-1, min(frame, whole.size)).mean(-1)
    return float(powers[powers >= 1e-4 * powers.max()].mean())


def power_of(waveform: Waveform) -> float:
    """Mean power over all of it."""
    return float(np.square(waveform, dtype=np.float64).mean())
