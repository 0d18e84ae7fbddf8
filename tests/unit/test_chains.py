"""Files that are several recordings one behind the other are read to their end, or refused; never half."""

import io
import struct

import av
import numpy as np
import pytest
import soundfile

from enhance_ray import audio
from enhance_ray.audio.chains import find_links
from enhance_ray.audio.storage import CallbackFile, read_error
from enhance_ray.errors import AudioReadError

RATE = 16_000


def tone(seconds=0.5, rate=RATE):
    return (0.5 * np.sin(np.arange(round(seconds * rate)) * 0.17)).astype(np.float32)


def written(kind, *, rate=RATE, seconds=0.5):
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, rate), rate, format=kind)
    return file.getvalue()


def m4a(seconds=0.5):
    file = io.BytesIO()
    with av.open(file, "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(seconds)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def tta(seconds):
    file = io.BytesIO()
    with av.open(file, "w", format="tta") as container:
        stream = container.add_stream("tta", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone(seconds) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def decoded(content):
    with audio.decode("chain", data=content) as decoder:
        blocks = np.concatenate(list(decoder), axis=1)
        return blocks[0], decoder.info


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "W64", "FLAC"])
def test_what_cat_makes_of_several_files_has_all_of_them(kind):
    first, other = written(kind), written(kind, seconds=0.25)

    waveform, info = decoded(first + other + first)

    parts = [decoded(part)[0] for part in (first, other, first)]
    np.testing.assert_array_equal(waveform, np.concatenate(parts))
    assert len(waveform) == 1.25 * RATE
    assert kind == "FLAC" or info.frames == len(waveform)  # where a flac ends is known when it was read


def test_two_tta_in_one_file_are_both_read_and_bytes_behind_one_are_not():
    first, other = tta(1.5), tta(0.5)
    waveform, info = decoded(first + other)
    np.testing.assert_array_equal(waveform, np.concatenate([decoded(first)[0], decoded(other)[0]]))
    assert info.frames == len(waveform) == 2 * RATE
    assert len(decoded(first + b"APETAGEX" + bytes(100))[0]) == 1.5 * RATE


def test_two_m4a_in_one_file_are_both_read():
    one = decoded(m4a())[0]

    assert len(decoded(m4a() + m4a())[0]) == 2 * len(one)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "W64", "FLAC"])
def test_recordings_of_different_rates_in_one_file_are_refused(kind):
    with pytest.raises(AudioReadError, match=r"a chain of 2 recordings of 8000 Hz .* and 16000 Hz"):
        decoded(written(kind) + written(kind, rate=8000))


def test_samples_that_look_like_the_beginning_of_a_file_are_samples():
    data = bytearray((tone() * 32767).astype("<i2").tobytes())
    data[2000:2012] = b"RIFF\x24\0\0\0WAVE"
    data[4000:4008] = b"fLaC\0\0\0\x22"
    form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    for size in (len(data), 0):
        content = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + data
        assert len(decoded(b"RIFF" + struct.pack("<I", len(content)) + content)[0]) == RATE // 2


def test_silence_whose_size_says_nothing_is_not_walked_through_in_steps():
    reads = []

    class Counted(io.BytesIO):
        def read(self, size=-1):
            reads.append(size)
            return super().read(size)

    form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    silence = bytes(2_000_000)
    content = b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + bytes(4) + silence

    assert find_links(CallbackFile(Counted(content), "silence.wav", read_error)) == [0]
    assert len(reads) < 10
