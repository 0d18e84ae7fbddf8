"""How fast this checkout is against another one, side by side in one process and one thread.

    git worktree add /tmp/before REVISION
    python benchmarks/sides.py /tmp/before [--seconds 10] [--repeats 3] [--parts "velocity field" vocoder]
    python benchmarks/sides.py --shapes

Of the original's sizes, frozen in float32, and of the packaged models: milliseconds of each part for a
segment in either checkout, turn by turn, medians of the processor's time for this thread, so that a machine
that does other things counts less; GFLOP/s of the operations as they are written down against a plain matrix
product, measured in between; the relative distance of the outputs. The whole chain has 64 evaluations.
With --shapes, instead: convolutions of three taps by oneDNN and in tiles (`models.winograd`).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import speed
import torch
from torch import Tensor
from torch.nn import functional as F

from enhance_ray.memory import keep_large_blocks
from enhance_ray.models import winograd
from enhance_ray.models.enhancer import EnhancerConfig
from enhance_ray.models.noise import noise_field

EVALUATIONS = EnhancerConfig().nfe
GFLOP_PER_SECOND = {
    **speed.GFLOP_PER_SECOND,
    # As it runs: every part once, the field at each evaluation, the encoder for the start.
    "whole chain": sum(speed.GFLOP_PER_SECOND.values())
    + (EVALUATIONS - 1) * speed.GFLOP_PER_SECOND["velocity field"],
}
PARTS = [*GFLOP_PER_SECOND, "packaged denoise", "packaged enhance"]
SHAPES = [(64, 64), (128, 128), (256, 256), (256, 512), (128, 1024), (512, 1024), (1024, 1024)]
Run = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tree", nargs="?", type=Path, help="another checkout")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the segment (default: 10)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--shapes", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_large_blocks()
    print(f"{speed.describe('cpu')}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}")
    with torch.inference_mode():
        if arguments.shapes:
            shapes(arguments.repeats)
        else:
            compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Print a row for each part."""
    print("| part | before, ms | now, ms | times | GFLOP/s before | now | of a product | distance |")
    print("|---|" + "---:|" * 7)
    for part in arguments.parts:
        pair = [run_of(part, arguments.seconds)]
        with package_of(arguments.tree):
            pair.insert(0, run_of(part, arguments.seconds))
        expected, actual = (run() for run in pair)  # does not count
        distance = ((actual - expected).norm() / expected.norm()).item()
        before, now, product = medians([*pair, product_of_matrices], arguments.repeats)
        row = f"| {part} | {1e3 * before:.0f} | {1e3 * now:.0f} | {before / now:.2f} "
        if part in GFLOP_PER_SECOND:
            gflop = GFLOP_PER_SECOND[part] * arguments.seconds
            share = gflop / now / (2 * 2048**3 / 1e9 / product)
            row += f"| {gflop / before:.0f} | {gflop / now:.0f} | {share:.0%} | {distance:.1e} |"
        else:
            row += f"| | | | {distance:.1e} |"
        print(row, flush=True)
        pair.clear()  # two nets at a time are enough for most machines


@contextlib.contextmanager
def package_of(tree: Path) -> Iterator[None]:
    """Have ``tree``'s package imported anew inside, and this one's afterwards."""
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "enhance_ray"}
    sys.path.insert(0, str(tree.resolve()))
    try:
        yield
    finally:
        sys.path.pop(0)
        for name in list(sys.modules):
            if name.split(".")[0] == "enhance_ray":
                del sys.modules[name]
        sys.modules.update(ours)


def run_of(part: str, seconds: float) -> Run:
    """What computes ``part`` with the package that is imported at the moment."""
    noisy = speed.speech(seconds)
    if part.startswith("packaged"):
        generator = torch.Generator().manual_seed(0)
        noisy = noisy + 0.02 * torch.randn(noisy.shape, generator=generator)
        enhancer = importlib.import_module("enhance_ray.enhancer").Enhancer.load(
            device="cpu", precision="fp32"
        )
        model = enhancer.denoiser if part.endswith("denoise") else enhancer.net
        return lambda: model(noisy)
    net = importlib.import_module("enhance_ray.models.enhancer").EnhancerNet()
    net.load_state_dict(WEIGHTS)
    net.freeze()
    if part == "whole chain":
        return lambda: net(noisy)
    frames = int(noisy.shape[-1] // net.hop)
    prior = noise_field("prior", 64, [0], frames, seed=0)
    noise = noise_field("vocoder", 128, [0], frames + 10, seed=0)
    mel = net.normalise(noisy)[..., :frames]
    biases, conditions = net.flow.net.time_biases(torch.tensor([0.3])), net.flow.net.condition(mel)
    runs: dict[str, Run] = {
        "denoiser": lambda: net.denoised(noisy),
        "encoder": lambda: net.autoencoder.encode(mel),
        "velocity field": lambda: net.flow.net(prior, biases, conditions),
        "decoder": lambda: net.autoencoder.decode(prior),
    }
    if part in runs:
        return runs[part]
    features = net.autoencoder.decode(prior)
    return lambda: net.vocoder(features, noise)


def shapes(repeats: int) -> None:
    """Print a row for each number of channels and of frames, the mean over dilations."""
    print("| channels | frames | oneDNN, ms | in tiles, ms | times | used |\n|---|" + "---:|" * 5)
    for channels, channels_out in SHAPES:
        for frames in (105, 1050, 3150):
            weight = torch.randn(channels_out, channels, 3) * channels**-0.5
            x, tiles = torch.randn(1, frames, channels), winograd.transformed(weight)
            picture = weight[:, :, None].contiguous(memory_format=torch.channels_last)
            sums = [0.0, 0.0]
            for dilation in (1, 4, 16):
                pair: list[Run] = [
                    lambda x=x, d=dilation, picture=picture: F.conv2d(
                        x.transpose(1, 2)[:, :, None], picture, padding=(0, d), dilation=(1, d)
                    ),
                    lambda x=x, d=dilation, tiles=tiles: winograd.convolve(x, tiles, d),
                ]
                sums = [a + b for a, b in zip(sums, medians(pair, repeats), strict=True)]
            cells = f"{1e3 * sums[0] / 3:.2f} | {1e3 * sums[1] / 3:.2f} | {sums[0] / sums[1]:.2f}"
            used = "yes" if winograd.pays(weight) else "no"
            print(f"| {channels} to {channels_out} | {frames} | {cells} | {used} |", flush=True)


def medians(runs: list[Run], repeats: int) -> list[float]:
    """Seconds of this thread that each takes, turn by turn, after a turn that does not count."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(repeats + 1):
        for run, taken in zip(runs, times, strict=True):
            started = time.thread_time()
            run()
            if turn:
                taken.append(time.thread_time() - started)
    return [statistics.median(taken) for taken in times]


def product_of_matrices() -> Tensor:
    """2048 times 2048 numbers."""
    return SQUARE @ SQUARE


SQUARE = torch.randn(2048, 2048)

if __name__ == "__main__":
    WEIGHTS = speed.full_size_net().state_dict()
    main()
