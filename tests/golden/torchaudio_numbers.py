"""What torchaudio computes, for tests to compare with. As a script, it writes `torchaudio.npz` beside itself:

    uv run tests/golden/torchaudio_numbers.py

The project does not depend on torchaudio: a wheel of it fits one build of torch, and cannot be imported
beside another. So the script states its own pair of versions, which uv installs into an environment apart.
"""

# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = ["numpy>=2", "torch==2.11.0", "torchaudio==2.11.0"]
# ///

from pathlib import Path

import numpy as np

NUMBERS = Path(__file__).with_name("torchaudio.npz")
MODEL_RATE = 44_100
RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 48_000, 88_200, 96_000, 192_000)
DRIVES = ((5.0, 20.0), (25.0, 50.0), (40.0, 80.0))


def noise(channels: int, samples: int) -> np.ndarray:
    """Uniform noise with a deviation of 0.3, (channels, samples), float32; the same bits on every machine.

    Only the raw output of a bit generator is promised to be the same in all versions of NumPy.
    """
    raw = np.random.PCG64(samples).random_raw(channels * samples) >> np.uint64(40)
    uniform = raw.astype(np.float64) / 2**23 - 1
    return (0.3 * 3**0.5 * uniform).astype(np.float32).reshape(channels, samples)


def speech_like(samples: int) -> np.ndarray:
    """Noise with the long-term slope and the syllables of speech, and pauses. Peak 0.7."""
    sloped = np.zeros(samples + 2)
    coloured = np.diff(noise(1, samples)[0].astype(np.float64), prepend=0)
    for index, value in enumerate(coloured):
        sloped[index + 2] = value + 1.8 * sloped[index + 1] - 0.81 * sloped[index]
    time = np.arange(samples) / MODEL_RATE
    sound = sloped[2:] * np.maximum(0, np.sin(2 * np.pi * 3 * time + 0.1))
    return (0.7 * sound / np.abs(sound).max()).astype(np.float32)


def main() -> None:
    """Write the numbers, and the input that depends on more than `noise`."""
    import torch
    from torchaudio import functional

    driven = speech_like(MODEL_RATE // 2)
    numbers = {
        "overdrive/input": driven,
        "melscale_fbanks": functional.melscale_fbanks(513, 0.0, MODEL_RATE / 2, 80, MODEL_RATE).numpy(),
    }
    for gain_db, colour in DRIVES:
        numbers[f"overdrive/{gain_db:g}/{colour:g}"] = functional.overdrive(
            torch.from_numpy(driven), gain_db, colour
        ).numpy()
    for rate in RATES:
        # With the settings of the reference.
        numbers[f"resample/{rate}"] = functional.resample(
            torch.from_numpy(noise(2, rate // 2 + 7)),
            rate,
            MODEL_RATE,
            lowpass_filter_width=64,
            rolloff=0.9475937167399596,
            resampling_method="sinc_interp_kaiser",
            beta=14.769656459379492,
        ).numpy()
    np.savez_compressed(NUMBERS, **numbers)


if __name__ == "__main__":
    main()
