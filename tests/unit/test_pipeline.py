import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from enhance_ray.dsp.levels import Meter
from enhance_ray.dsp.resample import resample
from enhance_ray.engine import levels
from enhance_ray.engine.analysis import Analysis
from enhance_ray.engine.batching import Batcher
from enhance_ray.engine.framing import Framing
from enhance_ray.engine.synthesis import Synthesis
from enhance_ray.enhancer import Enhancer
from enhance_ray.errors import AudioError, ConfigError, ModelFailedError
from enhance_ray.models.denoiser import Denoiser, DenoiserConfig
from enhance_ray.models.precision import resolve_precision
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
SHORT_SEGMENTS = EnhanceOptions(segment_seconds=3, overlap_seconds=0.25, context_seconds=0.25)
TINY_SEGMENTS = EnhanceOptions(segment_seconds=1, overlap_seconds=0.1, context_seconds=0.1)


class PeakNormalise(nn.Module):
    """What the denoiser does to the level, and nothing else."""

    def forward(self, rows):
        return rows / (rows.abs().amax(-1, keepdim=True) + 1e-7)


class Half(nn.Module):
    def forward(self, rows):
        return rows / 2


class Recorder(nn.Module):
    """An identity that notes the shapes of its batches."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, rows):
        self.shapes.append(tuple(rows.shape))
        return rows


def enhancer(module=None, **settings):
    return Enhancer(module or nn.Identity(), **{"device": "cpu", "precision": "fp32", **settings})


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return Denoiser(DenoiserConfig(hidden=8, blocks=2, middle_blocks=1, features="compressed", bands=32))


def speech_like(seconds, channels=1, seed=0):
    """Tones under a syllable-like envelope, in some noise."""
    samples = round(seconds * RATE)
    time = torch.arange(samples) / RATE
    envelope = torch.sin(2 * math.pi * 2.5 * time).square()
    voice = sum(torch.sin(2 * math.pi * 140 * k * time + k) / k for k in range(1, 20))
    noise = torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))
    return 0.1 * envelope * voice + 0.01 * noise


def stream(engine, waveform, options=None, block=70_001, **settings):
    blocks = waveform.split(block, dim=-1)
    return torch.cat(list(engine.denoise_stream(blocks, RATE, len(waveform), options, **settings)), dim=-1)


@pytest.mark.parametrize("module", [nn.Identity(), PeakNormalise()])
@pytest.mark.parametrize(
    "samples", [1, 2, 419, 420, 840, 841, 4_410, 30 * RATE - 1, 30 * RATE, 30 * RATE + 1, 95 * RATE]
)
def test_a_model_that_changes_nothing_gives_the_recording_back(module, samples):
    waveform = speech_like(samples / RATE, channels=2)
    output, rate = enhancer(module).denoise(waveform, RATE)
    assert rate == RATE
    torch.testing.assert_close(output, waveform, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seconds", [0.5, 2.99, 3, 3.01, 4.9, 10])
def test_passages_of_any_level_come_back_as_they_were(seconds):
    waveform = speech_like(seconds) * torch.logspace(-4, 0, round(seconds * RATE))
    output = stream(enhancer(PeakNormalise()), waveform, SHORT_SEGMENTS)
    torch.testing.assert_close(output, waveform, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_the_output_is_at_44100_hz_and_as_long_as_the_input(rate):
    waveform = 0.1 * torch.randn(rate * 4 + 1, generator=torch.Generator().manual_seed(0))
    output, sample_rate = enhancer().denoise(waveform, rate, SHORT_SEGMENTS)
    assert sample_rate == RATE
    torch.testing.assert_close(output, resample(waveform, rate, RATE), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: x.double(), lambda x: x.numpy(), lambda x: x.numpy().astype("f8")]
)
@pytest.mark.parametrize("index", [0, slice(0, 1), slice(0, 2)])
def test_the_output_is_of_the_kind_and_dimensions_of_the_input(make, index):
    waveform = make(speech_like(0.3, channels=2)[index])
    output, _ = enhancer().denoise(waveform, RATE)
    assert type(output) is type(waveform)
    assert output.shape == waveform.shape
    np.testing.assert_allclose(np.asarray(output), np.asarray(waveform), rtol=0, atol=1e-6)


def test_a_read_only_array_is_left_as_it_is():
    waveform = speech_like(0.3).numpy()
    waveform.flags.writeable = False
    before = waveform.copy()
    enhancer(Half()).denoise(waveform, RATE)
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("block", [3_333, RATE])
def test_the_output_does_not_depend_on_how_the_stream_is_cut(block, denoiser):
    waveform = speech_like(2, channels=2)
    expected, _ = enhancer(denoiser).denoise(waveform, RATE, TINY_SEGMENTS)
    output = stream(enhancer(denoiser), waveform, TINY_SEGMENTS, block=block)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("batch_size", "threads"), [(1, 2), (3, 1), (8, 2)])
def test_the_output_does_not_depend_on_batch_size_and_threads(denoiser, precision, batch_size, threads):
    waveform = speech_like(3)
    engine = enhancer(denoiser, precision=precision)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = stream(engine, waveform, TINY_SEGMENTS, batch_size=1)
        torch.set_num_threads(threads)
        output = stream(engine, waveform, TINY_SEGMENTS, batch_size=batch_size)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


def test_the_output_does_not_depend_on_companions_in_the_batch(denoiser):
    engine = enhancer(denoiser)
    recordings = {
        name: speech_like(2, seed=seed) * level for name, seed, level in [("a", 1, 1.0), ("b", 2, 0.01)]
    }
    alone = {name: stream(engine, waveform, TINY_SEGMENTS) for name, waveform in recordings.items()}

    batcher = Batcher(engine, TINY_SEGMENTS, batch_size=8)
    analyses = {name: Analysis(engine.framing, RATE, 1, TINY_SEGMENTS, name=name) for name in recordings}
    pieces = [
        (name, piece) for name, analysis in analyses.items() for piece in analysis.push(recordings[name])
    ]
    pieces += [(name, piece) for name, analysis in analyses.items() for piece in analysis.finish()]
    results = [result for name, piece in pieces for result in batcher.add(name, piece)] + batcher.flush()
    for name in recordings:
        synthesis = Synthesis(engine.framing, TINY_SEGMENTS, name=name)
        blocks = [b for r in results if r.owner == name for b in synthesis.add(r.piece, r.output)]
        torch.testing.assert_close(torch.cat(blocks, dim=-1), alone[name], rtol=0, atol=1e-5)


def test_bfloat16_stays_within_30_db_of_float32(denoiser):
    # Eight bits of mantissa are 48 dB for one rounding; some twenty layers add up to about 40 dB here.
    waveform = speech_like(2)
    exact, _ = enhancer(denoiser, precision="fp32").denoise(waveform, RATE)
    rounded, _ = enhancer(denoiser, precision="bf16").denoise(waveform, RATE)
    distance = 10 * torch.log10((exact - rounded).square().sum() / exact.square().sum())
    assert -80 < distance < -30  # above -80: it was bfloat16 that ran


def test_equal_segments_fill_batches_and_the_rest_runs_at_the_end():
    recorder = Recorder()
    engine = enhancer(recorder)
    layout = Framing().layout(SHORT_SEGMENTS)
    seconds = (layout.length + 6 * layout.hop - 100) / RATE  # the last is moved back, onto a frame
    stream(engine, speech_like(seconds), SHORT_SEGMENTS, batch_size=3)
    row = engine.framing.row_length(layout.length)
    assert recorder.shapes == [(3, row), (3, row), (1, row)]


def test_more_channels_than_a_batch_holds_run_in_several():
    recorder = Recorder()
    waveform = speech_like(1, channels=8)
    output = stream(enhancer(recorder), waveform, batch_size=3)
    assert [rows for rows, _ in recorder.shapes] == [3, 3, 2]
    torch.testing.assert_close(output, waveform, rtol=0, atol=1e-6)


def test_short_recordings_of_one_frame_count_share_a_row_length():
    row_length = Framing().row_length
    assert row_length(50 * 420) == row_length(50 * 420 - 21) != row_length(51 * 420)
    assert row_length(30 * RATE) == 30 * RATE + 441  # the reference's


@pytest.mark.parametrize("samples", [1, 398, 399, 400, 819, 820, 841, 100_000])
def test_whole_frames_of_a_row_cover_the_segment_and_are_enough_for_the_model(samples):
    row = Framing().row_length(samples)
    assert row >= 841
    assert row // 420 * 420 >= samples


def test_what_the_model_makes_of_the_context_is_not_heard():
    class BadEdges(nn.Module):
        def forward(self, rows):
            rows = rows.clone()
            rows[:, : RATE // 5] = 0
            rows[:, 3 * RATE - RATE // 5 :] = 0
            return rows

    waveform = speech_like(12)
    output = stream(enhancer(BadEdges()), waveform, SHORT_SEGMENTS)
    inner = slice(RATE // 5, -RATE // 5)
    torch.testing.assert_close(output[:, inner], waveform[:, inner], rtol=0, atol=1e-6)


def test_a_stream_is_answered_while_it_arrives():
    """What is held back bounds memory: one segment, one hop and the look-ahead of the gain curve."""
    received = 0

    def blocks():
        nonlocal received
        for block in speech_like(40).split(RATE, dim=-1):
            received += block.shape[-1]
            yield block

    returned = 0
    for block in enhancer().denoise_stream(blocks(), RATE, 1, SHORT_SEGMENTS):
        assert received - returned < (3 + 2.25 + 4.2 + 1.1) * RATE
        returned += block.shape[-1]
    assert returned == 40 * RATE


@pytest.mark.parametrize(("strength", "share"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_strength_is_the_share_of_the_model(strength, share):
    waveform = speech_like(4)
    output, _ = enhancer(Half()).denoise(waveform, RATE, EnhanceOptions(strength=strength))
    torch.testing.assert_close(output, waveform * share, rtol=0, atol=1e-6)


def test_mono_is_the_mean_of_the_channels():
    waveform = speech_like(4, channels=2)
    output, _ = enhancer().denoise(waveform, RATE, EnhanceOptions(channels="mono"))
    torch.testing.assert_close(output, waveform.mean(0, keepdim=True), rtol=0, atol=1e-6)


def loudness(waveform):
    meter = Meter(RATE, len(waveform))
    meter.push(waveform)
    return meter


@pytest.mark.parametrize("in_memory", [2**20, 1_000])  # the second waits on the disk
def test_a_loudness_target_is_met(in_memory, monkeypatch):
    monkeypatch.setattr(levels, "_SPOOLED_IN_MEMORY", in_memory)
    waveform = speech_like(5, channels=2)
    output, _ = enhancer().denoise(waveform, RATE, EnhanceOptions(loudness=-30))
    assert loudness(output).loudness == pytest.approx(-30, abs=0.01)
    gain = output.norm() / waveform.norm()
    torch.testing.assert_close(output, gain * waveform, rtol=0, atol=1e-6)  # nothing else has changed


def test_a_loudness_that_needs_too_much_of_a_limiter_is_missed_and_said(caplog):
    waveform = speech_like(5)
    with caplog.at_level(logging.WARNING):
        output, _ = enhancer().denoise(waveform, RATE, EnhanceOptions(loudness=0, peak_limit=-3))
    assert -3.5 < loudness(output).peak <= -3
    assert "more than 12 dB to keep it below -3 dBTP" in caplog.text
    assert f"its loudness is {loudness(output).loudness:.1f} LUFS, not 0.0" in caplog.text


def test_silence_stays_silence_whatever_loudness_is_asked_for(caplog):
    output, _ = enhancer().denoise(torch.zeros(2, RATE), RATE, EnhanceOptions(loudness=-20))
    assert not output.any()
    assert "too quiet to have a loudness" in caplog.text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_no_number_is_refused_with_its_position(value):
    waveform = speech_like(15, channels=2)
    waveform[1, round(12.34 * RATE)] = value
    with pytest.raises(AudioError, match=r"NaN or infinite samples at 12\.34 s"):
        enhancer().denoise(waveform, RATE)


def test_a_recording_without_samples_is_refused():
    with pytest.raises(AudioError, match="it has no samples"):
        enhancer().denoise(torch.zeros(1, 0), RATE)
    with pytest.raises(AudioError, match="it has no samples"):
        list(enhancer().denoise_stream([], RATE, 1))


@pytest.mark.parametrize("waveform", [np.zeros(100, dtype=np.int16), torch.zeros(100, dtype=torch.int32)])
def test_integer_samples_are_refused_because_their_full_scale_is_unknown(waveform):
    with pytest.raises(ConfigError, match="expected floating point with full scale at 1"):
        enhancer().denoise(waveform, RATE)


@pytest.mark.parametrize(
    ("waveform", "rate", "reason"),
    [
        (np.zeros((44_100, 2), np.float32), RATE, r"means 44,100 channels.*layout='time_channel'"),
        ("talk.wav", RATE, "it is a path: read the file first"),
        (Path("talk.wav"), RATE, "it is a path: read the file first"),
        ([[0.1, 0.2], [0.1]], RATE, "its channels differ in length"),
        ([1, 2, 3], RATE, "expected floating point"),
        (RATE, np.zeros(100, np.float32), "it is a number: the waveform comes first"),
        (np.zeros(100, np.float32), 0, "expected a positive whole number of Hz, got 0"),
        (np.zeros(100, np.float32), 44_100.5, "expected a positive whole number of Hz, got 44100.5"),
        (np.zeros(100, np.float32), float("nan"), "expected a positive whole number of Hz, got nan"),
        (np.zeros(100, np.float32), None, "expected a positive whole number of Hz, got None"),
        (np.zeros(100, np.float32), "44100", "expected a positive whole number of Hz, got '44100'"),
    ],
)
def test_what_is_no_waveform_or_no_rate_is_said_in_one_sentence(waveform, rate, reason):
    with pytest.raises(ConfigError, match=reason):
        enhancer().denoise(waveform, rate)


def test_arrays_as_soundfile_gives_them_come_back_so(denoiser):
    engine = enhancer(denoiser)
    waveform = speech_like(1, channels=2)
    expected, _ = engine.denoise(waveform, RATE)

    output, _ = engine.denoise(waveform.T.numpy(), float(RATE), layout="time_channel")
    mono, _ = engine.denoise(waveform[0].numpy(), RATE, layout="time_channel")
    of_list, _ = engine.denoise(waveform.tolist(), RATE)

    np.testing.assert_array_equal(output, expected.T)
    np.testing.assert_array_equal(of_list, expected)
    assert mono.shape == (expected.shape[1],)
    with pytest.raises(ConfigError, match="layout: expected channel_time or time_channel"):
        engine.denoise(waveform, RATE, layout="rows")


def test_arrays_of_another_shape_than_announced_are_refused():
    with pytest.raises(ConfigError, match=r"got shape \(1, 2, 3\)"):
        enhancer().denoise(torch.zeros(1, 2, 3), RATE)
    with pytest.raises(ConfigError, match=r"expected \(2, time\) for a block, got shape \(1, 100\)"):
        list(enhancer().denoise_stream([torch.zeros(1, 100)], RATE, 2))


def test_a_broken_model_never_writes_what_is_no_number():
    class Broken(nn.Module):
        def forward(self, rows):
            return rows * math.nan

    with pytest.raises(ModelFailedError, match="cannot restore the waveform: the model gave NaN"):
        enhancer(Broken()).denoise(speech_like(1), RATE)


@pytest.mark.parametrize("device", ["cuda:99", "abacus", "meta", "gpu"])
def test_a_device_that_is_absent_or_unknown_is_refused(device):
    with pytest.raises(ConfigError, match="device: "):
        Enhancer(nn.Identity(), device=device)


def test_bf16_is_chosen_only_where_the_processor_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for capabilities, expected in [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx2": True}, "fp32"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert resolve_precision("auto", cpu) == expected
    assert resolve_precision("fp32", cpu) == "fp32"


def test_a_batch_that_does_not_fit_into_memory_runs_in_smaller_ones_from_then_on(caplog):
    sizes = []

    class Small(nn.Module):
        def forward(self, rows):
            sizes.append(len(rows))
            if len(rows) > 2:
                raise torch.OutOfMemoryError("no room")
            return 2 * rows

    enhancer = Enhancer(Small(), device="cpu", precision="fp32")
    rows = torch.randn(7, 2121)
    for _ in range(2):
        torch.testing.assert_close(enhancer.run(rows, EnhanceOptions(), [0] * 7), 2 * rows)
    assert sizes == [7, 4, 2, 2, 2, 1, 2, 2, 2, 1]
    assert len(caplog.messages) == 2


def test_a_segment_that_does_not_fit_alone_is_an_error():
    class Tiny(nn.Module):
        def forward(self, rows):
            raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        Enhancer(Tiny(), device="cpu").run(torch.randn(2, 2121), EnhanceOptions(), [0, 0])
