"""The benchmark's mixtures: nothing that training saw, the ratio that was asked for, always the same."""

import importlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from enhance_ray.errors import AudioReadError, ConfigError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RATE = 44_100


@pytest.fixture
def mixtures(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("mixtures")


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("peers")


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("quality")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two validation speakers and one for training, a long and a short noise, rooms on both sides."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for name in ("fg", "bg", "rir"):
        (folder / name).mkdir()
    speech_rows = ["file,speaker,seconds,split"]
    for speaker, split in (("a", "valid"), ("b", "valid"), ("c", "train")):
        for clip in range(4):
            file = f"fg/{speaker}_{clip}.wav"
            syllables = np.repeat(rng.uniform(0, 1, 12) > 0.4, RATE // 4)  # 3 s, with pauses
            soundfile.write(folder / file, 0.1 * syllables * rng.standard_normal(syllables.size), RATE)
            speech_rows.append(f"{file},{speaker},3.0,{split}")
    noise_rows = ["file,split"]
    for name, seconds, split in (
        ("long", 12, "valid"),
        ("short", 0.7, "valid"),
        ("keyboard", 0.2, "valid"),
        ("seen", 5, "train"),
    ):
        soundfile.write(folder / f"bg/{name}.wav", 0.1 * rng.standard_normal(int(seconds * RATE)), RATE)
        noise_rows.append(f"bg/{name}.wav,{split}")
    (folder / "fg.csv").write_text("\n".join(speech_rows))
    (folder / "bg.csv").write_text("\n".join(noise_rows))
    for name in ("sim_small_0008", "sim_medium_0160", "sim_car_0004"):  # the last is for training
        tail = 0.05 * rng.standard_normal(RATE // 4) * np.exp(-np.arange(RATE // 4) / 2000)
        tail[:44], tail[44] = 0, 1
        np.save(folder / f"rir/{name}.npy", tail.astype(np.float16))
    measured = {"file": "sim_small_0008.npy", "dim": None, "t60": 0.4}
    unknown = {"file": "sim_medium_0160.npy", "dim": None, "t60": None}
    (folder / "rir/rir.json").write_text(json.dumps([measured, unknown]))
    return folder


def test_fewer_mixtures_are_a_prefix_of_more(mixtures, data):
    corpus = mixtures.Corpus(data)
    assert corpus.plans(3) == corpus.plans(9)[:3]
    assert corpus.plans(3, seed=1) != corpus.plans(3)


def test_a_plan_sounds_the_same_every_time(mixtures, data):
    plan = mixtures.Corpus(data).plans(2)[1]
    first, second = (mixtures.Corpus(data).render(plan) for _ in range(2))
    np.testing.assert_array_equal(first.noisy, second.noisy)
    np.testing.assert_array_equal(first.clean, second.clean)


def test_only_what_training_did_not_see_is_used(mixtures, data):
    plans = mixtures.Corpus(data).plans(40)
    assert {plan.speaker for plan in plans} == {"a", "b"}
    assert {file for plan in plans for file in plan.speech} == {
        f"fg/{s}_{c}.wav" for s in "ab" for c in range(4)
    }
    noises = {file for plan in plans if plan.condition != "babble" for file in plan.noise}
    assert noises == {"bg/long.wav", "bg/short.wav", "bg/keyboard.wav"}
    assert {plan.rir for plan in plans} == {None, "rir/sim_small_0008.npy", "rir/sim_medium_0160.npy"}
    assert [plan.rir is not None for plan in plans] == [plan.condition == "reverberant" for plan in plans]


def test_conditions_take_turns_and_each_has_every_speaker(mixtures, data):
    plans = mixtures.Corpus(data).plans(40)
    assert [plan.condition for plan in plans[: len(mixtures.CONDITIONS)]] == list(mixtures.CONDITIONS)
    assert {(plan.condition, plan.speaker) for plan in plans} == {
        (condition, speaker) for condition in mixtures.CONDITIONS for speaker in "ab"
    }


def test_each_damage_is_what_its_name_says(mixtures, data):
    corpus = mixtures.Corpus(data)
    for plan in corpus.plans(20):
        noisy = corpus.render(plan).noisy
        power = np.square(np.abs(np.fft.rfft(noisy)))
        frequency = np.fft.rfftfreq(noisy.size, 1 / RATE)
        if plan.condition == "band-limited":
            assert power[frequency > 1.05 * plan.narrow_rate / 2].sum() < 1e-4 * power.sum()
        elif plan.condition == "codec":
            assert noisy.size == corpus.render(plan).clean.size
        elif plan.condition.startswith("noiseless"):
            np.testing.assert_array_equal(noisy, corpus.render(plan).clean)
            wide = power[frequency > 8200].sum() > 1e-4 * power.sum()
            assert wide == (plan.condition == "noiseless")
        elif plan.condition == "packet-loss":
            frames = noisy[: noisy.size // 882 * 882].reshape(-1, 882)
            silent = np.abs(frames[:, 200:-200]).max(axis=1) < 1e-9
            pairs = itertools.pairwise(frames[:, 200:-200])
            repeated = [np.allclose(after, 0.5 * before, rtol=1e-4, atol=1e-7) for before, after in pairs]
            assert np.mean(silent[:-1] | repeated) > 0.01
        share = np.mean(np.abs(noisy) >= 0.999 * np.abs(noisy).max())
        assert (share > 0.001) == (plan.condition == "clipped")


def test_pairs_are_written_with_a_table_that_an_evaluation_reads(mixtures, data, tmp_path):
    from enhance_ray import evaluation

    corpus = mixtures.Corpus(data)
    count = len(mixtures.CONDITIONS)
    corpus.write(corpus.plans(count), tmp_path)
    settings = evaluation.EvaluateConfig(
        clean=str(tmp_path / "clean"), noisy=str(tmp_path / "noisy"), table=str(tmp_path / "table.csv")
    )
    items = evaluation.plan(settings)
    assert [item.condition for item in items] == list(mixtures.CONDITIONS)
    narrow = mixtures.CONDITIONS.index("band-limited")
    assert items[narrow].known["bandwidth_hz"] == corpus.plans(count)[narrow].narrow_rate / 2
    noisy, rate = soundfile.read(tmp_path / "noisy" / "0001.flac")
    np.testing.assert_allclose(noisy, corpus.render(corpus.plans(2)[1]).noisy, atol=2**-23)
    assert rate == RATE


def test_active_speech_stands_above_the_noise_by_the_planned_ratio(mixtures, data):
    corpus = mixtures.Corpus(data)
    for plan in corpus.plans(8, conditions=("additive", "reverberant")):
        mixture = corpus.render(plan)
        noise = mixture.noisy - mixture.clean
        snr_db = 10 * np.log10(mixtures.active_power(mixture.clean) / np.square(noise).mean())
        assert snr_db == pytest.approx(plan.snr_db, abs=1e-6)
        assert np.abs(mixture.noisy).max() <= 0.99 + 1e-9
        assert mixture.noisy.size == mixture.clean.size == round(plan.seconds * RATE)


def test_babble_is_several_others_who_are_equally_loud(mixtures, data):
    corpus = mixtures.Corpus(data)
    for plan in corpus.plans(10, conditions=("babble",)):
        assert 3 <= len(plan.noise) <= 8
        assert not any(file.startswith(f"fg/{plan.speaker}_") for file in plan.noise)
        mixture = corpus.render(plan)
        noise = mixture.noisy - mixture.clean
        snr_db = 10 * np.log10(mixtures.active_power(mixture.clean) / np.square(noise).mean())
        assert snr_db == pytest.approx(plan.snr_db, abs=1e-6) and 0 <= plan.snr_db <= 10


def test_impacts_are_impulsive_recordings_with_pauses(mixtures, data):
    """The keyboard's 0.2 s come once a second, as loud as planned where they are heard."""
    corpus = mixtures.Corpus(data)
    for plan in corpus.plans(4, conditions=("impacts",)):
        assert plan.noise == ("bg/keyboard.wav",)
        mixture = corpus.render(plan)
        noise = mixture.noisy - mixture.clean
        assert np.mean(np.abs(noise) > 1e-9) == pytest.approx(0.2, abs=0.08)
        snr_db = 10 * np.log10(mixtures.active_power(mixture.clean) / mixtures.active_power(noise))
        assert snr_db == pytest.approx(plan.snr_db, abs=1e-6)


def test_a_condition_that_the_corpus_cannot_give_is_refused(mixtures, data):
    corpus = mixtures.Corpus(data)
    corpus.impacts = []
    with pytest.raises(ConfigError, match="leave it out of --conditions"):
        corpus.plans(10)
    assert len(corpus.plans(10, conditions=("additive",))) == 10


def test_rooms_without_a_size_are_read(mixtures, data):
    corpus = mixtures.Corpus(data)
    facts = [corpus.facts(plan) for plan in corpus.plans(20, conditions=("reverberant",))]
    assert {fact.get("t60") for fact in facts} == {0.4, None}


def test_a_speaker_who_may_be_one_of_training_is_left_out(mixtures, data, monkeypatch):
    monkeypatch.setattr(mixtures, "TRAINED_SPEAKERS", ("a",))
    assert mixtures.Corpus(data).clips.keys() == {"b"}


def test_the_active_level_leaves_the_pauses_out(mixtures):
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time)
    assert mixtures.active_power(np.concatenate([tone, 0.001 * tone])) == pytest.approx(0.5, rel=1e-6)


def test_a_short_noise_goes_on_to_the_end_without_a_gap_or_a_click(mixtures, data):
    corpus = mixtures.Corpus(data)
    plans = corpus.plans(20, conditions=("additive",))
    plan = next(plan for plan in plans if plan.noise == ("bg/short.wav",))
    mixture = corpus.render(plan)
    noise = mixture.noisy - mixture.clean
    frames = noise[: noise.size // 441 * 441].reshape(-1, 441)
    level = np.sqrt(np.square(frames).mean(axis=1))
    assert level.min() > 0.7 * np.median(level)  # white noise in frames of 441 varies by 3 %
    assert level.max() < 1.4 * np.median(level)


def test_a_loop_has_no_jump_where_it_closes(mixtures):
    ramp = np.linspace(0, 1, 10_000)  # its ends are as far apart as can be
    looped = mixtures._looped(ramp, 40_000)
    assert looped.size >= 40_000 + 7_500
    assert np.abs(np.diff(looped)).max() < 2e-3


def test_the_room_neither_shifts_the_speech_nor_stays_in_a_dry_reference(mixtures, data):
    corpus = mixtures.Corpus(data)
    plan = corpus.plans(2)[1]
    heard, dry = corpus.render(plan).clean, corpus.render(plan, "dry").clean
    lag = scipy.signal.correlate(heard, dry, method="fft").argmax() - (dry.size - 1)
    assert lag == 0
    assert not np.allclose(heard, dry, atol=1e-3)


def test_a_corpus_without_validation_speech_is_refused_by_name(mixtures, data, tmp_path):
    (tmp_path / "fg.csv").write_text("file,speaker,seconds,split\nfg/a.wav,a,3.0,train\n")
    with pytest.raises(ConfigError, match=r"fg\.csv: has no row whose split is 'valid'"):
        mixtures.Corpus(tmp_path)


def test_silent_noise_is_refused_by_name(mixtures, data, tmp_path):
    for name in ("fg", "fg.csv", "rir"):
        (tmp_path / name).symlink_to(data / name)
    (tmp_path / "bg").mkdir()
    soundfile.write(tmp_path / "bg/none.wav", np.zeros(RATE), RATE)
    (tmp_path / "bg.csv").write_text("file,split\nbg/none.wav,valid\n")
    corpus = mixtures.Corpus(tmp_path)
    with pytest.raises(AudioReadError, match=r"none\.wav: it is silent"):
        corpus.render(corpus.plans(1, conditions=("additive",))[0])


@pytest.mark.parametrize("delay", [-300, 0, 882])
def test_a_constant_delay_is_found_and_undone(peers, delay):
    speech = np.random.default_rng(0).standard_normal(RATE)
    delayed = 0.5 * (np.pad(speech, (delay, 0)) if delay >= 0 else speech[-delay:])
    assert peers.delay_of(delayed, speech) == delay
    restored = peers.aligned(delayed, delay, speech.size)
    kept = slice(max(0, -delay), None)
    np.testing.assert_array_equal(restored[kept], 0.5 * speech[kept])
    assert restored.size == speech.size


def test_the_denoiser_is_compared_with_the_peer_that_comes_nearest(quality, peers):
    rows = []
    for index in range(10):
        for number, system in enumerate(["denoise", *peers.PEERS]):
            score = 3.0 - 0.1 * number + 0.01 * index * (number != 1)
            rows.append(
                {"index": index, "condition": "additive", "system": system}
                | dict.fromkeys(quality.BARS, score)
            )
    lines = quality.standing(rows, "additive")
    assert len(lines) == 4
    assert lines[0].startswith(f"| additive | PESQ-WB | {next(iter(peers.PEERS))} | +0.145 (+0.1")


def test_the_time_of_each_is_a_row_of_means(quality):
    rows = [
        {"system": system, "rtf": rtf}
        for system, rtf in (("input", None), ("denoise", 0.02), ("denoise", 0.04), ("dfn3", 0.27))
    ]
    assert quality.times(rows) == [
        "| | denoise | dfn3 |",
        "|---|---:|---:|",
        "| seconds of work | 0.0300 | 0.2700 |",
    ]


def test_a_peer_runs_once_for_its_version_and_its_delay_is_taken_out(
    quality, peers, mixtures, data, tmp_path
):
    calls = []

    def late(noisy):
        calls.append(noisy.size)
        return np.pad(noisy, (300, 0))[: noisy.size]

    peers.PEERS["late"] = peers.Peer("numpy", lambda: late)
    corpus = mixtures.Corpus(data)
    plans = corpus.plans(2)
    corpus.write(plans, tmp_path)
    try:
        for _ in range(2):
            quality.restore(data, tmp_path, "late", plans)
    finally:
        del peers.PEERS["late"]
    assert len(calls) == 3  # one to find the delay
    output, _ = soundfile.read(tmp_path / "peers/late/0000.wav")
    noisy, _ = soundfile.read(tmp_path / "noisy/0000.flac")
    np.testing.assert_allclose(output[:-300], noisy[:-300], atol=1e-6)
