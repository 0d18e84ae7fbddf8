"""Corpus: measurements against sounds that were made to have them, and simulated rooms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import soundfile
from scipy import signal

from enhance_ray.errors import AudioReadError, ConfigError
from enhance_ray.training import corpus, degrade

RATE = 44_100


def talk(seconds: float = 4.0, rate: int = RATE, noise_db: float = -70.0, seed: int = 0) -> np.ndarray:
    """Bursts of noise with the long-term slope of speech, half of the time, over a steady noise. Peak 0.5."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    bursts = signal.lfilter([1], [1, -0.9], rng.standard_normal(time.size)) * (np.sin(2 * np.pi * time) > 0)
    noise = rng.standard_normal(time.size) * bursts.std() * math.sqrt(2) * 10 ** (noise_db / 20)
    sound = bursts + noise
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


def stats_of(waveform: np.ndarray, folder, rate: int = RATE, subtype: str = "FLOAT") -> corpus.SoundStats:
    soundfile.write(folder / "sound.wav", waveform.T, rate, subtype=subtype)
    [row] = corpus.check(folder).files
    assert isinstance(row.stats, corpus.SoundStats)
    return row.stats


def decaying_noise(t60: float, seconds: float = 1.5, direct: int = 500) -> np.ndarray:
    """A response whose energy falls by 60 dB in ``t60`` seconds."""
    time = np.arange(round(seconds * RATE)) / RATE
    tail = np.random.default_rng(0).standard_normal(time.size) * 10 ** (-3 * time / t60)
    return np.concatenate([np.zeros(direct), [8.0], tail]).astype(np.float32)


# ------------------------------------------------------------------------------ measurements


@pytest.mark.parametrize("cut", [4000, 8000, 16_000])
def test_bandwidth_is_where_a_low_pass_was(tmp_path, cut):
    lowpassed = degrade.limit_bandwidth(talk(), RATE, 2 * cut)
    assert stats_of(lowpassed, tmp_path).bandwidth == pytest.approx(cut, rel=0.05)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_bandwidth_of_an_unfiltered_recording_is_half_its_rate(tmp_path, rate):
    assert stats_of(talk(rate=rate), tmp_path, rate).bandwidth == pytest.approx(rate / 2, rel=0.02)


def test_a_click_does_not_widen_the_band(tmp_path):
    clicked = degrade.limit_bandwidth(talk(), RATE, 16_000)
    clicked[RATE] += 0.9
    assert stats_of(clicked, tmp_path).bandwidth == pytest.approx(8000, rel=0.05)


@pytest.mark.parametrize("noise_db", [-40.0, -20.0, -10.0])
def test_snr_is_estimated_from_the_pauses(tmp_path, noise_db):
    # The quietest tenth of the frames lies a little below the mean noise.
    assert stats_of(talk(noise_db=noise_db), tmp_path).snr_db == pytest.approx(-noise_db, abs=0.7)


def test_digital_silence_does_not_count_as_the_noise(tmp_path):
    noisy = talk(noise_db=-20.0)
    muted = np.concatenate([noisy, np.zeros_like(noisy)])
    assert stats_of(muted, tmp_path).snr_db == pytest.approx(stats_of(noisy, tmp_path).snr_db)
    assert stats_of(np.zeros_like(noisy), tmp_path).snr_db is None


@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_clipping_is_found_even_when_lowered_afterwards(tmp_path, gain):
    loud = np.clip(8 * talk(), -1, 1)
    clipped = np.mean(np.abs(loud) == 1)
    found = stats_of(gain * loud, tmp_path, subtype="PCM_16").clipped
    # Single clipped samples leave no flat top once the level is lowered.
    assert found == pytest.approx(clipped, rel=0.1 if gain == 1 else 0.7)
    assert stats_of(talk(), tmp_path, subtype="PCM_16").clipped == 0


