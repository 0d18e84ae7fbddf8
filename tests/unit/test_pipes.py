"""Recordings through pipes: as they come, what was asked for, and one error where that cannot be."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from torch import nn

from enhance_ray import cli
from enhance_ray.audio.pipes import PipeDecoder, RawFormat, unpack
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioError, AudioReadError, ConfigError
from enhance_ray.files import enhance_pipe, is_pipe
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
OPTIONS = EnhanceOptions(segment_seconds=1, overlap_seconds=0.1, context_seconds=0.1)


def noise(seconds=2.5, channels=1, seed=0):
    values = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * RATE), channels))
    return np.rint(values * 32768).astype(np.int16)


def encoded(values, kind, rate=RATE):
    file = io.BytesIO()
    soundfile.write(file, values, rate, format=kind)
    return file.getvalue()


class OneWay:
    """Bytes as a pipe gives them: in small parts, forward alone."""

    def __init__(self, data, part=1000):
        self._file, self._part = io.BytesIO(data), part

    def read1(self, size=-1):
        return self._file.read(min(size, self._part) if size >= 0 else self._part)

    def read(self, size=-1):
        return self._file.read(size)


def decoded(data, **settings):
    decoder = PipeDecoder(OneWay(data), "the pipe", **settings)
    return np.concatenate(list(decoder), axis=1), decoder


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "W64", "AU"])
def test_what_needs_no_index_at_its_end_is_read_as_it_comes(kind):
    values = noise(channels=2)
    got, decoder = decoded(encoded(values, kind))
    np.testing.assert_array_equal(np.rint(got.T * 32768), values)
    assert (decoder.info.sample_rate, decoder.info.channels, decoder.info.sample_format) == (RATE, 2, "s16")


def test_a_wav_of_unknown_length_is_read_to_its_end():
    data = bytearray(encoded(noise(), "WAV"))
    data[4:8] = b"\xff" * 4
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff" * 4
    np.testing.assert_array_equal(np.rint(decoded(bytes(data))[0][0] * 32768), noise()[:, 0])


@pytest.mark.parametrize(
    ("kind", "scale", "error"),
    [
        ("s16le", 2**15, 0),
        ("s16be", 2**15, 0),
        ("s24le", 2**23, 0),
        ("s24be", 2**23, 0),
        ("s32le", 2**31, 300),
        ("f32le", None, 0),
        ("f64be", None, 1e-8),
        ("s8", 2**7, 0),
    ],
)
def test_samples_without_a_header_are_what_they_are_said_to_be(kind, scale, error):
    rng = np.random.default_rng(0)
    if scale is None:
        values = rng.uniform(-1, 1, (500, 2)).astype(np.float32)
        data = values.astype({"f32le": "<f4", "f64be": ">f8"}[kind]).tobytes()
        scale = 1
    else:
        values = rng.integers(-scale, scale, (500, 2))
        order, width = ("big" if kind.endswith("be") else "little"), RawFormat(kind, RATE, 1).bytes
        data = b"".join(int(value).to_bytes(width, order, signed=True) for value in values.ravel())
    raw = RawFormat.parse(f"{kind}:8000:2")
    np.testing.assert_allclose(unpack(data, raw).T * scale, values, atol=error)
    got, decoder = decoded(data + b"\x01", raw=raw)
    assert got.shape == (2, 500) and decoder.info.sample_rate == 8000
    if raw.bytes > 1:
        assert "1 bytes behind the last whole sample" in decoder.warning


def test_what_raw_means_is_told_where_it_is_not_understood():
    assert RawFormat.parse("S16LE") == RawFormat("s16le", 44_100, 1)
    assert RawFormat.parse("u8:8000") == RawFormat("u8", 8000, 1)
    for text in ("pcm", "s16le:", "s16le:x", "s16le:8000:1:1"):
        with pytest.raises(ConfigError, match="s16le:48000:2"):
            RawFormat.parse(text)
    for text in ("s16le:1:1", "s16le:8000:99"):
        with pytest.raises(AudioError):
            RawFormat.parse(text)


def test_what_a_pipe_cannot_bring_is_one_error():
    with pytest.raises(AudioReadError, match="--raw"):
        decoded(b"no sound at all" * 100)
    with pytest.raises(AudioReadError):
        decoded(b"")
    with pytest.raises(AudioReadError, match="no samples"):
        decoded(b"", raw=RawFormat("s16le", 8000, 1))
    whole = encoded(noise(), "FLAC")
    with pytest.raises(AudioReadError, match="the pipe"):
        decoded(whole[:4000] + bytes(200) + whole[5000:9000])


def test_a_named_pipe_is_restored_into_another_before_it_ends(tmp_path):
    """The first segments are there while the pipe is still open."""
    source, target = str(tmp_path / "in"), str(tmp_path / "out")
    os.mkfifo(source), os.mkfifo(target)
    assert is_pipe(source) and is_pipe("-") and not is_pipe(str(tmp_path))
    values, written, waiting = noise(16), bytearray(), threading.Event()  # levels look ahead 4 s

    def feed():
        with Path(source).open("wb") as pipe:
            data = values.tobytes()
            pipe.write(data[: len(data) // 2])
            pipe.flush()
            assert waiting.wait(30)  # for the beginning of the answer
            pipe.write(data[len(data) // 2 :])

    def read():
        with Path(target).open("rb", buffering=0) as pipe:
            while data := pipe.read(4096):
                written.extend(data)
                if len(written) > RATE:  # half a second of it
                    waiting.set()

    threads = [threading.Thread(target=work) for work in (feed, read)]
    for thread in threads:
        thread.start()
    engine = Enhancer(nn.Identity(), device="cpu", precision="fp32")
    facts = enhance_pipe(source, target, engine, OPTIONS, raw=RawFormat("s16le", RATE, 1))
    for thread in threads:
        thread.join(30)
    assert facts.seconds == 16.0
    with av.open(io.BytesIO(bytes(written))) as container:
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    np.testing.assert_array_equal(heard, values[:, 0])


@pytest.mark.parametrize(("wanted", "magic"), [("wav", b"RIFF"), ("flac", b"fLaC"), ("mp3", b"ID3")])
def test_a_file_goes_to_a_pipe_in_the_format_that_is_asked_for(tmp_path, wanted, magic):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(noise(), "WAV"))
    target = str(tmp_path / "out")
    os.mkfifo(target)
    got = []
    thread = threading.Thread(target=lambda: got.append(Path(target).read_bytes()))
    thread.start()
    options = EnhanceOptions(format=wanted, segment_seconds=1, overlap_seconds=0.1, context_seconds=0.1)
    enhance_pipe(str(path), target, Enhancer(nn.Identity(), device="cpu", precision="fp32"), options)
    thread.join(30)
    assert got[0].startswith(magic)
    with av.open(io.BytesIO(got[0])) as container:
        assert sum(f.samples for f in container.decode(audio=0)) == pytest.approx(2.5 * RATE, abs=3000)


def test_a_pipe_takes_no_format_with_an_index_in_front(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(noise(), "WAV"))
    engine = Enhancer(nn.Identity(), device="cpu", precision="fp32")
    with pytest.raises(ConfigError, match="m4a has its index in front"):
        enhance_pipe(str(path), "-", engine, EnhanceOptions(format="m4a"))


def test_the_command_line_is_a_filter():
    """Sound to standard output and nothing else; words to standard error."""
    command = [
        sys.executable,
        "-m",
        "enhance_ray",
        "denoise",
        "-",
        "-",
        "--raw",
        "s16le:16000",
        "--rate",
        "keep",
    ]
    ended = subprocess.run(command, input=noise(1).tobytes(), capture_output=True, check=True, timeout=120)
    values, rate = soundfile.read(io.BytesIO(ended.stdout), dtype="int16")
    assert (rate, values.size) == (16_000, RATE)
    assert b"2.8 s of audio done" in ended.stderr


def test_files_settings_are_refused_for_pipes(capsys):
    assert cli.main(["denoise", "-", "-", "--resume"]) == 2
    assert "are for files, not for pipes" in capsys.readouterr().err
    assert cli.main(["denoise", "-", "out.wav", "--raw", "pcm"]) == 2
    assert "s16le:48000:2" in capsys.readouterr().err
