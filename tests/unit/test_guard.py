"""The guard: harm that is planted is caught, what is good passes, and what was decided is known."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from music import jingle
from torch import nn

from enhance_ray import audio, guard
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.batching import Batcher
from enhance_ray.engine.synthesis import Synthesis
from enhance_ray.enhancer import Enhancer
from enhance_ray.settings.options import EnhanceOptions

SAMPLES = Path(__file__).parents[2] / "samples"
RATE = 44_100
NAMES = ["kathleen_helicopter", "kerstin_rain_in_a_room", "gaelic_playground", "kathleen_chainsaw"]


def clean(name):
    return torch.from_numpy(soundfile.read(SAMPLES / "clean" / f"{name}.flac", dtype="float32")[0])


@pytest.fixture(scope="module")
def enhancer():
    return Enhancer.load(device="cpu")


@pytest.fixture(scope="module")
def restored(enhancer):
    """By name of a sample: what came in, denoised and enhanced, (1, time) each at one level."""
    found = {}
    for name in NAMES:
        path = next((SAMPLES / "noisy").glob(f"{name}.*"))
        with audio.decode(str(path)) as blocks:
            noisy = torch.cat([torch.from_numpy(block[:1]) for block in blocks], dim=-1)
        rows = nn.functional.pad(noisy, (0, enhancer.framing.row_length(noisy.shape[-1]) - noisy.shape[-1]))
        rows /= rows.abs().max()
        answer = enhancer.run(rows, EnhanceOptions(mode="enhance", guard=True), [0])
        found[name] = rows, answer[:, 1], answer[:, 0]
    return found


def choose(original, denoised, enhanced):
    return guard.choose(original, denoised, enhanced, torch.ones(len(original), 1))


def replaced(choice):
    """Share of the steps that are not the best version."""
    return (choice.reasons >= 0).float().mean().item()


def planted(into, piece, start, level=1.0):
    """``into`` (1, time) with ``piece`` (time,) in its place from ``start`` s on, joints faded."""
    first = round(start * RATE)
    fade = torch.ones(len(piece))
    fade[:441] = torch.linspace(0, 1, 441)
    fade[-441:] = torch.linspace(1, 0, 441)
    changed = into.clone()
    under = changed[0, first : first + len(piece)]
    changed[0, first : first + len(piece)] = (1 - fade) * under + fade * level * piece
    return changed


def is_caught(choice, start, seconds):
    """Whether nothing of what was planted is left, its fades apart."""
    steps = slice(round(start * RATE) // guard.STEP + 1, round((start + seconds) * RATE) // guard.STEP)
    return bool((choice.reasons[steps] >= 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_good_output_passes(restored, name):
    assert replaced(choose(*restored[name])) <= 0.05


@pytest.mark.parametrize("seconds", [0.5, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_other_words_are_caught_whoever_says_them(restored, name, seconds):
    original, denoised, enhanced = restored[name]
    other = NAMES[NAMES.index(name) - 1]
    wrong = planted(enhanced, restored[other][2][0, 2 * RATE : round((2 + seconds) * RATE)], 3)
    choice = choose(original, denoised, wrong)
    assert is_caught(choice, 3, seconds)
    kept = guard.mix(original, denoised, wrong, choice)
    middle = slice(round(3.2 * RATE), round((2.8 + seconds) * RATE))
    torch.testing.assert_close(kept[:, middle], denoised[:, middle])


def test_words_said_backwards_are_caught(restored):
    original, denoised, enhanced = restored["kathleen_helicopter"]
    backwards = enhanced[0, 2 * RATE : 4 * RATE].flip(0)
    assert is_caught(choose(original, denoised, planted(enhanced, backwards, 2)), 2, 2)


@pytest.mark.parametrize("level_db", [0, -10, -20])
def test_speech_invented_in_silence_is_caught(restored, level_db):
    original, denoised, enhanced = (version.clone() for version in restored["gaelic_playground"])
    hole = slice(3 * RATE, 5 * RATE)
    noise = 1e-4 * torch.randn(2 * RATE, generator=torch.manual_seed(0))
    original[0, hole], denoised[0, hole] = 100 * noise, noise
    words = restored["kathleen_helicopter"][2][0, 2 * RATE : 4 * RATE]
    choice = choose(original, denoised, planted(enhanced, words, 3, 10 ** (level_db / 20)))
    loud = [
        step
        for step in range(16, 26)
        if words[(step * guard.STEP - 3 * RATE) :][: guard.STEP].square().mean() > 1e-3
    ]
    assert len(loud) > 3
    assert (choice.reasons[loud] >= 0).all()
    reasons = {guard.REASONS[index] for index in choice.reasons[loud]}
    assert reasons <= {"invented", "other_words", "other_pitch"}


def test_words_that_the_enhancer_swallows_come_from_the_denoised(restored):
    original, denoised, enhanced = restored["kathleen_helicopter"]
    loudest = int(denoised[0, : 7 * RATE].unfold(0, RATE // 2, RATE // 10).square().sum(1).argmax())
    start = loudest / 10
    choice = choose(original, denoised, planted(enhanced, torch.zeros(RATE // 2), start))
    assert is_caught(choice, start, 0.5)
    assert guard.REASONS[int(choice.reasons[int((start + 0.25) * RATE) // guard.STEP])] == "speech_lost"


def test_the_colour_and_level_of_the_enhanced_are_its_own(restored):
    original, denoised, enhanced = restored["kerstin_rain_in_a_room"]
    tilted = enhanced - 0.7 * nn.functional.pad(enhanced, (1, 0))[:, :-1]  # 6 dB an octave
    assert replaced(choose(original, denoised, 0.2 * tilted)) <= 0.05


@pytest.mark.parametrize("mode", ["denoise", "enhance"])
def test_music_passes_unharmed(enhancer, mode):
    music = jingle(8.0)
    run = enhancer.denoise if mode == "denoise" else enhancer.enhance
    harmed, _ = run(music, RATE, EnhanceOptions())
    assert (harmed - music).norm() > 0.3 * music.norm()
    kept, _ = run(music, RATE, EnhanceOptions(guard=True))
    torch.testing.assert_close(kept, music, atol=2e-6, rtol=0)


def test_a_jingle_before_speech_passes_and_the_speech_is_restored(enhancer):
    speech = clean("kathleen_helicopter")
    noise = 0.02 * torch.randn(len(speech), generator=torch.manual_seed(0))
    recording = torch.cat([jingle(6.0), speech + noise])
    kept, _ = enhancer.denoise(recording, RATE, EnhanceOptions(guard=True))
    torch.testing.assert_close(kept[: 4 * RATE], recording[: 4 * RATE], atol=2e-6, rtol=0)
    plain, _ = enhancer.denoise(recording, RATE)
    torch.testing.assert_close(kept[8 * RATE :], plain[8 * RATE :], atol=1e-5, rtol=0)


def test_channels_are_decided_alike_and_a_quiet_one_is_not_asked(restored):
    original, denoised, enhanced = (
        version.expand(2, -1).clone() for version in restored["kathleen_helicopter"]
    )
    wrong = planted(enhanced[1:], restored["gaelic_playground"][2][0, RATE : 3 * RATE], 3)
    both = torch.cat([enhanced[:1], wrong])
    assert is_caught(choose(original, denoised, both), 3, 2)
    quiet = guard.choose(original, denoised, both, torch.tensor([[1.0], [0.001]]))
    assert replaced(quiet) <= 0.05


def test_silence_and_a_moment_of_sound_are_no_trouble():
    for length in (100, 841, RATE):
        nothing = torch.zeros(1, length)
        choice = choose(nothing, nothing, nothing)
        assert replaced(choice) == 0
        assert len(choice.versions) == -(-length // guard.STEP)


def test_versions_are_cross_faded_within_one_step():
    choice = guard.Choice(torch.tensor([2, 2, 1, 1, 0, 0]), torch.tensor([-1, -1, 3, 3, 0, 0]))
    levels = (torch.full((1, 6 * guard.STEP - 100), float(version)) for version in (0, 1, 2))
    mixed = guard.mix(*levels, choice)[0]
    assert mixed.diff().abs().max() <= 1.01 / guard.STEP
    assert [mixed[at * guard.STEP].item() for at in (1, 3, 5)] == [2, 1, 0]


def test_spans_say_when_in_the_recording_what_was_kept_and_why():
    choice = guard.Choice(torch.tensor([2, 1, 1, 1, 2, 0]), torch.tensor([-1, 3, 3, 4, -1, 0]))
    step = guard.STEP
    found = list(guard.spans(choice, first=10 * step, start=11 * step, stop=16 * step - 4200))
    at = [round(number * step / RATE, 3) for number in range(20)]
    assert found == [
        guard.Span(start=at[11], stop=at[13], kept="denoised", reason="other_words"),
        guard.Span(start=at[13], stop=at[14], kept="denoised", reason="other_pitch"),
        guard.Span(start=at[15], stop=round(15.5 * step / RATE, 3), kept="original", reason="music"),
    ]
    longer = guard.Span(start=found[-1].stop, stop=9.0, kept="original", reason="music")
    assert guard.joined([*found, longer])[-1] == guard.Span(
        start=at[15], stop=9.0, kept="original", reason="music"
    )
    assert len(guard.joined([*found, longer])) == 3


def test_a_recording_of_many_segments_tells_of_music_once(enhancer):
    options = EnhanceOptions(guard=True, segment_seconds=6, overlap_seconds=0.5, context_seconds=0.5)
    recording = torch.cat([clean("kathleen_helicopter"), jingle(10.0), clean("gaelic_playground")])
    analysis = Analysis(enhancer.framing, RATE, 1, options, name="it")
    synthesis = Synthesis(enhancer.framing, options, name="it")
    pieces = analysis.pieces([recording[None]])
    output = torch.cat(list(synthesis.blocks(Batcher(enhancer, options, 1).results(None, pieces))), dim=-1)
    music = [span for span in synthesis.replaced if span.reason == "music"]
    assert len(music) == 1
    assert music[0].start == pytest.approx(8, abs=2)  # what a segment of 6 s sees of it may be short
    assert music[0].stop == pytest.approx(18, abs=2)
    middle = slice(11 * RATE, 16 * RATE)
    np.testing.assert_allclose(output[0, middle], recording[middle], atol=2e-6)