def test_silence_and_offset_are_shares_of_the_whole(tmp_path):
    sound = np.concatenate([talk(1.0), np.zeros(RATE, np.float32)]) + np.float32(0.05)
    stats = stats_of(np.stack([sound, sound]), tmp_path)
    assert (stats.channels, stats.seconds) == (2, 2.0)
    assert stats.offset == pytest.approx(0.05, abs=1e-3)
    assert stats.silent == pytest.approx(0.75, abs=0.02)


def test_a_long_recording_is_sampled_evenly_and_to_its_end():
    sample = corpus.SpectrumSample()
    for frame in range(20_000):
        sample.add(np.full(sample.POINTS, frame, np.float32))  # a level that tells the time
    levels = np.sqrt(sample.frames()[:, 0])
    steps = np.diff(levels)
    assert sample.LIMIT / 2 <= len(levels) <= sample.LIMIT
    np.testing.assert_allclose(steps, steps[0], rtol=1e-2)
    assert levels[-1] / steps[0] == pytest.approx(len(levels) - 1, abs=0.1)


@pytest.mark.parametrize("t60", [0.2, 0.5, 1.0])
def test_reverberation_time_is_that_of_the_decay(t60):
    assert corpus.reverberation_time(decaying_noise(t60), RATE) == pytest.approx(t60, rel=0.1)


def test_an_echo_free_response_has_no_reverberation_time():
    assert corpus.reverberation_time(np.array([0, 1, 0], np.float32), RATE) is None


# ------------------------------------------------------------------------------------ check


