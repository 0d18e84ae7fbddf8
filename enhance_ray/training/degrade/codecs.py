"""Lossy codecs, through libav."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np
from av import AudioCodecContext, AudioFrame, CodecContext
from jaxtyping import Float32

from enhance_ray.errors import ConfigError
from enhance_ray.training.degrade.effect import Effect, Waveform, WholeRange, draw_logarithmic
from enhance_ray.training.degrade.rates import resample_fft

CodecName = Literal["mp3", "aac", "opus"]


@dataclass(frozen=True, kw_only=True)
class _Coder:
    """How one codec is run through libav: at the encoder's fast settings, a crop costs 20 ms, not 150."""

    encoder: str
    decoder: str
    sample_format: str
    options: Mapping[str, str]
    rates: Sequence[tuple[int, int]]
    """(bit/s from which, sample rate in Hz), best first: what encoders choose by themselves."""
    priming: int
    """Samples that the decoder gives before the first of the input. MP3 and Opus packets carry the
    number and libav drops them; for AAC it is the container's business, and we have none."""


_CODERS: Mapping[CodecName, _Coder] = {
    "mp3": _Coder(
        encoder="libmp3lame",
        decoder="mp3float",
        sample_format="fltp",
        options={"compression_level": "7"},
        rates=((32_000, 44_100), (16_000, 22_050), (0, 11_025)),
        priming=0,
    ),
    "aac": _Coder(
        encoder="aac",
        decoder="aac",
        sample_format="fltp",
        options={"aac_coder": "fast"},
        rates=((48_000, 44_100), (24_000, 32_000), (12_000, 16_000), (0, 8_000)),
        priming=1024,
    ),
    "opus": _Coder(
        encoder="libopus",
        decoder="libopus",
        sample_format="flt",
        options={"compression_level": "3"},
        rates=((0, 48_000),),  # it narrows its band by itself
        priming=0,
    ),
}


def transcode(waveform: Waveform, sample_rate: int, *, codec: CodecName, bit_rate: int) -> Waveform:
    """Encode at ``bit_rate`` (bit/s, mono) and decode again, aligned with the input.

    A low bit rate takes a low sample rate with it, as encoders do. The sound is coded with a peak of
    0.9, so that its level makes no difference to what is lost. (Below 20 kbit/s Opus may be up to
    4 samples off: its speech coder's own rate cannot place them closer.)
    """
    coder = _CODERS[codec]
    coded_rate = next(rate for floor, rate in coder.rates if bit_rate >= floor)
    scale = float(np.abs(waveform).max()) / 0.9 or 1.0
    given = resample_fft(waveform / scale, sample_rate, coded_rate)
    decoded = np.zeros(given.size, np.float32)
    received = _through_libav(given, coder, coded_rate, bit_rate)[coder.priming :][: given.size]
    decoded[: received.size] = received
    return scale * resample_fft(decoded, coded_rate, sample_rate)[: waveform.size]


def _through_libav(
    waveform: Waveform, coder: _Coder, sample_rate: int, bit_rate: int
) -> Float32[np.ndarray, " decoded"]:
    encoder = _codec_context(coder.encoder, "w")
    encoder.sample_rate = sample_rate
    encoder.layout = "mono"
    encoder.format = coder.sample_format
    encoder.bit_rate = bit_rate
    encoder.time_base = Fraction(1, sample_rate)
    encoder.options = dict(coder.options)
    frame = AudioFrame.from_ndarray(waveform[None], format=coder.sample_format, layout="mono")
    frame.sample_rate = sample_rate
    frame.time_base = Fraction(1, sample_rate)
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]

    decoder = _codec_context(coder.decoder, "r")
    decoder.extradata = encoder.extradata
    decoder.sample_rate = sample_rate
    decoder.layout = "mono"
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.concatenate([_samples(frame) for frame in frames])


def _codec_context(name: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    context = CodecContext.create(name, mode)
    assert isinstance(context, AudioCodecContext)
    return context


def _samples(frame: AudioFrame) -> Waveform:
    full_scale = 32_768 if frame.format.name == "s16" else 1
    return (frame.to_ndarray().reshape(-1) / full_scale).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Codec(Effect):
    """Compressed at a low bit rate: `transcode`."""

    LIMITS: ClassVar = {"bit_rate": (8000, 64_000)}

    codecs: tuple[CodecName, ...] = ("mp3", "aac", "opus")
    """One is drawn."""
    bit_rate: WholeRange = (8000, 64_000)
    """bit/s, drawn on a logarithmic scale."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.codecs:
            raise ConfigError("codecs", f"expected one or more of {', '.join(_CODERS)}, got none")

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        codec = self.codecs[int(rng.integers(len(self.codecs)))]
        bit_rate = round(draw_logarithmic(rng, self.bit_rate))
        return transcode(waveform, sample_rate, codec=codec, bit_rate=bit_rate)
