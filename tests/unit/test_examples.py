"""Training examples: what is in them, and that nothing but (seed, index) decides it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from enhance_ray.errors import ConfigError
from enhance_ray.settings import trees
from enhance_ray.settings.options import MODEL_RATE
from enhance_ray.training import degrade
from enhance_ray.training.bank import load_bank
from enhance_ray.training.examples import (
    CorpusConfig,
    ExampleConfig,
    Examples,
    batches,
    load_banks,
    make_example,
)
from enhance_ray.training.noises import Bursts
from enhance_ray.training.sources import list_sources

CONFIG = ExampleConfig(crop_seconds=0.5)


def plain_distorter():
    """Changes nothing."""
    off = {"probability": 0.0}
    effects = dict.fromkeys(("reverb", "noise", "overdrive", "equalizer", "band_filter"), off)
    return trees.from_tree(degrade.Distorter, {"room_probability": 0.0, **effects})


def tone(frequency: float, seconds: float, rate: int = MODEL_RATE) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for folder in ("fg", "bg", "rir"):
        (root / folder).mkdir()
    for i in range(12):
        soundfile.write(root / "fg" / f"voice{i}.wav", tone(200 + 50 * i, 0.7), MODEL_RATE)
        soundfile.write(root / "bg" / f"noise{i}.wav", 0.1 * rng.standard_normal(20_000), MODEL_RATE)
    response = np.zeros(4000, np.float32)
    response[[44, 1000]] = 1.0, 0.4
    for i in range(12):
        np.save(root / "rir" / f"room{i}.npy", response)
    return CorpusConfig(root=str(root), cache=root / "cache")


@pytest.fixture(scope="module")
def banks(corpus):
    return load_banks(corpus, "train")


def test_an_example_depends_on_seed_and_index_alone(banks):
    parts = ("noisy", "target", "clean")
    one, two = (Examples(banks, CONFIG, seed=3, parts=parts) for _ in range(2))
    two[5]  # what was drawn before leaves no trace
    for name in ("index", *parts):
        np.testing.assert_array_equal(one[7][name], two[7][name])
    assert not np.array_equal(one[7]["noisy"], one[8]["noisy"])
    assert not np.array_equal(one[7]["noisy"], Examples(banks, CONFIG, seed=4)[7]["noisy"])


def test_an_epoch_uses_every_recording_as_often_as_asked_and_the_next_in_another_order(banks):
    """A tone's pitch tells which recording a crop came from."""
    config = ExampleConfig(crop_seconds=0.5, crops_per_clip=2, silence_probability=0)
    examples = Examples(banks, config, seed=0, parts=("clean",))
    count = len(banks.speech)

    def pitches(epoch):
        crops = [examples[epoch * 2 * count + i]["clean"] for i in range(2 * count)]
        return [int(np.argmax(np.abs(np.fft.rfft(crop)))) for crop in crops]

    first, second = pitches(0), pitches(1)
    assert first[::2] == first[1::2]
    assert len(set(first)) == count
    assert sorted(first) == sorted(second) and first != second


def test_clean_is_what_the_target_was_before_anything_happened_to_it(banks):
    plain = ExampleConfig(crop_seconds=0.5, distort_probability=0, silence_probability=0, snr_db=(60, 60))
    example = make_example(banks, plain, np.random.default_rng(0))
    scale = np.abs(example.target).max() / np.abs(example.clean).max()
    np.testing.assert_allclose(example.clean * scale, example.target, atol=1e-6)


def stream(examples, **settings):
    defaults = {"batch_size": 2, "first": 0, "steps": 2, "rank": 0, "world_size": 1, "workers": 0}
    return list(batches(examples, **{**defaults, **settings}))


