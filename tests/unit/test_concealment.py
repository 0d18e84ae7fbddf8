"""Gaps of lost packets are filled, and nothing else is touched."""

import numpy as np
import pytest
import soundfile
import torch

from enhance_ray import metrics
from enhance_ray.dsp.concealment import conceal, gaps_of
from enhance_ray.dsp.mending import Mender
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.framing import Framing
from enhance_ray.options import EnhanceOptions
from enhance_ray.training.degrade.packets import lose_packets

RATE = 44_100
FRAME = RATE // 50


@pytest.fixture(scope="module")
def speech(pytestconfig):
    path = sorted((pytestconfig.rootpath / "samples" / "clean").iterdir())[0]
    waveform, rate = soundfile.read(path, dtype="float32", frames=4 * RATE)
    assert rate == RATE
    return 0.9 * waveform / np.abs(waveform).max()


def lossy(waveform, *, repeat=False, share=0.1, edge=0.002, bits=16):
    """``waveform`` without some of its packets, and which samples that concerns."""
    received = np.random.default_rng(3).random(-(-waveform.size // FRAME)) >= share
    received[[0, -1]] = True
    lost = lose_packets(waveform, RATE, received=received, repeat=repeat, edge=edge)
    return np.rint(lost * 2 ** (bits - 1)).astype(np.float32) / 2 ** (bits - 1), ~np.repeat(received, FRAME)[
        : waveform.size
    ]


def concealed(waveform, rate=RATE):
    return conceal(torch.from_numpy(waveform)[None], rate)[0].numpy()


@pytest.mark.parametrize("edge", [0, 0.002])
@pytest.mark.parametrize("repeat", [False, True])
def test_speech_without_some_of_its_packets_comes_nearer_to_what_it_was(speech, repeat, edge):
    gappy, _ = lossy(speech, repeat=repeat, edge=edge)
    filled = concealed(gappy)
    for score, least in ((metrics.pesq_wb, 0.3), (metrics.estoi, 0.01)):
        assert score(filled, speech, RATE) > score(gappy, speech, RATE) + least
    assert metrics.si_sdr(filled, speech) > metrics.si_sdr(gappy, speech) + 0.5


def test_a_sum_of_tones_goes_on_through_a_gap_as_if_there_were_none():
    time = np.arange(RATE) / RATE
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (117, 450, 1300, 3701)).astype(np.float32) / 5
    gappy = tones.copy()
    gappy[20_000 : 20_000 + 2 * FRAME] = 0
    hole = slice(20_000, 20_000 + 2 * FRAME)
    assert np.abs(concealed(gappy) - tones)[hole].max() < 0.05


@pytest.mark.parametrize("repeat", [False, True])
def test_samples_that_arrived_stay_as_they_are(speech, repeat):
    gappy, lost = lossy(speech, repeat=repeat)
    edge = round(0.005 * RATE)
    near = np.convolve(lost, np.ones(2 * edge + 1), "same") > 0.5
    np.testing.assert_array_equal(concealed(gappy)[~near], gappy[~near])


def test_silence_that_was_meant_stays_silent(speech):
    gated = speech.copy()
    for start in range(20_000, 160_000, 20_000):
        # A gate closes within 0.1 s and opens at once; an editor's cut is longer than what a gap may be.
        gated[start : start + 4_400] *= np.linspace(1, 0, 4_400, dtype=np.float32)
        gated[start + 4_400 : start + 6_200] = 0
    gated[60_000:70_000] = 0
    quiet = np.rint(0.0001 * speech * 2**15).astype(np.float32) / 2**15  # steps of 16 bits with zeros between
    for waveform in (speech, gated, quiet, np.zeros(RATE, np.float32)):
        np.testing.assert_array_equal(concealed(waveform), waveform)


def test_a_tone_from_a_generator_is_no_repeated_packet():
    tone = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)).astype(np.float32)
    assert gaps_of(torch.from_numpy(tone), RATE) == []


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_gaps_are_found_at_every_rate(speech, rate):
    waveform = metrics.resample(speech, RATE, rate).astype(np.float32)
    frame = rate // 50
    loudest = np.square(waveform[: waveform.size // frame * frame].reshape(-1, frame)).mean(-1).argsort()[-8:]
    received = np.ones(-(-waveform.size // frame), bool)
    received[np.sort(loudest)[::3]] = False
    gappy = lose_packets(waveform, rate, received=received, repeat=False)
    found = gaps_of(torch.from_numpy(gappy), rate)
    assert len(found) == (~received).sum()
    assert metrics.si_sdr(concealed(gappy, rate), waveform) > metrics.si_sdr(gappy, waveform) + 1


def test_a_recording_in_blocks_is_filled_alike_whatever_their_lengths(speech):
    gappy = torch.from_numpy(np.tile(lossy(speech)[0], 7)[: 26 * RATE])[None]

    def streamed(size):
        mender = Mender([conceal], 1, RATE)
        return torch.cat([*map(mender.push, gappy.split(size, dim=-1)), mender.finish()], dim=-1)

    whole = streamed(gappy.shape[-1])
    assert whole.shape == gappy.shape
    assert torch.equal(streamed(12_345), whole)
    np.testing.assert_allclose(whole, conceal(gappy, RATE), atol=1e-3)


def test_each_channel_has_gaps_of_its_own(speech):
    gappy, _ = lossy(speech)
    both = conceal(torch.from_numpy(np.stack([speech, gappy])), RATE).numpy()
    np.testing.assert_array_equal(both[0], speech)
    np.testing.assert_array_equal(both[1], concealed(gappy))


@pytest.mark.parametrize(
    ("options", "keeps_waves", "is_filled"),
    [
        ({"mode": "enhance"}, True, True),
        ({"mode": "enhance", "conceal": False}, True, False),
        ({"mode": "denoise"}, True, False),
        ({"mode": "enhance"}, False, False),  # the original makes its sound anew
    ],
)
def test_it_is_done_where_it_is_asked_for_and_the_model_keeps_waves(speech, options, keeps_waves, is_filled):
    gappy = torch.from_numpy(lossy(speech)[0])[None]
    analysis = Analysis(Framing(keeps_waves=keeps_waves), RATE, 1, EnhanceOptions(**options), name="it")
    [piece] = analysis.pieces(gappy.split(30_000, dim=-1))
    heard = (piece.rows * piece.peaks)[:, : len(piece.gains)] * piece.gains
    assert heard.shape == gappy.shape
    assert (float((heard - gappy).abs().max()) > 0.01) == is_filled
