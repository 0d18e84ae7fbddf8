"""Lossy codecs, through libav and libsndfile."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np
import soundfile
from av import AudioCodecContext, AudioFrame, CodecContext
from jaxtyping import Float32

from enhance_ray.settings.ranges import NotEmpty, WholeRange, Within
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.effect import Effect, Waveform, draw_logarithmic
from enhance_ray.training.degrade.rates import resample_fft

CodecName = Literal["mp3", "aac", "opus", "vorbis", "gsm", "alaw", "mulaw"]


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
    **{
        name: _Coder(
            encoder=f"pcm_{name}",
            decoder=f"pcm_{name}",
            sample_format="s16",
            options={},
            rates=((0, 8_000),),
            priming=0,
        )
        for name in ("alaw", "mulaw")
    },
}


@dataclass(frozen=True, kw_only=True)
class _FileFormat:
    """How one codec that libav lacks, or has a poor encoder of, is run through libsndfile."""

    format: str
    subtype: str
    rates: Sequence[tuple[int, int]]
    """As above."""
    bits: tuple[float, float] | None = None
    """Bits a sample at the lowest and at the highest quality; None where there is one quality."""


_FILE_FORMATS: Mapping[CodecName, _FileFormat] = {
    "vorbis": _FileFormat(
        format="OGG",
        subtype="VORBIS",
        rates=((40_000, 44_100), (24_000, 22_050), (0, 11_025)),
        bits=(0.9, 2.2),
    ),
    "gsm": _FileFormat(format="WAV", subtype="GSM610", rates=((0, 8_000),)),
}


def transcode(waveform: Waveform, sample_rate: int, *, codec: CodecName, bit_rate: int) -> Waveform:
    """Encode at ``bit_rate`` (bit/s, mono) and decode again, aligned with the input.

    A low bit rate takes a low sample rate with it, as encoders do. The sound is coded with a peak of
    0.9, so that its level makes no difference to what is lost. (Below 20 kbit/s Opus may be up to
    4 samples off: its speech coder's own rate cannot place them closer.) GSM and G.711 (A-law and mu-law)
    have one bit rate, that of telephones, and Vorbis keeps near what is asked for.
    """
    if not waveform.any():  # which the coders of telephones do not keep
        return waveform
    coder = _FILE_FORMATS[codec] if codec in _FILE_FORMATS else _CODERS[codec]
    coded_rate = next(rate for floor, rate in coder.rates if bit_rate >= floor)
    scale = float(np.abs(waveform).max()) / 0.9
    given = resample_fft(waveform / scale, sample_rate, coded_rate)
    decoded = np.zeros(given.size, np.float32)
    if isinstance(coder, _FileFormat):
        received = _through_file(given, coder, coded_rate, bit_rate)[: given.size]
    else:
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
    whole = coder.sample_format.startswith("s16")
    samples = np.rint(waveform * 32_767).astype(np.int16) if whole else waveform
    frame = AudioFrame.from_ndarray(samples[None], format=coder.sample_format, layout="mono")
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


def _through_file(
    waveform: Waveform, coder: _FileFormat, sample_rate: int, bit_rate: int
) -> Float32[np.ndarray, " decoded"]:
    buffer, level = io.BytesIO(), None
    if coder.bits is not None:
        low, high = coder.bits
        level = 1 - min(1.0, max(0.0, (bit_rate / sample_rate - low) / (high - low)))
    soundfile.write(
        buffer, waveform, sample_rate, coder.subtype, format=coder.format, compression_level=level
    )
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    return np.asarray(decoded, np.float32)


def _codec_context(name: str, mode: Literal["r", "w"]) -> AudioCodecContext:
    context = CodecContext.create(name, mode)
    assert isinstance(context, AudioCodecContext)
    return context


def _samples(frame: AudioFrame) -> Waveform:
    full_scale = 32_768 if frame.format.name.startswith("s16") else 1
    return (frame.to_ndarray().reshape(-1) / full_scale).astype(np.float32)


@settings
class Codec(Effect):
    """Compressed at a low bit rate: `transcode`."""

    codecs: NotEmpty[CodecName] = ("mp3", "aac", "opus")
    """One is drawn."""
    bit_rate: Annotated[WholeRange, Within(8000, 64_000)] = (8000, 64_000)
    """bit/s, drawn on a logarithmic scale."""

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        codec = self.codecs[int(rng.integers(len(self.codecs)))]
        bit_rate = round(draw_logarithmic(rng, self.bit_rate))
        return transcode(waveform, sample_rate, codec=codec, bit_rate=bit_rate)
