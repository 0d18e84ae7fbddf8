"""Of damaged files everything that is whole is written, and what is lost is told with its place."""

import io
import json
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from enhance_ray import audio, cli
from enhance_ray.errors import AudioReadError, ConfigError
from enhance_ray.files import recover

RATE = 16_000
SECONDS = 4


def sweep(seconds=SECONDS, rate=RATE):
    """A tone whose frequency tells where it is, 200 Hz more in each second, and some noise."""
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.03 * np.random.default_rng(5).standard_normal(len(time))
    return (0.4 * np.sin(2 * np.pi * (200 * time + 100 * time**2)) + noise).astype(np.float32)


def frequency(samples, at, rate=RATE):
    """Of a quarter of a second from ``at`` on, in Hz."""
    piece = samples[round(at * rate) :][: rate // 4]
    return float(np.argmax(np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 4 * rate)))) / 4


def muxed(muxer, codec, *, seconds=SECONDS, layout="mono", rate=RATE):
    file = io.BytesIO()
    if codec == "vorbis":
        soundfile.write(file, sweep(seconds, rate), rate, format="OGG")
        return file.getvalue()
    with av.open(file, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 64_000
        samples = np.repeat(sweep(seconds, rate), 1 if layout == "mono" else 2)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
        frame.sample_rate = rate
        for part in av.AudioResampler(stream.codec_context.format, layout, rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def recovered(tmp_path, content, *, name="broken.bin", like=None, **options):
    path, out = tmp_path / name, tmp_path / "out.wav"
    path.write_bytes(content)
    if like is not None:
        (tmp_path / "like").write_bytes(like)
        options["like"] = str(tmp_path / "like")
    recovery = recover(str(path), str(out), force=True, **options)
    samples, rate = soundfile.read(out, dtype="float32", always_2d=True)
    assert (rate, samples.shape[1]) == (recovery.sample_rate, recovery.channels)
    assert recovery.seconds == pytest.approx(len(samples) / rate)
    return samples[:, 0], recovery


def without_index(content):
    """An m4a as a recorder leaves it that died: media whose size was never written, and nothing behind."""
    at = content.index(b"mdat")
    size = int.from_bytes(content[at - 4 : at], "big")
    return content[: at - 4] + bytes(4) + content[at : at - 4 + size]


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_an_m4a_without_an_index_is_read_by_another_recording_of_its_device(tmp_path, layout):
    whole = muxed("ipod", "aac", layout=layout)
    broken = without_index(whole)
    with pytest.raises(AudioReadError):
        audio.probe(str((tmp_path / "x.m4a").write_bytes(broken) and tmp_path / "x.m4a"))

    samples, recovery = recovered(tmp_path, broken, like=muxed("ipod", "aac", seconds=1, layout=layout))

    # The index also told of the encoder's delay, which stands at the beginning now.
    assert len(samples) / RATE == pytest.approx(SECONDS, abs=0.15)
    assert recovery.losses == ()
    for at in (0.5, 2, 3.5):
        assert frequency(samples, at) == pytest.approx(200 * (1 + at) + 25, abs=30)


def test_an_m4a_without_an_index_and_a_hole_tells_where_it_is(tmp_path):
    broken = without_index(muxed("ipod", "aac"))
    middle = len(broken) // 2
    broken = broken[:middle] + b"\xa5" * 1500 + broken[middle + 1500 :]

    samples, recovery = recovered(tmp_path, broken, like=muxed("ipod", "aac", seconds=1))

    [loss] = recovery.losses
    assert loss.at == pytest.approx(2, abs=0.2)
    assert 1500 <= loss.bytes < 2500
    assert loss.seconds == pytest.approx(SECONDS * loss.bytes / len(broken), rel=0.2)
    assert len(samples) / RATE == pytest.approx(SECONDS - loss.seconds, abs=0.2)
    assert frequency(samples, len(samples) / RATE - 0.5) == pytest.approx(200 * (1 + SECONDS - 0.5), abs=60)


def test_of_a_video_without_an_index_the_sound_is_found_between_the_pictures(tmp_path):
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=25, width=64, height=64)
        video.pix_fmt = "yuv420p"
        audio_stream = container.add_stream("aac", rate=RATE, layout="mono")
        packets = []
        for number in range(25 * SECONDS):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        frame = av.AudioFrame.from_ndarray(sweep()[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        packets += [*audio_stream.encode(frame), *audio_stream.encode(None)]
        for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    whole = file.getvalue()

    samples, recovery = recovered(tmp_path, without_index(whole), like=whole)

    assert len(samples) / RATE == pytest.approx(SECONDS, abs=0.3)
    assert "were taken for the picture" in recovery.remarks[0]
    for at in (0.5, 3.5):
        assert frequency(samples, at) == pytest.approx(200 * (1 + at) + 25, abs=80)


def test_an_m4a_without_an_index_needs_a_recording_that_is_like_it(tmp_path):
    broken = without_index(muxed("ipod", "aac"))
    with pytest.raises(AudioReadError, match="--like"):
        recovered(tmp_path, broken)
    with pytest.raises(AudioReadError, match="holds alac, and only AAC"):
        recovered(tmp_path, broken, like=muxed("ipod", "alac"))
    with pytest.raises(AudioReadError, match="no sound like that of"):
        recovered(tmp_path, b"\0\0\0\0mdat" + b"\x77" * 5000, like=muxed("ipod", "aac"))


@pytest.mark.parametrize(("muxer", "codec"), [("mp3", "libmp3lame"), ("adts", "aac"), ("mp2", "mp2")])
@pytest.mark.parametrize("junk", [b"", b"\xff" * 3000, b"<html>not here</html>" * 200, bytes(3000)])
def test_frames_behind_damage_are_found_again(tmp_path, muxer, codec, junk):
    content = muxed(muxer, codec)
    third = len(content) // 3
    broken = content[:third] + junk + content[third + 3000 :]  # 3,000 bytes are gone

    samples, recovery = recovered(tmp_path, broken)

    gone = 3000 / len(content) * SECONDS
    assert len(samples) / RATE == pytest.approx(SECONDS - gone, abs=0.3)
    assert frequency(samples, 0.5) == pytest.approx(325, abs=30)
    assert frequency(samples, len(samples) / RATE - 0.5) == pytest.approx(200 * (1 + SECONDS - 0.5), abs=60)
    lost = [loss for loss in recovery.losses if loss.bytes and loss.bytes > 1]
    assert lost
    for loss in lost:
        assert loss.at == pytest.approx(SECONDS / 3, abs=0.3)


def test_a_tag_and_padding_around_an_mp3_are_no_loss(tmp_path):
    content = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + muxed("mp3", "libmp3lame") + b"TAG" + bytes(125)

    samples, recovery = recovered(tmp_path, content)

    assert len(samples) / RATE == pytest.approx(SECONDS, abs=0.2)
    assert recovery.losses == ()


@pytest.mark.parametrize(("muxer", "codec"), [("flac", "flac"), ("ogg", "libopus"), ("ogg", "vorbis")])
def test_what_has_time_stamps_keeps_its_time_over_a_hole(tmp_path, muxer, codec):
    rate, seconds = 48_000 if codec == "libopus" else RATE, 8
    content = bytearray(muxed(muxer, codec, rate=rate, seconds=seconds))
    start, size = len(content) * 6 // 10, len(content) // 20
    content[start : start + size] = bytes(np.random.default_rng(1).integers(0, 256, size, np.uint8))
    with pytest.raises(AudioReadError), audio.decode("x", data=bytes(content)) as decoder:
        list(decoder)

    samples, recovery = recovered(tmp_path, bytes(content))

    assert len(samples) / rate == pytest.approx(seconds, abs=0.1)
    assert any(loss.is_silence for loss in recovery.losses)
    filled = [loss for loss in recovery.losses if loss.seconds]
    assert 2 < filled[0].at < 6
    assert 0.1 < sum(loss.seconds for loss in filled) < 4
    for at in (0.5, 7.5):
        assert frequency(samples, at, rate) == pytest.approx(200 * (1 + at) + 25, abs=30)


def test_what_cannot_be_read_behind_a_seam_is_told(tmp_path):
    content = muxed("ogg", "vorbis", seconds=1) + muxed("ogg", "vorbis", seconds=1, rate=22_050)
    samples, recovery = recovered(tmp_path, content)
    assert len(samples) == pytest.approx(RATE, abs=RATE // 10)
    assert "the rest cannot be read" in recovery.losses[-1].reason


@pytest.mark.parametrize("muxer", ["avi", "matroska"])
def test_of_a_container_that_breaks_off_there_is_what_came_before(tmp_path, muxer):
    content = muxed(muxer, "libmp3lame")
    samples, recovery = recovered(tmp_path, content[: len(content) * 6 // 10])
    assert recovery.codec == "mp3"
    assert len(samples) / RATE == pytest.approx(0.6 * SECONDS, abs=0.4)
    assert frequency(samples, 0.5) == pytest.approx(325, abs=40)
    assert all(loss.at == pytest.approx(len(samples) / RATE, abs=0.1) for loss in recovery.losses)


def test_an_unfinished_wav_has_what_is_there_and_one_that_breaks_off_says_so(tmp_path):
    file = io.BytesIO()
    soundfile.write(file, sweep(), RATE, format="WAV")
    content = file.getvalue()
    at = content.index(b"data") + 4

    samples, recovery = recovered(tmp_path, content[:at] + bytes(4) + content[at + 4 :])
    assert len(samples) == SECONDS * RATE
    assert "announces 0 bytes" in recovery.remarks[0]
    assert recovery.losses == ()

    samples, recovery = recovered(tmp_path, content[: len(content) // 2])
    assert len(samples) == pytest.approx(SECONDS * RATE / 2, abs=50)
    [loss] = recovery.losses
    assert loss.at == pytest.approx(SECONDS / 2, abs=0.01)
    assert "bytes are missing" in loss.reason


def test_a_wav_without_a_header_is_read_as_another_one_says(tmp_path):
    file = io.BytesIO()
    soundfile.write(file, sweep(), RATE, format="WAV", subtype="PCM_24")
    whole = file.getvalue()
    start = whole.index(b"data") + 8
    broken = bytes(start) + whole[start:]

    samples, recovery = recovered(tmp_path, broken, like=whole)

    assert len(samples) == pytest.approx(SECONDS * RATE, abs=20)
    assert "from byte 44 on" in recovery.remarks[0]
    assert frequency(samples, 2) == pytest.approx(625, abs=30)


def test_bytes_that_are_no_sound_are_refused_in_a_line(tmp_path):
    noise = bytes(np.random.default_rng(0).integers(0, 256, 50_000, np.uint8))
    for content in (b"", b"text " * 1000, noise, bytes(5000)):
        with pytest.raises(AudioReadError) as error:
            recovered(tmp_path, content)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"must end in \.wav or \.flac"):
        recover(str(tmp_path / "broken.bin"), str(tmp_path / "out.mp3"))


def test_the_command_reports_in_words_and_in_json(tmp_path, capsys):
    content = muxed("mp3", "libmp3lame")
    (tmp_path / "a.mp3").write_bytes(content[:8000] + b"x" * 2000 + content[10_000:])

    assert cli.main(["recover", str(tmp_path / "a.mp3")]) == 0
    words = capsys.readouterr().out
    assert f"s of mp3 recovered: {tmp_path / 'a.recovered.wav'}" in words
    assert "lost at 1." in words
    assert cli.main(["recover", str(tmp_path / "a.mp3"), str(tmp_path / "a.flac"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output"] == str(tmp_path / "a.flac")
    assert report["losses"][0]["bytes"] > 1000
    assert cli.main(["recover", str(tmp_path / "a.mp3")]) == 1
    assert "it exists" in capsys.readouterr().err
