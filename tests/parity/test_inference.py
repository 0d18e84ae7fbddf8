"""The original's chunked inference, around our models: what a whole file of it sounds like.

Its chunks and its search for a shift are written out here from spec 5.1 and 5.2 and nowhere else: the package
joins in its own way (see README.md). That they give the original's files shows that nothing but the
joins stands between the two.
"""

import numpy as np
import pytest
import torch
from golden.torchaudio_numbers import NUMBERS
from parity.fixtures import FOLDER, Fixture, load_weights
from parity.test_enhancer import TINY, TINY_DENOISER
from torch.nn import functional as F

from enhance_ray.dsp.resample import resample
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.settings.options import EnhanceOptions

RATE = 44_100
needs_all_numbers = pytest.mark.skipif(
    "merge/aligned" not in (FOLDER / "manifest.json").read_text(),
    reason="these numbers are not in the selection of tests/golden (see ENHANCE_RAY_PARITY)",
)


def merge_mel(waveform):
    spectrum = torch.stft(
        waveform, 1024, 220, 880, torch.hann_window(880), return_complex=True, pad_mode="reflect"
    )
    with np.load(NUMBERS) as numbers:
        bank = torch.from_numpy(numbers["melscale_fbanks"])
    return torch.log1p(torch.einsum("ft,fm->mt", spectrum.abs().square(), bank))


def shift(previous, following):
    """By how much the original thinks that the ``following`` second lags behind the ``previous`` one."""
    a, b = (torch.fft.fft(merge_mel(part), dim=-1) for part in (previous, following))
    correlation = torch.fft.ifft(a * b.conj(), dim=-1).abs().mean(0)
    position = int(correlation.argmax())
    length = len(correlation)
    return -220 * (position - length if position > length // 2 else position)


def merge(chunks, chunk, hop, length):
    overlap = chunk - hop
    canvas = torch.zeros((len(chunks) - 1) * hop + chunk)
    ramp = torch.linspace(0, 1, overlap)
    offsets = []
    for i, piece in enumerate(chunks):
        padded = F.pad(piece, (0, chunk - len(piece)))
        faded = padded.clone()
        if i > 0:
            faded[:overlap] *= ramp
        if i < len(chunks) - 1 or len(chunks) == 1:
            faded[hop:] *= ramp.flip(0)
        start = i * hop
        if i > 0:
            offsets.append(shift(chunks[i - 1][-overlap:], padded[:overlap]))
            start -= offsets[-1]
        end = min(start + chunk, len(canvas))
        canvas[start:end] += faded[: end - start]
    return (canvas if length is None else canvas[:length]), offsets


def infer(waveform, chunk_seconds, overlap_seconds, run):
    chunk, overlap = round(chunk_seconds * RATE), round(overlap_seconds * RATE)
    hop = chunk - overlap
    pieces = []
    for start in range(0, len(waveform), hop):
        part = waveform[start : start + chunk]
        peak = part.abs().max().clamp_min(1e-7)
        answer = run(F.pad(part / peak, (0, 441)), len(pieces))
        pieces.append(F.pad(answer, (0, max(0, len(part) - len(answer))))[: len(part)] * peak)
    return merge(pieces, chunk, hop, len(waveform))


@needs_all_numbers
@pytest.mark.parametrize("name", ["merge/aligned", "merge/shifted"])
def test_merging_is_the_originals(name):
    fixture = Fixture(name)
    inputs = fixture.entry["inputs"]
    merged, offsets = merge(
        [fixture.input(f"chunk{i}") for i in range(inputs["n"])],
        fixture.hyper["chunk_length"],
        fixture.hyper["hop_length"],
        inputs["length"],
    )
    fixture.check("merged", merged)
    assert offsets == fixture.output("offsets").tolist()


TOYS = [f"inference/toy_identity_{length}" for length in (6000, 8820, 24500, 15200)]


@needs_all_numbers
@pytest.mark.parametrize("name", [*TOYS, "inference/toy_delay_24500"])
def test_chunked_inference_of_toy_models_is_the_originals(name):
    fixture = Fixture(name)
    hyper = fixture.hyper
    lengths = []

    def toy(rows, index):
        lengths.append(len(rows))
        delay = 220 * (index % 3) if hyper["kind"] == "delay" else 0
        return 0.5 * F.pad(rows, (delay, 0))[: len(rows)]

    waveform = Fixture("inference/toy_identity_6000").input("x")[: hyper["length"]]
    joined, offsets = infer(waveform, hyper["chunk_seconds"], hyper["overlap_seconds"], toy)
    fixture.check("y", joined)
    assert offsets == fixture.output("offsets").tolist()


@needs_all_numbers
@pytest.mark.parametrize(
    "name", ["inference/tiny_denoiser", "inference/tiny_enhancer", "inference/tiny_denoiser_from_22k05"]
)
@torch.inference_mode()
def test_a_file_through_the_original_s_chunks_is_the_originals(name):
    fixture = Fixture(name)
    hyper = fixture.hyper
    net = EnhancerNet(TINY, TINY_DENOISER)
    load_weights(net, Fixture("enhancer/tiny_a").module_weights(""))
    net.freeze()

    def run(rows, index):
        if "denoiser" in name:
            return net.denoiser(rows[None])[0]
        options = EnhanceOptions(
            nfe=hyper["nfe"],
            solver=hyper["solver"],
            denoise_strength=hyper["lambd"],
            prior_temperature=hyper["tau"],
        )
        prior, noise = fixture.noise(2 * index), fixture.noise(2 * index + 1)
        return net(rows[None], options, prior_noise=prior, vocoder_noise=noise)[0]

    source = fixture if "22k05" in name else Fixture("inference/tiny_denoiser")
    waveform = resample(source.input("x"), hyper["sr"], RATE)
    joined, offsets = infer(waveform, hyper["chunk_seconds"], hyper["overlap_seconds"], run)
    fixture.check("y", joined)
    assert np.array_equal(offsets, fixture.output("offsets").tolist())
