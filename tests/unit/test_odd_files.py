"""Files of odd sizes, chunks and names, drawn at random: read with the right length, or refused in a line.

A larger search: ENHANCE_RAY_EXAMPLES=1000 python -m pytest tests/unit/test_odd_files.py
"""

import io
import os
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from enhance_ray import audio
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioReadError
from enhance_ray.files import enhance_files, plan_jobs, recover
from enhance_ray.settings.options import EnhanceOptions

EXAMPLES = int(os.environ.get("ENHANCE_RAY_EXAMPLES", "60"))
searched = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
RATE = 8000
OPEN_ENDS = (0, 0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF)
CODINGS = {(1, 2): "<i2", (1, 3): None, (1, 4): "<i4", (3, 4): "<f4", (3, 8): "<f8", (1, 1): "u1"}


def tone(frames, channels):
    wave = 0.5 * np.sin(np.arange(frames) * 0.2)
    return np.repeat(wave[:, None], channels, axis=1)


def packed(values, coding, width):
    if coding == 3:
        return values.astype(CODINGS[coding, width]).tobytes()
    if width == 1:
        return (np.round(values * 127) + 128).astype(np.uint8).tobytes()
    whole = np.round(values * (2 ** (8 * width - 1) - 1)).astype("<i4")
    if width == 3:
        return whole[..., None].view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    return whole.astype(CODINGS[coding, width]).tobytes()


def chunk(name, body, *, padded=True):
    return name + struct.pack("<I", len(body)) + body + (b"\0" if padded and len(body) % 2 else b"")


def decoded(content, name="odd"):
    """Samples (channel, time) and the warning; or the reason, if it is refused, in one line."""
    try:
        with audio.decode(name, data=content) as decoder:
            return np.concatenate(list(decoder), axis=1), decoder.warning
    except AudioReadError as error:
        assert "\n" not in error.reason and len(error.reason) < 300
        return None, error.reason


@searched
@given(
    frames=st.integers(1, 3000),
    channels=st.integers(1, 3),
    coding=st.sampled_from(sorted(CODINGS)),
    before=st.lists(st.tuples(st.sampled_from([b"LIST", b"JUNK", b"bext", b"fact"]), st.binary(max_size=99))),
    behind=st.lists(
        st.tuples(st.sampled_from([b"LIST", b"cue ", b"id3 "]), st.binary(max_size=99)), max_size=2
    ),
    size=st.sampled_from([None, None, *OPEN_ENDS]),
    riff=st.sampled_from([None, 0, 0xFFFF_FFFF]),
    tag=st.booleans(),
)
def test_a_wav_has_all_of_its_samples_whatever_its_sizes_say(
    frames, channels, coding, before, behind, size, riff, tag
):
    values = tone(frames, channels)
    data = packed(values, *coding)
    width = coding[1] * channels
    form = struct.pack("<HHIIHH", coding[0], channels, RATE, RATE * width, width, 8 * coding[1])
    # Behind samples whose size is not told nobody can tell what is a sample.
    rest = b"" if size is not None else b"".join(chunk(name, body) for name, body in behind)
    sound = data + (b"\0" if len(data) % 2 and size is None else b"")
    chunks = b"".join(chunk(name, body) for name, body in before) + chunk(b"fmt ", form)
    chunks += b"data" + struct.pack("<I", len(data) if size is None else size) + sound + rest
    content = b"RIFF" + struct.pack("<I", 4 + len(chunks) if riff is None else riff) + b"WAVE" + chunks
    if tag:
        content = b"ID3\x04\0\0" + bytes([0, 0, 0, 20]) + bytes(20) + content

    got, word = decoded(content)

    assert got is not None, word
    assert got.shape == (channels, frames)
    np.testing.assert_allclose(got.T, values, atol=0.02 if coding[1] == 1 else 1e-3)
    assert (word is not None) == (size is not None)


