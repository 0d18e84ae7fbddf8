"""What a model of a listener says: quality, intelligibility, who speaks, which sounds.

The models come with packages of the `eval` extra. Where a package carries more than is needed here, its
weights alone are read, and none of its code is run.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from enhance_ray.metrics.inputs import Waveform, folder_of, pair, require, resample

if TYPE_CHECKING:
    from torch import nn

NARROWBAND_RATE = 8_000
WIDEBAND_RATE = 16_000
"""Rate in Hz at which PESQ-WB, DNSMOS, the speaker's network and the phone recogniser are defined."""
ESTOI_RATE = 10_000

DNSMOS_SECONDS = 9.01
"""Length of the windows that DNSMOS rates, one a second."""
DNSMOS_CURVES = (
    (-0.08397278, 1.22083953, 0.0052439),
    (-0.13166888, 1.60915514, -0.39604546),
    (-0.06766283, 1.11546468, 0.04602535),
)
"""One polynomial each, highest power first, fits the network's raw outputs of speech, background and whole to
the ratings (DNS Challenge, dnsmos_local.py)."""

PHONES_LEAST = 5
"""Of fewer phones in the reference an error rate says nothing."""

SPEAKER_SECONDS = 1.6
"""Length of the windows in which a voice is recognised."""
SPEAKER_FRAMES = 160
SPEAKER_HOP = 160
SPEAKER_STEP = 77
"""Frames from one window to the next: 1.3 windows a second, rounded."""
SPEAKER_COVERAGE = 0.75
"""Least share of the last window that is sound, not padding."""
SPEAKER_LEVEL = 10 ** (-30 / 20)
"""Root mean square to which quieter waveforms are turned up: -30 dBFS."""


