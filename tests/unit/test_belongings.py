"""What belongs to a recording stays with it: picture, other sounds, chapters, cover, and the clock of all."""

import contextlib
import dataclasses
import hashlib
from fractions import Fraction
from pathlib import Path

import av
import mutagen
import numpy as np
import pytest
from av.stream import Disposition
from mutagen.flac import Picture
from mutagen.id3 import ID3
from mutagen.mp4 import MP4
from torch import nn

from enhance_ray import audio
from enhance_ray.audio import Chapter, Cover, OutputFormat
from enhance_ray.audio.belongings import lost_in_stream
from enhance_ray.audio.pipes import PipeDecoder
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioReadError
from enhance_ray.files import Job, enhance_files
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
CLICK = 0.5
"""Seconds from the first sample of a sound to where it clicks."""
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001"
    "a5f645400000000049454e44ae426082"
)
NO_VIDEO = "the output has no place for its video"
CHAPTERS = (Chapter(0.0, 0.5, "One"), Chapter(0.5, 1.5, "Two"))


def sound(frequency, seconds=1.5):
    """A quiet tone and a loud click."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = 0.05 * np.sin(2 * np.pi * frequency * time)
    tone[round(CLICK * RATE) :][:20] += 0.8
    return tone[None].astype(np.float32)


def film(path, muxer, sounds, *, codec="aac", start=0.0):
    """Two seconds of a picture at 25 frames a second, and ``sounds`` by language that begin at ``start``."""
    with av.open(str(path), "w", format=muxer) as container:
        video = container.add_stream("mpeg4" if muxer != "webm" else "libvpx", rate=25, width=32, height=32)
        video.pix_fmt = "yuv420p"
        streams = []
        sounds = list(sounds.items()) if isinstance(sounds, dict) else sounds
        for language, _ in sounds:
            rate = 48_000 if codec == "libopus" else RATE
            stream = container.add_stream(codec, rate=rate, layout="mono")
            stream.metadata["language"] = language
            streams.append(stream)
        packets = []
        for number in range(50):
            values = np.full((32, 32, 3), 5 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(values)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            packets += video.encode(frame)
        packets += video.encode(None)
        for stream, samples in zip(streams, (samples for _, samples in sounds), strict=True):
            resampler = av.AudioResampler(stream.codec_context.format.name, "mono", stream.rate)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), 0
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                part.pts = (part.pts or 0) + round(start / part.time_base)
                packets += stream.encode(part)
            packets += stream.encode(None)
        packets.sort(key=lambda packet: float(packet.dts * packet.time_base))
        for packet in packets:
            container.mux(packet)
    return str(path)


def samples(path, **options):
    with audio.decode(str(path), **options) as decoder:
        return np.concatenate(list(decoder), axis=1)[0], decoder


def click(path, **options):
    """Where the click is, in seconds from the first sample."""
    found, decoder = samples(path, **options)
    return int(np.argmax(np.abs(found))) / decoder.info.sample_rate


def click_on_clock(path, number=0):
    """The same on the clock of the file, as a player has it."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[number]
        loudest, at = 0.0, None
        for frame in container.decode(stream):
            values = np.abs(frame.to_ndarray().reshape(-1).astype(np.float64))
            if values.max() > loudest:
                loudest, at = values.max(), frame.time + int(np.argmax(values)) / frame.sample_rate
    return at


def pictures(path):
    """Of every packet of the picture: what is in it, and when it is shown."""
    with av.open(str(path)) as container:
        [stream] = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        return [
            (hashlib.sha256(bytes(packet)).hexdigest(), round(float(packet.pts * packet.time_base), 3))
            for packet in container.demux(stream)
            if packet.size
        ]


def through(source, output, container, **decoding):
    """Decode and encode again, as a restoration does that changes nothing."""
    with audio.decode(str(source), **decoding) as decoder:
        info = decoder.info
        target = (
            audio.container_format(info, container)
            if container in ("mp4", "mov", "mkv", "webm")
            else audio.output_format(info, container)
        )
        with audio.encode(
            str(output), sample_rate=info.sample_rate, channels=info.channels, target=target, source=info
        ) as encoder:
            for block in decoder:
                encoder.write(block)
    return encoder


