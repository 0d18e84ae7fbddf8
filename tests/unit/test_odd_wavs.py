"""Wavs whose sizes say nothing are read to their end, with a word; those that are cut off are not."""

import io
import struct

import numpy as np
import pytest
import soundfile

from enhance_ray import audio
from enhance_ray.errors import AudioReadError

RATE = 16_000
SIZE = 2 * RATE  # of a second


def tone():
    return (0.5 * np.sin(np.arange(RATE) * 0.17)).astype(np.float32)


def wav(data, size=None, *, riff=None, order="<", magic=None, behind=b"", ds64=None, bits=16, coding=1):
    """A wav with whatever sizes; correct ones by default."""
    magic = magic or (b"RIFF" if order == "<" else b"RIFX")
    extra = b"" if ds64 is None else b"ds64" + struct.pack("<IQQQI", 28, 0, ds64, 0, 0)
    width = bits // 8
    body = struct.pack(f"{order}HHIIHH", coding, 1, RATE, RATE * width, width, bits)
    chunks = extra + b"fmt " + struct.pack(f"{order}I", 16) + body
    chunks += b"data" + struct.pack(f"{order}I", len(data) if size is None else size) + data + behind
    return magic + struct.pack(f"{order}I", 4 + len(chunks) if riff is None else riff) + b"WAVE" + chunks


def samples(order="<", dtype="i2"):
    scaled = tone() if dtype.startswith("f") else np.round(tone() * 32767)
    return scaled.astype(f"{order}{dtype}").tobytes()


def decoded(content):
    with audio.decode("odd.wav", data=content) as decoder:
        blocks = np.concatenate(list(decoder), axis=1)
        assert decoder.info.frames == blocks.shape[1]
        return blocks[0], decoder.warning


@pytest.mark.parametrize(
    "size", [0, 0x7FFF_F000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xFFFF_FFDB, 1000], ids=hex
)
@pytest.mark.parametrize(("dtype", "coding"), [("i2", 1), ("f4", 3)])
def test_what_is_there_is_read_where_the_size_says_nothing(size, dtype, coding):
    data = samples(dtype=dtype)
    content = wav(data, size, riff=min(size + 36, 0xFFFF_FFFF), bits=8 * int(dtype[1]), coding=coding)

    waveform, warning = decoded(content)

    np.testing.assert_allclose(waveform, tone(), atol=2e-4)
    assert f"announces {size:,} bytes" in warning
    assert f"{len(data):,} are there" in warning


@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
def test_an_rf64_whose_sizes_were_never_written_is_read(magic):
    waveform, warning = decoded(wav(samples(), 0xFFFF_FFFF, magic=magic, riff=0xFFFF_FFFF, ds64=0))

    assert len(waveform) == RATE
    assert "announces 0 bytes" in warning
    whole, warning = decoded(wav(samples(), 0xFFFF_FFFF, magic=magic, riff=0xFFFF_FFFF, ds64=SIZE))
    assert (len(whole), warning) == (RATE, None)