def pesq_wb(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Predicted listening quality, wide-band, MOS-LQO of about 1.04 to 4.64; higher is better.

    ITU-T P.862.2 (2007) at 16 kHz, by the ITU's own C code in the package `pesq`. It hears nothing above
    7 kHz. nan for less than 0.25 s, where it finds no utterance, and for a silent estimate.

    Raises:
        ConfigError: `pesq` is absent.
    """
    return _pesq(estimate, reference, sample_rate, WIDEBAND_RATE, "wb")


def pesq_nb(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Predicted listening quality over a telephone, MOS-LQO of about 1.02 to 4.55; higher is better.

    ITU-T P.862 (2001) at 8 kHz, mapped by P.862.1 (2003), by the package `pesq`. It hears nothing above
    3.4 kHz. nan for less than 0.25 s, where it finds no utterance, and for a silent estimate.

    Raises:
        ConfigError: `pesq` is absent.
    """
    return _pesq(estimate, reference, sample_rate, NARROWBAND_RATE, "nb")


def estoi(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Extended short-time objective intelligibility, about 0 to 1; higher is better.

    Jensen and Taal 2016, doi:10.1109/TASLP.2016.2585878, at 10 kHz, by the package `pystoi`. Frames more
    than 40 dB below the reference's loudest are left out. nan where less than 0.4 s of them remains.

    Raises:
        ConfigError: `pystoi` is absent.
    """
    package = require("pystoi")
    estimate, reference = pair(estimate, reference)
    if not reference.any():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns of too few frames and returns 1e-5
        try:
            value = package.stoi(
                resample(reference, sample_rate, ESTOI_RATE),
                resample(estimate, sample_rate, ESTOI_RATE),
                ESTOI_RATE,
                extended=True,
            )
        except RuntimeWarning:
            return float("nan")
    return float(value)


def phone_error(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Share of the reference's phones that are heard as others, 0 to above 1; lower is better.

    A word error rate without words: what the free phone recogniser of the package `pocketsphinx` (5.1;
    Huggins-Daines et al. 2006, doi:10.1109/ICASSP.2006.1659988; 16 kHz, its English acoustic model and phone
    trigrams, weights and beams as its manual has them) hears in the estimate against what it hears in the
    reference; insertions, deletions and substitutions (Levenshtein 1966) over the reference's phones.
    Silences and noises do not count. Both are heard with the same English ears, whatever the language is.
    Samples beyond [-1, 1] are clipped, the rest is rounded to 16 bits. nan where the reference has fewer than
    five phones; about 1 for a silent estimate.

    The recogniser is jumpy: noise 40 dB below the speech moves 0.2 of the phones, and so does a delay of
    2.5 ms; other speech moves 0.9 and more. Read means over many recordings, not one number.

    Raises:
        ConfigError: `pocketsphinx` is absent.
    """
    pair(estimate, reference)
    meant, heard = (
        _phones(_sixteen_bits(resample(waveform, sample_rate, WIDEBAND_RATE)))
        for waveform in (reference, estimate)
    )
    return _edits(meant, heard) / len(meant) if len(meant) >= PHONES_LEAST else float("nan")


def speaker_similarity(estimate: Waveform, reference: Waveform, sample_rate: int) -> float:
    """Cosine of the two voices' embeddings, -1 to 1; higher is better, 1 for the reference itself.

    GE2E: Wan et al. 2018, arXiv:1710.10467, at 16 kHz, with the weights in the package `Resemblyzer` (0.1.4).
    An embedding is the mean over windows of 1.6 s, 1.3 a second. As in the package, waveforms below -30 dBFS
    are turned up to it, and louder ones left: above it the number is not blind to a gain. Unlike there,
    pauses stay in, so that both are heard over the same time. Embeddings have no negative element: strangers
    score about 0.5 to 0.7. nan for less than 1.6 s and for a silent reference; 0 for a silent estimate.

    Raises:
        ConfigError: `Resemblyzer` is absent.
    """
    pair(estimate, reference)
    network = _speaker_network()
    if reference.size < SPEAKER_SECONDS * sample_rate or not reference.any():
        return float("nan")
    if not estimate.any():
        return 0.0
    first, second = (
        _speaker_embedding(resample(waveform, sample_rate, WIDEBAND_RATE), *network)
        for waveform in (estimate, reference)
    )
    return float((first @ second).clip(-1, 1))


def dnsmos(waveform: Waveform, sample_rate: int) -> dict[str, float]:
    """Predicted opinion of speech (sig), background (bak) and whole (ovrl), MOS of 1 to 5; higher is better.

    DNSMOS P.835: Reddy et al. 2022, arXiv:2110.01763, at 16 kHz, with the weights in the package `speechmos`
    (not the personalised ones), on one thread. The mean over windows of 9.01 s, one a second; less than that
    is repeated. Samples beyond [-1, 1] are clipped, as a file of integers would do.

    Raises:
        ConfigError: `onnxruntime` or `speechmos` is absent.
    """
    session = _dnsmos_session()
    waveform = resample(np.asarray(waveform, dtype=np.float32), sample_rate, WIDEBAND_RATE).clip(-1, 1)
    if waveform.size == 0:
        return dict.fromkeys(("sig", "bak", "ovrl"), float("nan"))
    window = int(DNSMOS_SECONDS * WIDEBAND_RATE)
    while (
        waveform.size < window
    ):  # doubled, not tiled: the published script's way, and the numbers depend on it
        waveform = np.concatenate([waveform, waveform])
    windows = int(waveform.size // WIDEBAND_RATE - DNSMOS_SECONDS) + 1  # the script's rounding
    starts = WIDEBAND_RATE * np.arange(windows)
    raw = np.array([session.run(None, {"input_1": waveform[None, s : s + window]})[0][0] for s in starts])
    return {
        scale: float(np.polyval(curve, of_windows).mean())
        for scale, curve, of_windows in zip(("sig", "bak", "ovrl"), DNSMOS_CURVES, raw.T, strict=True)
    }


def _pesq(
    estimate: Waveform, reference: Waveform, sample_rate: int, rate: int, mode: Literal["wb", "nb"]
) -> float:
    package = require("pesq")
    estimate, reference = pair(estimate, reference)
    if not (reference.any() and estimate.any()):
        return float("nan")
    try:
        value = package.pesq(
            rate, resample(reference, sample_rate, rate), resample(estimate, sample_rate, rate), mode
        )
    except (package.NoUtterancesError, package.BufferTooShortError):
        return float("nan")
    return float(value)


def _sixteen_bits(waveform: Waveform) -> bytes:
    return (waveform.clip(-1, 1) * 32767).round().astype(np.int16).tobytes()


@lru_cache(maxsize=4)  # several estimates of one reference come in turn
def _phones(samples: bytes) -> tuple[str, ...]:
    """The phones heard in 16 bits at 16 kHz."""
    package = require("pocketsphinx")
    if not samples:
        return ()
    models = folder_of("pocketsphinx") / "model" / "en-us"
    # A new one each time: what a decoder hears depends on what it heard before.
    decoder = package.Decoder(
        hmm=str(models / "en-us"),
        allphone=str(models / "en-us-phone.lm.bin"),
        dict=None,
        lw=2.0,
        beam=1e-20,
        pbeam=1e-20,
        loglevel="FATAL",
    )
    decoder.start_utt()
    decoder.process_raw(samples, no_search=False, full_utt=True)
    decoder.end_utt()
    words = (segment.word for segment in decoder.seg() or ())
    return tuple(word for word in words if word != "SIL" and not word.startswith("+"))


def _edits(first: Sequence[str], second: Sequence[str]) -> int:
    """Least number of insertions, deletions and substitutions between two sequences."""
    row = list(range(len(second) + 1))  # edits from what was read of first to each beginning of second
    for i, wanted in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, found in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != found))
    return row[-1]


def _speaker_embedding(waveform: Waveform, lstm: nn.LSTM, linear: nn.Linear) -> NDArray[np.float64]:
    """(256,) of unit length, for a waveform (time,) at 16 kHz that is not silent."""
    import librosa
    import torch

    level = np.sqrt(np.square(waveform, dtype=np.float64).mean())
    waveform = waveform * max(1.0, SPEAKER_LEVEL / level)
    frames = waveform.size // SPEAKER_HOP + 1
    starts = np.arange(0, max(1, frames - SPEAKER_FRAMES + SPEAKER_STEP + 1), SPEAKER_STEP)
    covered = waveform.size / SPEAKER_HOP - starts[-1]
    if covered < SPEAKER_COVERAGE * SPEAKER_FRAMES and len(starts) > 1:
        starts = starts[:-1]
    needed = (starts[-1] + SPEAKER_FRAMES) * SPEAKER_HOP
    padded = np.pad(waveform, (0, max(0, needed - waveform.size))).astype(np.float32)
    mel = librosa.feature.melspectrogram(  # power, not its logarithm
        y=padded, sr=WIDEBAND_RATE, n_fft=400, hop_length=SPEAKER_HOP, n_mels=40
    )
    windows = torch.from_numpy(np.stack([mel.T[start : start + SPEAKER_FRAMES] for start in starts]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps are so short that more threads lose time, on a busy machine tenfold
    try:
        with torch.inference_mode():
            _, (hidden, _) = lstm(windows)
            embeddings = torch.nn.functional.normalize(linear(hidden[-1]).relu()).numpy()
    finally:
        torch.set_num_threads(threads)
    mean = embeddings.mean(axis=0, dtype=np.float64)
    embedding: NDArray[np.float64] = mean / np.linalg.norm(mean)
    return embedding


@cache
def _speaker_network() -> tuple[nn.LSTM, nn.Linear]:
    import torch
    from torch import nn

    stored = torch.load(folder_of("resemblyzer") / "pretrained.pt", map_location="cpu", weights_only=True)
    # On "meta" nothing is initialised, which would take from torch's global generator.
    lstm = nn.LSTM(40, 256, num_layers=3, batch_first=True, device="meta")
    linear = nn.Linear(256, 256, device="meta")
    for part, module in (("lstm.", lstm), ("linear.", linear)):
        weights = {k.removeprefix(part): v for k, v in stored["model_state"].items() if k.startswith(part)}
        module.load_state_dict(weights, assign=True)
    return lstm, linear


@cache
def _dnsmos_session() -> Any:
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Its own loader would import what we do not need.
    weights = folder_of("speechmos") / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
