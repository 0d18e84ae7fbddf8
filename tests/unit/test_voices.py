"""Other voices out of those of the corpus: each is of the kind that it says."""

import numpy as np
import pytest
import scipy

from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.training import voices

RATE = 44_100
EFFECTS = {
    "formants": voices.Formants(),
    "held": voices.Held(),
    "tilted": voices.Tilted(),
    "growled": voices.Growled(),
    "whispered": voices.Whispered(),
}


def vowel(seconds=1.0, pitch=120.0):
    """Harmonics that fall by 12 dB an octave."""
    time = np.arange(round(seconds * RATE)) / RATE
    harmonics = [np.sin(2 * np.pi * n * pitch * time) / n**2 for n in range(1, 40)]
    return (0.3 * np.sum(harmonics, axis=0)).astype(np.float32)


def strongest(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size)))
    return np.argmax(spectrum) * RATE / waveform.size


@pytest.mark.parametrize("effect", EFFECTS.values(), ids=EFFECTS)
@pytest.mark.parametrize("length", [1, 777, 20_001])
def test_a_voice_keeps_its_length_and_silence_and_depends_on_the_generator_alone(effect, length):
    speech = vowel()[:length]
    first, again = (effect(speech, RATE, np.random.default_rng(7)) for _ in range(2))
    assert first.shape == speech.shape and first.dtype == np.float32 and np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    assert not effect(np.zeros(length, np.float32), RATE, np.random.default_rng(0)).any()


def test_a_held_sound_lasts_longer_at_the_same_pitch():
    speech = np.zeros(RATE, np.float32)
    speech[: RATE // 4] = vowel(0.25)
    held = voices.hold(speech, RATE, speed=0.4)
    loud = np.flatnonzero(np.abs(held) > 0.05)
    assert loud[-1] / RATE == pytest.approx(0.25 / 0.4, abs=0.06)  # within a window
    assert strongest(held[6000:22_000]) == pytest.approx(120, abs=3)
    level = np.sqrt(np.mean(held[6000:22_000] ** 2) / np.mean(speech[2000:9000] ** 2))
    assert level == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_formants_move_and_the_pitch_stays(factor):
    """Pulses at 100 Hz through a resonance at 1 kHz: what gets louder, and that harmonics stay harmonics."""
    pulses = np.zeros(RATE, np.float32)
    pulses[:: RATE // 100] = 1.0
    radius, angle = np.exp(-np.pi * 300 / RATE), 2 * np.pi * 1000 / RATE
    sound = scipy.signal.lfilter([1.0], [1, -2 * radius * np.cos(angle), radius**2], pulses)
    sound = (sound / np.abs(sound).max()).astype(np.float32)

    def spectrum(waveform):
        return np.abs(np.fft.rfft(waveform[RATE // 4 : 3 * RATE // 4] * np.hanning(RATE // 2)))

    moved = spectrum(voices.scale_formants(sound, RATE, factor=factor))
    gains = 20 * np.log10(moved / spectrum(sound))[50:1000:50]  # of harmonics, from 100 Hz on
    up, down = gains[round(10 * 1.25) - 1], gains[round(10 * 0.8) - 1]
    assert (up - down) * np.sign(factor - 1) > 4
    assert 20 * np.log10((moved[50:1000:50] / moved[75:1000:50]).min()) > 20


def test_a_tilt_is_so_many_decibels_an_octave():
    impulse = np.eye(1, 8192, 4000, dtype=np.float32)[0]
    response = np.abs(np.fft.rfft(voices.tilt(impulse, RATE, slope_db=4.0)))
    gains_db = 20 * np.log10([response[round(f * 8192 / RATE)] for f in (500, 1000, 4000)])
    np.testing.assert_allclose(gains_db, [-4, 0, 8], atol=0.3)


def test_a_growl_beats_as_deep_and_as_often_as_asked():
    grown = voices.growl(
        np.ones(4 * RATE, np.float32), RATE, depth=0.6, frequency=50, rng=np.random.default_rng(0)
    )
    assert grown.max() == pytest.approx(1, abs=1e-3) and grown.min() == pytest.approx(0.4, abs=1e-3)
    middle = grown - 0.7
    beats = np.count_nonzero((middle[1:] > 0) & (middle[:-1] <= 0)) / 4
    assert beats == pytest.approx(50, rel=0.1)


def test_a_whisper_has_the_envelope_and_no_pitch():
    speech = np.concatenate([vowel(0.5), np.zeros(RATE // 2, np.float32)])
    whispered = voices.whisper(speech, RATE, np.random.default_rng(0))
    assert np.mean(whispered[RATE // 2 + 4000 :] ** 2) < 1e-3 * np.mean(whispered[: RATE // 2] ** 2)
    period = round(RATE / 120)
    part = whispered[2000:20_000]
    likeness = np.corrcoef(part[:-period], part[period:])[0, 1]
    assert (
        abs(likeness) < 0.2 < np.corrcoef(speech[2000:20_000], speech[2000 + period : 20_000 + period])[0, 1]
    )
    power = np.abs(np.fft.rfft(whispered)) ** 2
    hertz = np.fft.rfftfreq(whispered.size, 1 / RATE)
    low, high = (power[(hertz > f) & (hertz < 2 * f)].sum() for f in (1000, 4000))
    assert low > 10 * high


def test_a_whisper_of_what_has_silent_bins_is_finite():
    assert np.isfinite(voices.whisper(np.ones(RATE, np.float32), RATE, np.random.default_rng(0))).all()


def test_voices_are_changed_as_often_as_asked_and_by_default_never():
    speech = vowel(0.1)
    rng = np.random.default_rng(0)
    assert voices.Voices()(speech, RATE, rng) is speech
    assert voices.Voices().draw_pitch(rng) == 1
    some = trees.from_tree(
        voices.Voices, {"pitch_probability": 0.3, "pitch": [0.8, 0.9], "tilted": {"probability": 0.3}}
    )
    changed = sum(some(speech, RATE, rng) is not speech for _ in range(300))
    pitches = [some.draw_pitch(rng) for _ in range(300)]
    assert 60 <= changed <= 120 and 60 <= sum(pitch != 1 for pitch in pitches) <= 120
    assert {0.8 <= pitch <= 0.9 for pitch in pitches if pitch != 1} == {True}


@pytest.mark.parametrize("settings", [{"pitch": (0.1, 1.0)}, {"pitch_probability": 2.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        voices.Voices(**settings)
