"""Broadcast Wave's data, markers and iXML stay with a wav; what another format cannot hold is named."""

import struct

import numpy as np
import pytest
import soundfile

from enhance_ray import audio
from enhance_ray.audio import Chapter, OutputFormat, wavs

RATE = 16_000
MARKERS = (4_000, 12_000)
HOUR = 3_600 * RATE


def chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def bext():
    body = bytearray(602)
    body[:5], body[256:264] = b"Scene", b"Recorder"
    struct.pack_into("<Q", body, 338, HOUR)
    return bytes(body)


def cue():
    points = [struct.pack("<II4sIII", n, at, b"data", 0, 0, at) for n, at in enumerate(MARKERS, 1)]
    return struct.pack("<I", len(points)) + b"".join(points)


def labels():
    named = b"".join(
        chunk(b"labl", struct.pack("<I", n) + name + b"\0") for n, name in ((1, b"one"), (2, b"two"))
    )
    return named + chunk(b"ltxt", struct.pack("<III4sHHHH", 1, 1_000, 0, b"rgn ", 0, 0, 0, 0)[:20])


IXML = (
    b"<?xml version='1.0'?><BWFXML><SCENE>7A</SCENE><SPEED><FILE_SAMPLE_RATE>16000</FILE_SAMPLE_RATE>"
    b"<AUDIO_BIT_DEPTH>16</AUDIO_BIT_DEPTH><TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI>0"
    b"</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_HI><TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO>57600000"
    b"</TIMESTAMP_SAMPLES_SINCE_MIDNIGHT_LO></SPEED></BWFXML>"
)


@pytest.fixture
def broadcast(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(RATE) / 5), RATE, subtype="PCM_16")
    chunks = chunk(b"cue ", cue()) + chunk(b"LIST", b"adtl" + labels()) + chunk(b"iXML", IXML)
    body = chunk(b"bext", bext()) + path.read_bytes()[12:] + chunks
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)
    return path


def through(source, output, wanted, rate, stored="s16"):
    with audio.decode(str(source)) as decoder:
        info = decoder.info
        [block] = list(decoder)
    target = audio.output_format(info, wanted)
    if wanted == "wav":
        target = OutputFormat(container="wav", codec="pcm", sample_format=stored)
    samples = np.tile(block, 4)[:, : round(block.shape[1] * rate / info.sample_rate)]
    with audio.encode(str(output), sample_rate=rate, channels=1, target=target, source=info) as encoder:
        encoder.write(samples)
    return encoder.remark


@pytest.mark.parametrize("rate", [RATE, 2 * RATE, 44_100])
def test_a_wav_keeps_them_where_they_were_in_time(tmp_path, broadcast, rate):
    assert through(broadcast, tmp_path / "b.wav", "wav", rate, "s24") is None
    content = (tmp_path / "b.wav").read_bytes()
    assert struct.unpack_from("<I", content, 4) == (len(content) - 8,)
    assert soundfile.info(tmp_path / "b.wav").frames == rate
    info = audio.probe(str(tmp_path / "b.wav"))
    assert info.chunks.keys() == {b"bext", b"cue ", b"adtl", b"iXML"}
    assert struct.unpack_from("<Q", info.chunks[b"bext"], 338) == (3_600 * rate,)
    assert info.chunks[b"bext"][:338] == bext()[:338]
    places = [struct.unpack_from("<I4sIII", info.chunks[b"cue "], 8 + 24 * n) for n in range(2)]
    wanted = [round(at * rate / RATE) for at in MARKERS]
    assert [(place[0], place[4]) for place in places] == [(at, at) for at in wanted]
    assert b"one\0" in info.chunks[b"adtl"] and b"two\0" in info.chunks[b"adtl"]
    at = info.chunks[b"adtl"].index(b"ltxt") + 12
    assert struct.unpack_from("<I", info.chunks[b"adtl"], at) == (round(1_000 * rate / RATE),)
    assert b"<FILE_SAMPLE_RATE>%d<" % rate in info.chunks[b"iXML"]
    assert b"<AUDIO_BIT_DEPTH>24<" in info.chunks[b"iXML"]
    assert b"_LO>%d<" % (3_600 * rate) in info.chunks[b"iXML"]
    assert b"<SCENE>7A</SCENE>" in info.chunks[b"iXML"]
    assert [(chapter.start, chapter.title) for chapter in info.chapters] == [
        (pytest.approx(0.25, abs=1e-4), "one"),
        (pytest.approx(0.75, abs=1e-4), "two"),
    ]


@pytest.mark.parametrize(
    ("wanted", "lost"), [("mp3", ["bext", "iXML"]), ("flac", ["bext", "iXML", "markers"])]
)
def test_what_another_format_cannot_hold_is_named(tmp_path, broadcast, wanted, lost):
    remark = through(broadcast, tmp_path / f"b.{wanted}", wanted, 2 * RATE)
    for word in ("bext", "iXML", "markers"):
        assert (word in remark) == (word in lost)
    assert remark.startswith("the output has no place for")
    info = audio.probe(str(tmp_path / f"b.{wanted}"))
    assert [chapter.title for chapter in info.chapters] == (["one", "two"] if wanted == "mp3" else [])
    assert info.tags["time_reference"] == str(2 * HOUR)


def test_chapters_become_markers_of_a_wav(tmp_path, broadcast):
    assert "bext" in through(broadcast, tmp_path / "b.mp3", "mp3", RATE)
    remark = through(tmp_path / "b.mp3", tmp_path / "c.wav", "wav", 2 * RATE)
    assert remark == "the output has no place for its tags time_reference"
    info = audio.probe(str(tmp_path / "c.wav"))
    assert [(round(chapter.start, 2), chapter.title) for chapter in info.chapters] == [
        (0.25, "one"),
        (0.75, "two"),
    ]


def test_markers_of_titles_that_are_no_ascii_and_of_odd_length_are_whole_chunks():
    made = wavs.markers_of((Chapter(0, 1, "Gr\u00fc\u00dfe"), Chapter(1, 2, "")), RATE)
    assert struct.unpack_from("<I", made[b"cue "]) == (2,)
    assert len(made[b"adtl"]) % 2 == 0


def test_chunks_that_are_damaged_or_huge_cost_nothing(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(100), RATE, subtype="PCM_16")
    whole = path.read_bytes()
    for tail in (
        b"bext\xff\xff\xff\x7f",
        chunk(b"bext", b"short"),
        chunk(b"cue ", b"\xff" * 7),
        chunk(b"LIST", b"adtl"),
    ):
        path.write_bytes(whole + tail)
        through(path, tmp_path / f"{len(tail)}.wav", "wav", 2 * RATE)
        assert soundfile.info(tmp_path / f"{len(tail)}.wav").frames == 200