@searched
@given(
    frames=st.integers(20, 3000),
    subtype=st.sampled_from(["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]),
    size=st.sampled_from([*OPEN_ENDS, 8]),
)
def test_an_aiff_whose_size_was_never_written_has_all_of_its_samples(frames, subtype, size):
    file = io.BytesIO()
    soundfile.write(file, tone(frames, 2), RATE, format="AIFF", subtype=subtype)
    content = bytearray(file.getvalue())
    place = content.index(b"SSND") + 4
    announced = int.from_bytes(content[place : place + 4], "big")
    del content[place + 4 + announced :]  # nothing behind it that could be taken for samples
    content[place : place + 4] = size.to_bytes(4, "big")
    count = content.index(b"COMM") + 10
    content[count : count + 4] = bytes(4)  # which is written at the end, too
    got, word = decoded(bytes(content))
    assert got is not None, word
    assert got.shape == (2, frames)
    np.testing.assert_allclose(got[0], tone(frames, 1)[:, 0], atol=0.02)
    assert f"announces {max(0, size - 8):,} bytes" in word


@searched
@given(
    frames=st.integers(50, 3000),
    kind=st.sampled_from(["WAV", "AIFF", "AU", "CAF", "W64", "FLAC", "OGG", "MP3"]),
    kept=st.floats(0.0, 1.0),
)
def test_what_is_cut_off_is_refused_or_as_long_as_what_is_there(frames, kind, kept):
    file = io.BytesIO()
    soundfile.write(file, tone(frames, 1), RATE, format=kind)
    whole = file.getvalue()
    cut = whole[: round(kept * len(whole))]
    got, _ = decoded(cut)
    if got is not None:
        complete, _ = decoded(whole)
        assert got.shape[1] <= complete.shape[1]
        # Bare streams may end anywhere, and the rest of a chunk may be padding.
        assert kind in ("MP3", "AU", "AIFF") or len(cut) > len(whole) - 64 or got.shape[1] == frames


@searched
@given(data=st.binary(max_size=3000), head=st.sampled_from([b"", b"RIFF", b"OggS", b"fLaC", b"ID3", b"FORM"]))
def test_bytes_that_are_no_sound_are_refused_in_a_line(data, head):
    got, reason = decoded(head + data)
    assert got is not None or reason


@searched
@given(
    kind=st.sampled_from(["WAV", "AIFF", "AU", "CAF", "W64", "FLAC", "OGG", "MP3"]),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_bytes_that_were_changed_end_in_sound_or_in_a_line(kind, flips):
    file = io.BytesIO()
    soundfile.write(file, tone(2000, 1), RATE, format=kind)
    content = bytearray(file.getvalue())
    for place, value in flips:
        content[min(len(content) - 1, int(place * len(content)))] = value
    got, reason = decoded(bytes(content))
    assert got is not None or reason
    if got is not None:
        assert np.isfinite(got).all()


@searched
@given(
    kind=st.sampled_from(["WAV", "AIFF", "AU", "CAF", "W64", "FLAC", "OGG"]),
    links=st.lists(
        st.tuples(st.integers(1, 2000), st.sampled_from([RATE, RATE, 16_000])), min_size=1, max_size=4
    ),
    behind=st.sampled_from([b"", b"", bytes(100), b"TAG" + bytes(125)]),
)
def test_recordings_one_behind_the_other_are_all_read_or_refused(kind, links, behind):
    content, lengths = b"", []
    for frames, rate in links:
        file = io.BytesIO()
        soundfile.write(file, tone(frames, 2), rate, format=kind)
        content += file.getvalue()
        lengths.append(frames)
    got, word = decoded(content + behind)
    if got is None:
        assert len({rate for _, rate in links}) > 1 or (behind and kind == "OGG"), word
    else:
        assert len({rate for _, rate in links}) == 1
        assert got.shape == (2, sum(lengths))


@searched
@given(
    kind=st.sampled_from(["MP3", "FLAC", "OGG", "WAV", "AIFF"]),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 400), st.binary(max_size=200)), max_size=4),
)
def test_what_can_be_read_of_damaged_files_is_written_or_nothing_is(kind, cuts):
    file = io.BytesIO()
    soundfile.write(file, tone(8000, 1), RATE, format=kind)
    content = file.getvalue()
    for place, size, junk in cuts:
        start = round(place * len(content))
        content = content[:start] + junk + content[start + size :]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "broken"), Path(folder, "out.wav")
        source.write_bytes(content)
        try:
            recovery = recover(str(source), str(target))
        except AudioReadError as error:
            assert "\n" not in error.reason
            assert list(Path(folder).iterdir()) == [source]
        else:
            assert soundfile.info(target).frames == round(recovery.seconds * recovery.sample_rate)
            assert all(0 <= loss.at <= recovery.seconds for loss in recovery.losses)


names = st.binary(min_size=1, max_size=20).filter(
    lambda name: not set(name) & {0, ord("/")} and not name.startswith((b".", b" ")) and name.strip() == name
)


@settings(max_examples=max(10, EXAMPLES // 6), deadline=None, derandomize=True)
@given(stems=st.lists(names, min_size=1, max_size=4, unique=True))
@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_any_name_that_a_folder_holds_is_restored_under_that_name(stems):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        written = sorted(os.fsdecode(stem + b".wav") for stem in stems)
        for name in written:
            with (source / name).open("wb") as file:
                soundfile.write(file, tone(800, 1), RATE, format="WAV")
        jobs = plan_jobs(str(source), str(target), EnhanceOptions())
        engine = Enhancer(nn.Identity(), device="cpu", precision="fp32")
        report = Path(folder, "report.jsonl")
        records = list(enhance_files(jobs, engine, report_path=report))
        assert [record.status for record in records] == ["done"] * len(stems)
        assert sorted(path.name for path in target.iterdir()) == written
        report.read_text("utf-8")
