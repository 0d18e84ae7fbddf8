"""What was cut off is made anew, and nothing else is touched."""

import numpy as np
import pytest
import soundfile
import torch

from enhance_ray import metrics
from enhance_ray.dsp.declip import declip, limits_of
from enhance_ray.dsp.mending import Mender
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.framing import Framing
from enhance_ray.options import EnhanceOptions

RATE = 44_100


@pytest.fixture(scope="module")
def speech(pytestconfig):
    path = sorted((pytestconfig.rootpath / "samples" / "clean").iterdir())[0]
    waveform, rate = soundfile.read(path, dtype="float32", frames=4 * RATE)
    assert rate == RATE
    return 0.9 * waveform / np.abs(waveform).max()


def clipped(waveform, level, *, lower=None, bits=16):
    cut = np.clip(waveform, -(lower or level), level)
    return np.rint(cut * 2 ** (bits - 1)) / np.float32(2 ** (bits - 1)) if bits else cut


def mended(waveform, rate=RATE):
    return declip(torch.from_numpy(waveform)[None], rate)[0].numpy()


@pytest.mark.parametrize(("level", "least"), [(0.4, 6), (0.2, 4)])
def test_speech_that_was_cut_off_comes_near_what_it_was(speech, level, least):
    cut = clipped(speech, level)
    assert metrics.si_sdr(mended(cut), speech) > metrics.si_sdr(cut, speech) + least


def test_samples_that_are_whole_stay_as_they_are_and_others_go_beyond_the_limit(speech):
    cut = clipped(speech, 0.3)
    again = mended(cut)
    above, below = (mark.numpy() for mark in limits_of(torch.from_numpy(cut), RATE))
    whole = ~(above | below)
    np.testing.assert_array_equal(again[whole], cut[whole])
    assert (again[above] >= 0.3 - 1e-3).all() and (again[below] <= -0.3 + 1e-3).all()
    assert np.abs(again).max() > 0.5


def test_limits_that_differ_by_sign_are_both_found(speech):
    cut = clipped(speech, 0.2, lower=0.35)
    above, below = limits_of(torch.from_numpy(cut), RATE)
    np.testing.assert_allclose(cut[above], 0.2, atol=1e-4)
    np.testing.assert_allclose(cut[below], -0.35, atol=1e-4)
    assert metrics.si_sdr(mended(cut), speech) > metrics.si_sdr(cut, speech) + 3


@pytest.mark.parametrize("bits", [16, 24, None])
def test_what_was_not_cut_off_is_the_same_sample_for_sample(speech, bits):
    quiet = clipped(0.1 * speech, 1.0, bits=bits)
    for waveform in (clipped(speech, 1.0, bits=bits), quiet, np.zeros(RATE, np.float32)):
        np.testing.assert_array_equal(mended(waveform.astype(np.float32)), waveform)


def test_a_square_wave_is_meant_so():
    square = np.where(np.arange(RATE) % 100 < 50, 0.5, -0.5).astype(np.float32)
    np.testing.assert_array_equal(mended(square), square)


def test_a_recording_in_blocks_is_mended_alike_whatever_their_lengths(speech):
    cut = torch.from_numpy(np.tile(clipped(speech, 0.25), 7)[: 26 * RATE])[None]

    def streamed(size):
        mender = Mender([declip], 1, RATE)
        return torch.cat([*map(mender.push, cut.split(size, dim=-1)), mender.finish()], dim=-1)

    whole = streamed(cut.shape[-1])
    assert whole.shape == cut.shape
    assert torch.equal(streamed(12_345), whole)
    # In chunks it is as good as at once.
    true = np.tile(speech, 7)[: 26 * RATE]
    scores = [metrics.si_sdr(part[0].numpy(), true) for part in (whole, declip(cut, RATE))]
    assert scores[0] == pytest.approx(scores[1], abs=0.3)


@pytest.mark.parametrize(
    ("options", "keeps_waves", "is_mended"),
    [
        ({"mode": "enhance"}, True, True),
        ({"mode": "enhance", "declip": False}, True, False),
        ({"mode": "denoise"}, True, False),
        ({"mode": "enhance"}, False, False),  # the original makes its sound anew
    ],
)
def test_it_is_done_where_it_is_asked_for_and_the_model_keeps_waves(speech, options, keeps_waves, is_mended):
    cut = torch.from_numpy(clipped(speech, 0.25))[None]
    framing = Framing(keeps_waves=keeps_waves)
    analysis = Analysis(framing, RATE, 1, EnhanceOptions(**options), name="it")
    [piece] = analysis.pieces(cut.split(30_000, dim=-1))
    heard = (piece.rows * piece.peaks)[:, : len(piece.gains)] * piece.gains
    assert heard.shape == cut.shape
    assert (float(heard.abs().max()) > 0.3) == is_mended