def test_check_says_what_cannot_be_used_and_why(tmp_path):
    (tmp_path / "deep").mkdir()
    good = np.rint(talk(1.0) * 32_767).astype(np.int16)
    soundfile.write(tmp_path / "a_good.wav", good, RATE)
    soundfile.write(tmp_path / "deep" / "b_copy.flac", good, RATE)
    soundfile.write(tmp_path / "c_silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "d_short.wav", good[:1000], RATE)
    (tmp_path / "e_text.wav").write_text("this is not audio, whatever its name says" * 10)
    np.save(tmp_path / "f_room.npy", decaying_noise(0.3).astype(np.float16))
    np.save(tmp_path / "g_integers.npy", np.arange(5))
    (tmp_path / "h_torn.npy").write_bytes((tmp_path / "f_room.npy").read_bytes()[:1000])
    np.save(tmp_path / "i_infinite.npy", np.array([0, np.inf, 0]))
    (tmp_path / "notes.txt").write_text("ignored")

    calls = []
    report = corpus.check(tmp_path, progress=lambda done, total: calls.append((done, total)))
    problems = {row.path: row.problem for row in report.files}
    assert problems.pop("a_good.wav") is None
    assert problems.pop("f_room.npy") is None
    assert problems.pop("deep/b_copy.flac") == "it is the same sound as a_good.wav"
    assert problems.pop("c_silent.wav") == "it is silent"
    assert "short" in problems.pop("d_short.wav")
    assert "int64" in problems.pop("g_integers.npy")
    assert "not an .npy array" in problems.pop("h_torn.npy")
    assert "infinite" in problems.pop("i_infinite.npy")
    assert problems.pop("e_text.wav")
    assert not problems
    assert report.ignored == ("notes.txt",)
    assert calls == [(done, 9) for done in range(1, 10)]
    assert "1 recordings, 0.00 h; 1 room responses; 7 unusable; 1 other files" in report.summary()
    assert "unusable: c_silent.wav: it is silent" in report.summary()


def test_check_remarks_on_speech_that_is_no_target(tmp_path):
    narrow = degrade.limit_bandwidth(talk(noise_db=0.0), RATE, 8000)
    soundfile.write(tmp_path / "narrow.wav", narrow, RATE)
    [row] = corpus.check(tmp_path).files
    assert row.problem is None
    assert [remark.partition(":")[0] for remark in row.remarks] == ["narrow band", "noisy"]
    assert corpus.check(tmp_path, role="noise").files[0].remarks == ()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(AudioReadError, match="not a folder"):
        corpus.check(tmp_path / "absent")


# ------------------------------------------------------------------------------------ rooms


def test_loaded_responses_begin_at_their_direct_path_and_end_with_their_tail(tmp_path):
    response = decaying_noise(0.3, seconds=2.0, direct=5000)
    np.save(tmp_path / "a.npy", response.astype(np.float16)[None, :, None])
    soundfile.write(tmp_path / "b.wav", np.stack([response, response], -1) / 10, RATE, subtype="FLOAT")
    loaded = corpus.load_rirs(tmp_path)
    assert len(loaded) == 3
    for each in loaded:
        assert each.dtype == np.float32
        assert degrade.direct_path(each) == RATE // 1000
        assert each.size < 0.5 * RATE
        assert np.square(each).sum() / np.square(response / response.max() * each.max()).sum() > 0.999


def test_the_two_sides_of_the_split_share_no_room(tmp_path):
    for number in range(20):
        np.save(tmp_path / f"{number}.npy", np.array([1.0 + number, 0.5], np.float32))
    train, valid = (
        {float(response[0]) for response in corpus.load_rirs(tmp_path, split=split, held_out_every=4)}
        for split in ("train", "valid")
    )
    assert len(train) + len(valid) == 20
    assert len(valid) > 0
    assert train.isdisjoint(valid)


def test_a_response_at_another_rate_is_resampled(tmp_path):
    time = np.arange(24_000) / 48_000
    response = np.exp(-time / 0.02) * np.cos(2 * np.pi * 1000 * time)
    soundfile.write(tmp_path / "a.wav", response, 48_000, subtype="FLOAT")
    [loaded] = corpus.load_rirs(tmp_path)
    crossings = np.flatnonzero(np.diff(np.signbit(loaded[: RATE // 20])))
    assert np.diff(crossings).mean() == pytest.approx(RATE / 2000, rel=0.01)


SMALL = corpus.RoomRanges(length=(3.0, 4.0), width=(2.5, 3.0), height=(2.3, 2.6), t60=(0.2, 0.5))


def test_simulated_rooms_are_what_their_table_says(tmp_path):
    rooms = corpus.rirs(tmp_path, count=4, seed=1, ranges=SMALL)
    table = json.loads((tmp_path / "rirs.json").read_text())
    assert [row["file"] for row in table] == sorted(path.name for path in tmp_path.glob("*.npy"))
    for room, row in zip(rooms, table, strict=True):
        response = np.load(tmp_path / room.file)
        assert response.dtype == np.float16
        assert np.abs(response).max() == 1
        assert degrade.direct_path(response.astype(np.float32)) == RATE // 1000
        assert room.t60 == pytest.approx(room.t60_asked, rel=0.5)  # Sabine's formula is for diffuse sound
        assert row["drr_db"] == room.drr_db
        assert all(0.3 <= x <= side - 0.3 for x, side in zip(room.source, room.size, strict=True))


def test_a_room_depends_on_its_seed_and_number_alone(tmp_path):
    few = corpus.rirs(tmp_path / "few", count=2, seed=5, ranges=SMALL)
    more = corpus.rirs(tmp_path / "more", count=3, seed=5, ranges=SMALL, workers=2)
    other = corpus.rirs(tmp_path / "other", count=1, seed=6, ranges=SMALL)
    assert more[:2] == few
    assert other[0].size != few[0].size
    for room in few:
        first, again = (np.load(tmp_path / folder / room.file) for folder in ("few", "more"))
        np.testing.assert_array_equal(first, again)


def test_rooms_are_not_written_over_others(tmp_path):
    (tmp_path / "rirs.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"rirs\.json"):
        corpus.rirs(tmp_path, count=1)


def test_ranges_that_no_room_fits_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="height"):
        corpus.RoomRanges(height=(3.0, 2.0))
    with pytest.raises(ConfigError, match="1000 draws"):
        corpus.rirs(tmp_path, count=1, ranges=corpus.RoomRanges(distance=(50.0, 60.0)))
