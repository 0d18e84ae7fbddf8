"""Oggs that are several recordings one behind the other are read to their end, or refused."""

import numpy as np
import pytest

from enhance_ray import audio
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioReadError
from enhance_ray.files import Job, enhance_files
from enhance_ray.settings.options import EnhanceOptions


def tone(rate, channels=1, seconds=1.0):
    return np.tile((0.5 * np.sin(np.arange(int(seconds * rate)) * 0.1)).astype(np.float32), (channels, 1))


def ogg(path, codec, rate=16_000, channels=1, seconds=1.0):
    stored = "s16" if codec == "flac" else "f32"
    rates = {} if codec == "flac" else {"bit_rate": 64_000 * channels}
    target = audio.OutputFormat(container="ogg", codec=codec, sample_format=stored, **rates)
    with audio.encode(str(path), sample_rate=rate, channels=channels, target=target) as encoder:
        encoder.write(tone(rate, channels, seconds))
    return path.read_bytes()


def decoded(content, **options):
    with audio.decode("chain.ogg", data=content, **options) as decoder:
        return np.concatenate(list(decoder), axis=1), decoder


@pytest.mark.parametrize("codec", ["vorbis", "opus", "flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_chain_is_read_to_its_end_whatever_the_serial_numbers(tmp_path, codec, channels):
    first = ogg(tmp_path / "a.ogg", codec, channels=channels)
    other = ogg(tmp_path / "b.ogg", codec, channels=channels, seconds=0.5)
    one, _ = decoded(first)
    two, decoder = decoded(other)

    chained, _ = decoded(first + other + first)

    rate = decoder.info.sample_rate
    assert chained.shape == (channels, 2 * one.shape[1] + two.shape[1])
    assert chained.shape[1] == pytest.approx(2.5 * rate, abs=0.05 * rate)
    np.testing.assert_array_equal(chained, np.concatenate([one, two, one], axis=1))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"rate": 22_050}, "a chain of 2 recordings of 16000 Hz with 1 channels and 22050 Hz with 1"),
        ({"channels": 2}, "16000 Hz with 1 channels and 16000 Hz with 2"),
    ],
)
def test_a_chain_of_different_kinds_is_refused_and_never_half_of_it_done(tmp_path, other, reason):
    content = ogg(tmp_path / "a.ogg", "vorbis") + ogg(tmp_path / "b.ogg", "vorbis", **other)

    with pytest.raises(AudioReadError, match=reason):
        decoded(content)


def test_a_chain_whose_last_link_breaks_off_is_damaged(tmp_path):
    content, other = ogg(tmp_path / "a.ogg", "opus"), ogg(tmp_path / "b.ogg", "opus", seconds=6)

    for kept in (len(other) * 2 // 3, 40):
        with pytest.raises(AudioReadError, match="breaks off within an Ogg page"):
            decoded(content + other[:kept])
        waveform, decoder = decoded(content + other[:kept], partial=True)
        seconds = waveform.shape[1] / decoder.info.sample_rate
        assert seconds > 3 if kept > 40 else seconds == pytest.approx(1, abs=0.05)
        assert "breaks off" in decoder.warning


def test_flac_in_ogg_stays_lossless_and_keeps_its_name(tmp_path):
    ogg(tmp_path / "a.ogg", "flac", rate=44_100)
    out = tmp_path / "out.ogg"

    (record,) = enhance_files(
        [Job(str(tmp_path / "a.ogg"), str(out))], Enhancer.load(), EnhanceOptions(strength=0)
    )

    assert record.status == "done", record.reason
    waveform, decoder = decoded(out.read_bytes())
    info = decoder.info
    assert (info.container, info.codec, info.sample_format) == ("ogg", "flac", "s16")
    assert waveform.shape == (1, 44_100)
