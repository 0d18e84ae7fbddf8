import pytest
import torch

from enhance_ray.dsp.segments import Joiner, Layout, Splitter

TOY = Layout(length=10, overlap=2, context=1)
REAL = Layout(length=30 * 44_100, overlap=44_100, context=22_050)


def split(waveform, layout, block):
    splitter = Splitter(layout)
    pieces = [piece for part in waveform.split(block, dim=-1) for piece in splitter.push(part)]
    return pieces + splitter.finish()


def join(pieces, layout):
    joiner = Joiner(layout)
    return torch.cat([joiner.add(segment, waveform) for segment, waveform in pieces], dim=-1)


def ramp(samples):
    return torch.arange(1.0, samples + 1)[None]


@pytest.mark.parametrize(
    "layout", [TOY, Layout(10, 0, 0), Layout(10, 0, 2), Layout(10, 4, 0), Layout(10, 3, 3)]
)
@pytest.mark.parametrize("block", [1, 3, 1000])
def test_joining_undoes_splitting_at_every_length(layout, block):
    for length in range(1, 60):
        assert torch.equal(join(split(ramp(length), layout, block), layout), ramp(length)), length


@pytest.mark.parametrize("seconds", [1 / 44_100, 0.02, 29.99, 30, 30 + 1 / 44_100, 47, 58, 95])
def test_joining_undoes_splitting_at_the_default_settings(seconds):
    waveform = torch.randn(2, round(seconds * 44_100), generator=torch.Generator().manual_seed(0))
    assert torch.equal(join(split(waveform, REAL, 100_000), REAL), waveform)


def test_all_segments_of_a_long_recording_have_one_length():
    for length in range(10, 60):
        assert {waveform.shape for _, waveform in split(ramp(length), TOY, 7)} == {(1, 10)}


def test_a_recording_shorter_than_a_segment_is_one_segment_of_its_own_length():
    ((segment, waveform),) = split(ramp(9), TOY, 4)
    assert (segment.start, segment.stop, segment.last) == (0, 9, True)
    assert torch.equal(waveform, ramp(9))


def test_an_empty_recording_has_no_segment():
    assert split(ramp(0), TOY, 1) == []


def test_every_segment_is_the_stretch_of_the_recording_that_it_says():
    recording = ramp(57)
    for segment, waveform in split(recording, TOY, 5):
        assert torch.equal(waveform, recording[:, segment.start : segment.stop])


def test_the_context_of_a_segment_never_reaches_the_output():
    """Marks what a model computes at the inner edges; no mark may be left, at any length."""
    for length in range(11, 60):
        pieces = []
        for segment, original in split(torch.ones(1, length), TOY, 4):
            waveform = original.clone()
            if segment.start > 0:
                waveform[:, : TOY.context] = 99
            if not segment.last:
                waveform[:, -TOY.context :] = 99
            pieces.append((segment, waveform))
        assert torch.equal(join(pieces, TOY), torch.ones(1, length)), length


def test_between_two_segments_the_sound_moves_from_one_to_the_other_in_a_straight_line():
    layout = Layout(length=20, overlap=4, context=2)
    pieces = split(torch.zeros(1, 32), layout, 32)
    levels = [(segment, torch.full_like(waveform, float(i))) for i, (segment, waveform) in enumerate(pieces)]
    joined = join(levels, layout)[0]
    assert joined.tolist() == [0.0] * 14 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 14


def test_a_layout_that_cannot_advance_is_refused():
    with pytest.raises(ValueError, match="cannot advance"):
        Layout(length=10, overlap=4, context=3)