@pytest.mark.parametrize(
    ("wanted", "frequency"), [(None, 300), (1, 300), (2, 500), ("deu", 500), ("EN", 300)]
)
def test_one_of_several_tracks_is_taken_and_which_is_said_where_none_was_asked_for(
    tmp_path, wanted, frequency
):
    path = film(tmp_path / "a.mkv", "matroska", {"eng": sound(300), "deu": sound(500)})
    found, decoder = samples(path, track=wanted)
    tone = found[RATE : RATE + RATE // 4]
    assert np.argmax(np.abs(np.fft.rfft(tone))) * 4 == pytest.approx(frequency, abs=8)
    if wanted is None:
        assert "2 audio tracks (1: eng, 2: deu): number 1 is taken" in decoder.warning
    else:
        assert decoder.warning is None


def test_a_track_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = film(tmp_path / "a.mp4", "mp4", {"eng": sound(300), "deu": sound(500)})
    for wanted in (3, "fra"):
        with pytest.raises(
            AudioReadError, match=rf"no audio track {wanted}, but 2 others \(1: eng, 2: deu\)"
        ):
            audio.decode(path, track=wanted)
    alone = film(tmp_path / "b.mp4", "mp4", {"eng": sound(300)})
    with pytest.raises(AudioReadError, match="it has one audio track, and not number 2"):
        audio.decode(alone, track=2)
    assert click(alone, track="fra") == pytest.approx(CLICK, abs=0.03)  # there is no choice


@pytest.mark.parametrize(("name", "muxer"), [("a.mkv", "matroska"), ("a.mp4", "mp4"), ("a.mov", "mov")])
def test_a_sound_that_starts_after_the_picture_begins_with_silence(tmp_path, name, muxer):
    path = film(tmp_path / name, muxer, {"eng": sound(300)}, start=0.4)
    found, decoder = samples(path)
    assert decoder.warning is None
    assert click(path) == pytest.approx(click_on_clock(path), abs=1e-3)
    assert click(path) == pytest.approx(0.4 + CLICK, abs=0.03)
    assert not found[: round(0.37 * RATE)].any()
    if decoder.info.seconds is not None:
        assert decoder.info.seconds == pytest.approx(found.size / RATE, abs=0.1)


@pytest.mark.parametrize("start", [0.0, 0.4])
@pytest.mark.parametrize(
    ("name", "muxer", "output"),
    [
        ("a.mp4", "mp4", "mp4"),
        ("a.mov", "mov", "mov"),
        ("a.mkv", "matroska", "mkv"),
        ("a.webm", "webm", "webm"),
        ("a.mp4", "mp4", "mkv"),
        ("a.mkv", "matroska", "mp4"),
    ],
)
def test_a_video_keeps_its_picture_bit_for_bit_and_the_sound_in_sync(tmp_path, name, muxer, output, start):
    codec = "libopus" if muxer == "webm" else "aac"
    source = film(tmp_path / name, muxer, {"eng": sound(300)}, codec=codec, start=start)
    written = tmp_path / f"out.{output}"
    through(source, written, output)
    assert [data for data, _ in pictures(written)] == [data for data, _ in pictures(source)]
    shown, before = ([at for _, at in pictures(path)] for path in (written, source))
    # A container that has no negative times moves picture and sound alike.
    moved = shown[0] - before[0]
    assert shown == pytest.approx([at + moved for at in before], abs=2e-3)
    assert click_on_clock(written) - moved == pytest.approx(click_on_clock(source), abs=2e-3)


def test_other_sounds_and_subtitles_of_a_video_are_copied(tmp_path):
    source = film(tmp_path / "a.mp4", "mp4", {"eng": sound(300), "deu": sound(500)})
    encoder = through(source, tmp_path / "out.mp4", "mp4", track=2)
    assert encoder.remark is None
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert len(container.streams.audio) == 2
        assert len(container.streams.video) == 1
    first = click_on_clock(tmp_path / "out.mp4", 0)
    assert click_on_clock(tmp_path / "out.mp4", 1) == pytest.approx(first, abs=2e-3)


def all_tracks(source, output, **settings):
    engine = Enhancer(nn.Identity(), device="cpu", precision="fp32", fingerprint="identity")
    options = EnhanceOptions(audio_track="all", strength=0)
    return list(enhance_files([Job(str(source), str(output))], engine, options, **settings))


def pitch(path, number=None):
    """Of the last half second of a sound, in Hz."""
    found, decoder = samples(path, track=number)
    rate = decoder.info.sample_rate
    return int(np.argmax(np.abs(np.fft.rfft(found[-rate // 2 :][: rate // 4])))) * 4


@pytest.mark.parametrize(
    ("muxer", "output"),
    [("matroska", "mkv"), ("mp4", "mp4"), ("matroska", "mp4"), ("mp4", "webm"), ("mp4", "mka")],
)
def test_all_tracks_are_restored_into_one_output_that_holds_them(tmp_path, muxer, output):
    sounds = {"eng": sound(300), "deu": sound(500), "fra": sound(700)}
    source = film(tmp_path / "a.bin", muxer, sounds, start=0.2)
    target = tmp_path / f"out.{output}"
    [record] = all_tracks(source, target)
    assert (record.status, record.output) == ("done", str(target)), record.reason
    with av.open(str(target)) as container:
        assert [stream.language for stream in container.streams.audio] == ["eng", "deu", "fra"]
        kinds = {stream.codec_context.codec.canonical_name for stream in container.streams.audio}
        assert kinds == {"opus" if output == "webm" else "aac"}
        assert bool(container.streams.video) == (output not in ("webm", "mka"))  # webm has no MPEG-4
    for number, tone in enumerate((300, 500, 700)):
        assert pitch(target, number + 1) == pytest.approx(tone, abs=8)
        assert click_on_clock(target, number) == pytest.approx(click_on_clock(target), abs=2e-3)
    if output in ("mp4", "mkv"):
        assert [data for data, _ in pictures(target)] == [data for data, _ in pictures(source)]
        moved = pictures(target)[0][1] - pictures(source)[0][1]
        assert click_on_clock(target) - moved == pytest.approx(click_on_clock(source), abs=2e-3)


@pytest.mark.parametrize(
    ("languages", "names"), [("eng deu", "eng deu"), ("und deu", "1 2"), ("eng eng", "1 2")]
)
def test_all_tracks_go_to_files_of_their_own_where_an_output_holds_one(tmp_path, languages, names):
    first, second = languages.split()
    source = tmp_path / "a.mp4"
    film(source, "mp4", [(first, sound(300)), (second, sound(500))])
    [record] = all_tracks(source, tmp_path / "out.wav")
    paths = [tmp_path / f"out.{name}.wav" for name in names.split()]
    assert record.output == str(paths[0])
    assert record.warning == (
        f"its 2 audio tracks are in files of their own: {', '.join(p.name for p in paths)}; {NO_VIDEO}"
    )
    assert [pitch(path) for path in paths] == pytest.approx([300, 500], abs=8)
    assert not (tmp_path / "out.wav").exists()
    [again] = all_tracks(source, tmp_path / "out.wav", done={str(source): record})
    assert again.status == "skipped"


def test_an_output_of_all_tracks_that_exists_costs_no_computing(tmp_path):
    source = film(tmp_path / "a.mkv", "matroska", {"eng": sound(300), "deu": sound(500)})
    (tmp_path / "out.mkv").write_bytes(b"kept")
    [record] = all_tracks(source, tmp_path / "out.mkv")
    assert (record.status, record.stages) == ("failed", {})
    assert "it exists" in record.reason
    assert (tmp_path / "out.mkv").read_bytes() == b"kept"


def test_all_tracks_of_a_file_that_has_one_is_that_one(tmp_path):
    source = film(tmp_path / "a.mkv", "matroska", {"eng": sound(300)})
    [record] = all_tracks(source, tmp_path / "out.flac")
    assert (record.output, record.warning) == (str(tmp_path / "out.flac"), NO_VIDEO)


def test_an_attachment_of_an_mkv_is_copied_or_named(tmp_path):
    plain, source = film(tmp_path / "a.mkv", "matroska", {"eng": sound(300)}), tmp_path / "b.mkv"
    with av.open(plain) as given, av.open(str(source), "w", format="matroska") as container:
        streams = {each.index: container.add_stream_from_template(each) for each in given.streams}
        container.add_attachment("font.ttf", "application/x-font", b"a font")
        for packet in given.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    assert through(source, tmp_path / "out.mkv", "mkv").remark is None
    with av.open(str(tmp_path / "out.mkv")) as container:
        [attached] = [each for each in container.streams if each.type == "attachment"]
        assert (attached.name, attached.data) == ("font.ttf", b"a font")
    assert "an attachment could not be copied" in through(source, tmp_path / "out.mp4", "mp4").remark


def test_a_video_whose_picture_has_no_place_says_so(tmp_path):
    source = film(tmp_path / "a.mp4", "mp4", {"eng": sound(300)})
    encoder = through(source, tmp_path / "out.webm", "webm")  # which has no MPEG-4
    assert "a track of video could not be copied" in encoder.remark
    assert click(tmp_path / "out.webm") == pytest.approx(CLICK, abs=0.03)


@pytest.mark.parametrize(("muxer", "name"), [("avi", "a.avi"), ("mpegts", "a.ts"), ("3gp", "a.3gp")])
def test_a_video_that_becomes_a_sound_says_so(tmp_path, muxer, name):
    codec = "mp2" if muxer == "avi" else "aac"
    source = film(tmp_path / name, muxer, {"eng": sound(300)}, codec=codec)
    assert through(source, tmp_path / "out.flac", "flac").remark == NO_VIDEO
    assert lost_in_stream(audio.probe(source), "flac").endswith("no place for its video")
    with Path(source).open("rb") as pipe, contextlib.closing(PipeDecoder(pipe, "pipe")) as decoder:
        assert "its video is left out" in decoder.warning


def book(path, container, codec):
    """A recording with a cover and chapters."""
    wanted = OutputFormat(
        container=container, codec=codec, sample_format="s16" if codec in ("flac", "alac") else "f32"
    )
    info = audio.AudioInfo(
        path="",
        container=container,
        codec=codec,
        sample_format="f32",
        sample_rate=RATE,
        channels=1,
        frames=None,
        seconds=None,
        bit_rate=None,
        tags={"title": "Book"},
        has_video=False,
        chapters=CHAPTERS,
        cover=Cover("image/png", PNG),
    )
    with audio.encode(str(path), sample_rate=RATE, channels=1, target=wanted, source=info) as encoder:
        encoder.write(sound(300))
    return str(path)


@pytest.mark.parametrize(
    ("container", "codec", "extension"),
    [
        ("mp3", "mp3", "mp3"),
        ("m4a", "aac", "m4a"),
        ("m4a", "alac", "m4a"),
        ("flac", "flac", "flac"),
        ("ogg", "opus", "opus"),
        ("ogg", "vorbis", "ogg"),
    ],
)
def test_cover_chapters_and_tags_are_kept(tmp_path, container, codec, extension):
    source = book(tmp_path / f"a.{extension}", container, codec)
    through(source, tmp_path / f"b.{extension}", "keep")
    info = audio.probe(str(tmp_path / f"b.{extension}"))
    assert info.tags["title"] == "Book"
    assert info.cover == Cover("image/png", PNG)
    if container in ("mp3", "m4a"):
        assert [chapter.title for chapter in info.chapters] == ["One", "Two"]
        assert [chapter.start for chapter in info.chapters] == pytest.approx([0, 0.5], abs=0.01)
    whole = samples(source)[0].size
    assert samples(tmp_path / f"b.{extension}")[0].size == pytest.approx(whole, abs=2200)


def test_a_cover_is_where_other_programs_look_for_it(tmp_path):
    mp3 = mutagen.File(book(tmp_path / "a.mp3", "mp3", "mp3"))
    assert mp3.tags.getall("APIC")[0].data == PNG
    assert len(mp3.tags.getall("CHAP")) == 2
    assert bytes(MP4(book(tmp_path / "a.m4a", "m4a", "aac"))["covr"][0]) == PNG
    flac = mutagen.File(book(tmp_path / "a.flac", "flac", "flac"))
    assert isinstance(flac.pictures[0], Picture) and flac.pictures[0].data == PNG


@pytest.mark.parametrize(("wanted", "lost"), [("mp3", ""), ("flac", "its chapters"), ("wav", "its cover")])
def test_what_has_no_place_in_an_output_is_named(tmp_path, wanted, lost):
    source = book(tmp_path / "a.mp3", "mp3", "mp3")
    remark = through(source, tmp_path / f"b.{wanted}", wanted).remark
    assert remark == (f"the output has no place for {lost}" if lost else None)


def test_what_has_no_place_in_a_stream_is_named(tmp_path):
    info = audio.probe(book(tmp_path / "a.mp3", "mp3", "mp3"))
    assert lost_in_stream(info, "mp3").endswith("its cover, its chapters")
    assert lost_in_stream(info, "wav").endswith("its cover, its chapters, its tags")
    plain = dataclasses.replace(info, cover=None, chapters=())
    assert lost_in_stream(plain, "flac") is None


def test_a_cover_that_is_no_picture_is_left(tmp_path):
    path = book(tmp_path / "a.mp3", "mp3", "mp3")
    tagged = ID3(path)
    tagged.getall("APIC")[0].data = b"no picture"
    tagged.save()
    assert audio.probe(path).cover is None