@pytest.mark.parametrize(
    ("kind", "size", "warns"),
    [
        ("AU", struct.pack(">I", 0), True),
        ("AU", struct.pack(">I", 0x7FFF_F000), True),
        ("AU", struct.pack(">I", 0xFFFF_FFFF), False),  # which is in order there
        ("CAF", struct.pack(">q", 0), True),
        ("CAF", struct.pack(">q", -1), False),
        ("W64", struct.pack("<q", 0), True),
        ("W64", struct.pack("<q", 24), True),
        ("W64", struct.pack("<q", 2**63 - 1), True),
    ],
)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_other_containers_of_plain_samples_are_read_to_their_end_as_well(kind, size, warns, subtype):
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=kind, subtype=subtype)
    whole = file.getvalue()
    at = {"AU": 8, "CAF": whole.find(b"data") + 4, "W64": whole.find(b"data") + 16}[kind]

    waveform, warning = decoded(whole[:at] + size + whole[at + len(size) :])

    np.testing.assert_allclose(waveform, tone(), atol=2e-4)
    assert bool(warning) == warns
    with pytest.raises(AudioReadError, match="it breaks off"):
        decoded(whole[: len(whole) // 2])


def test_a_recording_of_silence_is_one():
    waveform, _ = decoded(wav(bytes(SIZE), 0))

    assert len(waveform) == RATE


def test_a_big_endian_wav_is_read_as_such():
    waveform, warning = decoded(wav(samples(">"), order=">"))

    np.testing.assert_allclose(waveform, tone(), atol=2e-4)
    assert warning is None
    with pytest.raises(AudioReadError, match="RIFX"):
        decoded(wav(samples(">"), order=">", coding=2))


@pytest.mark.parametrize(
    "behind",
    [
        b"LIST" + struct.pack("<I", 4000) + bytes(4000),
        b"cue " + struct.pack("<I", 2000) + bytes(2000),
        b"\0LIST" + struct.pack("<I", 4000) + bytes(4000),
        b"TAG" + bytes(125),
        bytes(5000),
    ],
    ids=["LIST", "cue", "pad", "ID3v1", "zeros"],
)
@pytest.mark.parametrize("frames", [0, 500, RATE])
def test_what_stands_behind_the_samples_is_no_sound(behind, frames):
    content = wav(samples()[: 2 * frames], behind=behind)

    if frames:
        waveform, warning = decoded(content)
        assert (len(waveform), warning) == (frames, None)
    elif behind[:1] != b"\0":  # nothing but zeros may be a recording
        with pytest.raises(AudioReadError, match="no samples"):
            decoded(content)


def test_a_wav_that_was_cut_off_is_still_an_error():
    for announced in (SIZE, 0x1234_5678):
        with pytest.raises(AudioReadError, match="it breaks off"):
            decoded(wav(samples()[: SIZE // 2], announced))


def test_every_plain_coding_of_soundfile_is_found_by_its_tag():
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"):
        file = io.BytesIO()
        soundfile.write(file, tone(), RATE, format="WAV", subtype=subtype)
        whole = file.getvalue()
        at = whole.index(b"data") + 4

        waveform, warning = decoded(whole[:at] + bytes(4) + whole[at + 4 :])

        np.testing.assert_allclose(waveform, decoded(whole)[0], atol=1e-6)
        assert warning


@pytest.mark.parametrize("pad", [0, 1])
def test_a_pad_byte_that_counts_as_a_sample_is_none(pad):
    body = struct.pack("<HHIIHHHH", 49, 1, 8000, 1625, 65, 0, 2, 320)  # GSM 06.10 as sox writes it
    data = bytes(65) * 25 + bytes(pad)
    chunks = b"fmt " + struct.pack("<I", len(body)) + body + b"data" + struct.pack("<I", len(data)) + data
    content = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks

    with audio.decode("odd.wav", data=content) as decoder:
        assert sum(block.shape[1] for block in decoder) == 8000


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF", "OGG"])
@pytest.mark.parametrize("tags", [1, 2])
def test_id3_tags_before_a_header_are_read_and_left_out(kind, tags):
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=kind)
    title = b"TIT2" + struct.pack(">IH", 6, 0) + b"\x03Title"
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 0, len(title) + 30]) + title + bytes(30)

    with audio.decode("odd", data=tags * tag + file.getvalue()) as decoder:
        waveform = np.concatenate(list(decoder), axis=1)[0]

    assert len(waveform) == RATE
    np.testing.assert_allclose(waveform, tone(), atol=0.1 if kind == "OGG" else 1e-4)
    assert decoder.info.tags["title"] == "Title"


def test_a_tag_in_the_code_page_of_old_windows_is_read():
    value = "Gr\u00f6\u00dfe \u2013 caf\u00e9".encode("cp1252") + b"\0"
    value += b"\0" * (len(value) % 2)
    inam = b"INAM" + struct.pack("<I", len(value)) + value
    listed = b"LIST" + struct.pack("<I", 4 + len(inam)) + b"INFO" + inam
    content = wav(samples(), behind=listed)

    with audio.decode("odd.wav", data=content) as decoder:
        assert decoder.info.tags["title"] == "Gr\u00f6\u00dfe \u2013 caf\u00e9"
