"""Draw what training does to speech: one spectrogram for each kind of damage, into `docs/damages.webp`.

    python tools/damages.py docs/damages.webp

Every panel is the same second and a half of a sample recording, damaged by the code of `training/degrade/`
with a fixed seed; the first is the recording as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from listening import read, room, speech

from enhance_ray.options import MODEL_RATE
from enhance_ray.training import degrade
from enhance_ray.training.degrade import Waveform

_START, _SECONDS = 2.0, 1.5
_WINDOW, _HOP = 1024, 256
_RANGE_DB = 75.0


def damages() -> dict[str, Callable[[Waveform], Waveform]]:
    """By what stands above a panel."""

    def through(effect: degrade.Effect) -> Callable[[Waveform], Waveform]:
        return lambda waveform: effect(waveform, MODEL_RATE, np.random.default_rng(3))

    def coded(codec: degrade.CodecName, bit_rate: int) -> Callable[[Waveform], Waveform]:
        return lambda waveform: degrade.transcode(waveform, MODEL_RATE, codec=codec, bit_rate=bit_rate)

    def noisy(waveform: Waveform) -> Waveform:
        rain = np.resize(read("corpus/noise/esc10_rain_4-180380-A_00.opus"), waveform.size)
        return degrade.mix_at_snr(waveform, rain, 5.0)

    def lossy(*, repeat: bool) -> Callable[[Waveform], Waveform]:
        def lose(waveform: Waveform) -> Waveform:
            received = np.arange(-(-waveform.size // (MODEL_RATE // 50))) % 7 < 5
            return degrade.lose_packets(waveform, MODEL_RATE, received=received, repeat=repeat)

        return lose

    return {
        "as it was": lambda waveform: waveform,
        "noise": noisy,
        "room": lambda waveform: degrade.add_room(waveform, room(5)),
        "wind": through(degrade.Wind(snr_db=(0.0, 0.0), gusts_per_second=(3.0, 3.0))),
        "plosives": through(degrade.Plosives(per_second=(3.0, 3.0), level_db=(6.0, 6.0))),
        "hum": through(degrade.Hum(snr_db=(5.0, 5.0))),
        "clipping, hard": lambda waveform: degrade.clip(waveform, threshold_db=-16, soft=False),
        "clipping, soft and uneven": lambda waveform: degrade.clip(
            waveform, threshold_db=-16, soft=True, asymmetry_db=6
        ),
        "colouring": through(degrade.Equalizer(frequency=(300.0, 3000.0))),
        "narrow band": lambda waveform: degrade.limit_bandwidth(waveform, MODEL_RATE, 8000),
        "MP3, 16 kbit/s": coded("mp3", 16_000),
        "Opus, 12 kbit/s": coded("opus", 12_000),
        "GSM": coded("gsm", 13_000),
        "lost packets": lossy(repeat=False),
        "lost packets, repeated": lossy(repeat=True),
        "level changes": through(degrade.LevelChanges(gain_db=(-24.0, 0.0))),
    }


def levels(waveform: Waveform) -> np.ndarray:
    """(frequency, frame) in dB."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    return 20 * np.log10(np.abs(np.fft.rfft(frames)).T + 1e-5)


def main() -> int:
    """Draw them; 0."""
    clean = speech("clean/kathleen_helicopter.flac")
    part = slice(round(_START * MODEL_RATE), round((_START + _SECONDS) * MODEL_RATE))
    top = levels(clean[part]).max()
    kinds = damages()
    figure, axes = plt.subplots(4, -(-len(kinds) // 4), figsize=(12, 10), sharex=True, sharey=True)
    for axis, (name, damage) in zip(axes.flat, kinds.items(), strict=True):
        axis.imshow(
            levels(damage(clean)[part]),
            origin="lower",
            aspect="auto",
            cmap="magma",
            extent=(0, _SECONDS, 0, MODEL_RATE / 2000),
            vmin=top - _RANGE_DB,
            vmax=top,
        )
        axis.set_title(name)
    for axis in axes[:, 0]:
        axis.set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("s")
    figure.tight_layout()
    figure.savefig(sys.argv[1], dpi=90)
    return 0


if __name__ == "__main__":
    sys.exit(main())