def test_workers_and_restarts_do_not_change_the_batches(banks):
    examples = Examples(banks, CONFIG, seed=0)
    whole = stream(examples, steps=4)
    resumed = stream(examples, steps=2, first=4)
    by_worker = stream(examples, steps=4, workers=1)
    for expected, got in [*zip(whole, by_worker, strict=True), *zip(whole[2:], resumed, strict=True)]:
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_two_workers_of_a_run_share_the_examples_of_one(banks):
    examples = Examples(banks, CONFIG, seed=0)
    alone = stream(examples, batch_size=4)
    shares = [stream(examples, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(2):
        for part in ("index", "noisy", "target"):
            together = torch.cat([share[step][part] for share in shares])
            torch.testing.assert_close(together, alone[step][part], rtol=0, atol=0)


def test_what_is_not_target_is_noise_at_the_snr_that_was_drawn(banks):
    """The original's share of 0.8 is 12 dB over all, in whatever level the mixture has."""
    quiet = ExampleConfig(crop_seconds=0.5, share=(0.8, 0.8), silence_probability=0, distort_probability=0)
    for index in range(10):
        noisy, target, _ = make_example(banks, quiet, np.random.default_rng(index))
        noise = noisy - target
        assert 10 * np.log10(np.sum(target**2) / np.sum(noise**2)) == pytest.approx(12.04, abs=0.1)
        assert np.abs(noisy).max() <= 1


def test_silence_is_drawn_as_often_as_asked(banks):
    config = ExampleConfig(crop_seconds=0.1, silence_probability=0.3)
    silent = sum(not make_example(banks, config, np.random.default_rng(i)).target.any() for i in range(300))
    assert 60 <= silent <= 120  # five standard deviations around 90


def test_the_compact_recipe_makes_finite_examples_of_full_length(banks):
    config = ExampleConfig(
        crop_seconds=0.5,
        snr_db=(-5, 15),
        join_clips=True,
        speed=0.1,
        room_probability=0.5,
        babble_probability=0.5,
        max_noises=3,
    )
    for index in range(20):
        noisy, target, _ = make_example(banks, config, np.random.default_rng(index))
        assert noisy.shape == target.shape == (22_050,)
        assert noisy.dtype == target.dtype == np.float32
        assert np.isfinite(noisy).all() and np.isfinite(target).all()


def test_a_shorter_room_is_the_target_where_asked(banks):
    """The bank's room is a direct path and one echo after 22 ms: in the target the echo is weaker."""
    settings = {"silence_probability": 0, "distort_probability": 0, "snr_db": (80, 80), "room_probability": 1}
    kept = ExampleConfig(crop_seconds=0.5, **settings)
    damped = ExampleConfig(crop_seconds=0.5, room_tail=0.005, **settings)
    for index in range(5):
        noisy, target, _ = make_example(banks, kept, np.random.default_rng(index))
        np.testing.assert_allclose(noisy, target, atol=1e-3)
        same_noisy, dry, _ = make_example(banks, damped, np.random.default_rng(index))
        np.testing.assert_allclose(same_noisy, noisy, atol=1e-6)
        echo = np.zeros_like(dry)
        echo[956:] = 0.4 * dry[:-956]
        np.testing.assert_allclose(dry + echo, target, atol=0.05)
        assert np.abs(dry - target).max() > 0.1


ONLY_SPEECH = {"silence_probability": 0, "distort_probability": 0, "snr_db": (0, 0), "crop_seconds": 0.5}


def active_db(waveform):
    return 10 * np.log10(degrade.active_power(waveform, MODEL_RATE))


def test_speech_without_noise_is_its_own_target_as_often_as_asked(banks):
    config = ExampleConfig(**ONLY_SPEECH, noiseless_probability=0.3, noiseless_damage=0)
    examples = [make_example(banks, config, np.random.default_rng(i)) for i in range(100)]
    assert 15 <= sum(np.array_equal(noisy, target) for noisy, target, _ in examples) <= 47


def test_damage_without_noise_is_one_effect_with_the_undamaged_speech_as_target(banks):
    recording = degrade.RecordingChain(
        clipping=degrade.Clipping(probability=0.1, threshold_db=(-12, -12)),
        packet_loss=degrade.PacketLoss(probability=0.1, loss=(0.4, 0.4)),
    )
    config = ExampleConfig(
        **ONLY_SPEECH, noiseless_probability=1.0, noiseless_damage=1.0, recording=recording
    )
    clipped = lost = 0
    for index in range(40):
        noisy, target, _ = make_example(banks, config, np.random.default_rng(index))
        assert np.abs(target).max() == pytest.approx(1, abs=1e-3)
        clipped += np.abs(noisy).max() < 0.3
        lost += np.abs(noisy).max() > 0.9
    assert clipped + lost == 40 and 8 <= clipped <= 32


@pytest.mark.parametrize(
    "effect",
    [
        {"narrow_band": degrade.NarrowBand(probability=1, rates=(8000,))},
        {"codec": degrade.Codec(probability=1, codecs=("mp3",), bit_rate=(8000, 8000))},
    ],
)
def test_the_target_has_the_band_that_the_recording_left(banks, effect):
    rng = np.random.default_rng(0)
    click = np.zeros(MODEL_RATE // 2, np.float32)
    click[5000] = 1.0
    wide = rng.standard_normal(MODEL_RATE // 2).astype(np.float32)
    narrow = degrade.RecordingChain(**effect)(wide, MODEL_RATE, rng)
    limited = degrade.match_band(click, MODEL_RATE, before=wide, after=narrow)
    gains_db = 20 * np.log10(np.abs(np.fft.rfft(limited)) + 1e-9)
    hertz = np.fft.rfftfreq(limited.size, 1 / MODEL_RATE)
    assert gains_db[(hertz < 1500) & (hertz > 100)].min() > -0.5
    assert gains_db[hertz > 6000].max() < -60
    assert degrade.match_band(click, MODEL_RATE, before=wide, after=0.9 * wide) is click
    config = ExampleConfig(
        **ONLY_SPEECH, noiseless_probability=1.0, recording=degrade.RecordingChain(**effect), same_band=True
    )
    noisy, target, _ = make_example(banks, config, np.random.default_rng(0))
    assert noisy.shape == target.shape


def test_babble_is_as_many_voices_at_the_level_of_its_own(banks):
    """Voices are tones: as many lines stand in the spectrum of what is not speech."""
    babble = {"babble_probability": 1.0, "babble_voices": (3, 3), "babble_snr_db": (6, 6)}
    config = ExampleConfig(**ONLY_SPEECH, **babble, distorter=plain_distorter())
    for index in range(5):
        noisy, target, _ = make_example(banks, config, np.random.default_rng(index))
        noise = noisy - target
        assert active_db(target) - 10 * np.log10(np.mean(noise**2)) == pytest.approx(6, abs=0.1)
        spectrum = np.abs(np.fft.rfft(noise * np.hanning(noise.size)))
        lines = spectrum > 0.2 * spectrum.max()
        assert 1 <= np.count_nonzero(lines[1:] & ~lines[:-1]) <= 3


def test_bursts_come_from_the_files_that_are_named_and_leave_pauses(corpus):
    named = dataclasses.replace(corpus, bursts=("noise3", "noise5"))
    banks = load_banks(named, "train")
    assert {Path(banks.noise.names[i]).stem for i in banks.bursts} <= {"noise3", "noise5"}
    bursts = Bursts(
        probability=1.0, going_on=0.0, background=0.0, events=(1, 2), seconds=(0.05, 0.05), snr_db=(3, 3)
    )
    config = ExampleConfig(**ONLY_SPEECH, bursts=bursts, distorter=plain_distorter())
    for index in range(5):
        noisy, target, _ = make_example(banks, config, np.random.default_rng(index))
        noise = noisy - target
        assert np.mean(np.abs(noise) > 1e-5) < 0.25  # two of 50 ms in 0.5 s
        assert active_db(target) - active_db(noise) == pytest.approx(3, abs=0.2)


def test_words_that_no_noise_file_has_are_refused(corpus):
    with pytest.raises(ConfigError, match="keyboard"):
        load_banks(dataclasses.replace(corpus, bursts=("keyboard",)), "train")


def test_a_speaker_who_may_be_another_one_of_training_is_trained_on(corpus):
    rows = [
        "file,speaker,split",
        "fg/voice0.wav,ann,train",
        "fg/voice1.wav,bob,valid",
        "fg/voice2.wav,eve,valid",
    ]
    Path(corpus.root, "same.csv").write_text("\n".join(rows))
    of = {
        split: [s.group for s in list_sources(corpus.root, ["same.csv"], split, 8, ["bob"])]
        for split in ("train", "valid")
    }
    assert of == {"train": ["ann", "bob"], "valid": ["eve"]}


def test_the_target_keeps_as_much_of_the_room_as_asked(banks):
    """The bank's echo comes after 22 ms: a target that keeps 50 ms keeps it."""
    room = {
        "room_probability": 1.0,
        "room_tail": 0.005,
        "noiseless_probability": 1.0,
        "noiseless_damage": 0.0,
    }
    kept = ExampleConfig(**ONLY_SPEECH, **room, room_early=0.05)
    noisy, target, _ = make_example(banks, kept, np.random.default_rng(0))
    np.testing.assert_allclose(target, noisy, atol=1e-6)
    damped = ExampleConfig(**ONLY_SPEECH, **room)
    noisy, target, _ = make_example(banks, damped, np.random.default_rng(0))
    assert np.abs(target - noisy).max() > 0.1


def test_changing_speed_changes_pitch_by_the_same_share(banks):
    frequencies = []
    for index in range(30):
        config = ExampleConfig(
            crop_seconds=0.4, speed=0.2, silence_probability=0, distort_probability=0, snr_db=(60, 60)
        )
        target = make_example(banks, config, np.random.default_rng(index)).target
        spectrum = np.abs(np.fft.rfft(target * np.hanning(target.size)))
        frequencies.append(np.argmax(spectrum) * MODEL_RATE / target.size)
    voices = 200 + 50 * np.arange(12)
    distance = np.abs(np.array(frequencies)[:, None] / voices - 1).min(1)
    assert max(distance) > 0.01  # some are between the voices' own pitches
    assert min(frequencies) >= 0.8 * 200 - 5 and max(frequencies) <= 1.25 * 750 + 5


def test_folders_are_split_by_name_and_the_two_splits_are_disjoint(corpus):
    train, valid = (
        {s.path for s in list_sources(corpus.root, ["fg"], split, 3)} for split in ("train", "valid")
    )
    assert train and valid and not train & valid
    assert len(train | valid) == 12


def test_a_list_says_the_split_and_the_speaker(corpus):
    rows = [
        "file,speaker,split",
        "fg/voice0.wav,ann,train",
        "fg/voice1.wav,bob,valid",
        "fg/voice2.wav,ann,train",
    ]
    Path(corpus.root, "list.csv").write_text("\n".join(rows))
    sources = list_sources(corpus.root, ["list.csv"], "train", 8)
    assert [(s.path.rpartition("/")[2], s.group) for s in sources] == [
        ("voice0.wav", "ann"),
        ("voice2.wav", "ann"),
    ]


def test_a_recording_is_resampled_and_mixed_down_once_and_found_again(tmp_path):
    stereo = np.stack([tone(440, 1, 16_000), np.zeros(16_000, np.float32)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 16_000, subtype="FLOAT")
    sources = list_sources(str(tmp_path), ["."], "train", 10**9)
    bank = load_bank(sources, tmp_path / "cache")
    middle = bank.read(0, 10_000, 20_000)
    np.testing.assert_allclose(middle, 0.5 * tone(440, 1)[10_000:30_000], atol=2e-4)  # 16 bits
    calls = []
    load_bank(sources, tmp_path / "cache", progress=lambda *counts: calls.append(counts))
    assert not calls  # nothing was decoded again


def test_a_damaged_recording_is_left_out_by_name(tmp_path, caplog):
    soundfile.write(tmp_path / "good.wav", tone(300, 0.2), MODEL_RATE)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    bank = load_bank(list_sources(str(tmp_path), ["."], "train", 10**9), tmp_path / "cache")
    assert len(bank) == 1
    assert "bad.wav" in caplog.text


def test_processes_decode_a_large_corpus_to_the_same_bank(tmp_path, monkeypatch, caplog):
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", tone(200 + number, 0.1 * (number + 1), 16_000), 16_000)
    (tmp_path / "3.wav").write_bytes(b"RIFF")
    sources = list_sources(str(tmp_path), ["."], "train", 10**9)
    alone = load_bank(sources, tmp_path / "alone")
    caplog.clear()
    monkeypatch.setattr("enhance_ray.training.bank.ALONE", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    shared = load_bank(sources, tmp_path / "shared")
    assert shared.names == alone.names and len(shared) == 5
    np.testing.assert_array_equal(shared.bounds, alone.bounds)
    np.testing.assert_array_equal(shared.samples, alone.samples)
    assert "3.wav" in caplog.text


@pytest.mark.parametrize("entry", ["nowhere", "empty", "bad.csv"])
def test_a_corpus_that_holds_nothing_is_named(entry, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=entry):
        list_sources(str(tmp_path), [entry], "train", 8)


@pytest.mark.parametrize(
    "settings",
    [
        {"silence_probability": 2.0},
        {"crop_seconds": 0.0},
        {"speed": 0.9},
        {"max_noises": 0},
        {"room_tail": 0.3},
        {"babble_voices": (3, 2)},
        {"babble_snr_db": (0, 5)},
        {"noiseless_damage": 1.5},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ExampleConfig(**settings)


def test_the_longest_run_starts_at_once(banks):
    """Its order of examples is made as it goes: all of it at once would not fit in memory."""
    settings = {"batch_size": 1, "first": 0, "steps": 10**12, "rank": 0, "world_size": 1, "workers": 0}
    batch = next(batches(Examples(banks, CONFIG, seed=0), **settings))
    assert batch["noisy"].shape == (1, 22_050)
