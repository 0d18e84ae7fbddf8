"""How fast the enhancer is at the original's full size, against a plain rewrite of it in the same run.

    python benchmarks/speed.py [--seconds 10] [--device cuda] [--long 600] [--variants plain bf16-compiled]

Each variant runs in a process of its own, one after the other: `plain` (the networks as they are written
down, float32, plain.py), and ours in float32 and bfloat16, as they stand and compiled. Of each: seconds per
second of audio by part and from end to end at 64 evaluations, from which those at fewer follow; what a part
reaches of the GFLOP/s of a plain matrix product of its type in the same process; peak memory; distance of the
output to that of plain float32, given the same noise; and of bfloat16, several segments at once. Weights are
synthetic (the formula of tests/golden/specs.json): times do not depend on them. With --long, the last variant
also streams a recording of so many seconds at one evaluation, for the peak of memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain
import soundfile
import torch
from torch import Tensor

from enhance_ray import checkpoint, metrics, resemble
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.enhancer import Enhancer
from enhance_ray.models.denoiser import normalise_peak
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.noise import noise_field
from enhance_ray.settings.options import MODEL_RATE, EnhanceOptions

ROOT = Path(__file__).parents[1]
GFLOP_PER_SECOND = {
    "denoiser": 43.99,
    "encoder": 10.67,
    "velocity field": 14.06,
    "decoder": 10.65,
    "vocoder": 102.1,
}
"""Of a second of audio and an evaluation (spec 9.3); what is computed once here is counted all the same."""
VARIANTS = ("plain", "fp32", "fp32-compiled", "bf16", "bf16-compiled")
FEWER = (32, 16, 8, 4)
BATCHES = {"cpu": (1, 4), "cuda": (1, 4, 16)}
BATCH_SECONDS, BATCH_NFE = 3, 8


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of the segment (default: 10)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, metavar="NAME")
    parser.add_argument("--long", type=float, help="seconds of a recording for the peak of memory")
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = False  # float32 means it, in either
    if arguments.task:
        task, folder, variant = arguments.task
        run = {"parts": measure, "stream": measure_stream}[task]
        print(json.dumps(run(Path(folder), variant, arguments.seconds, torch.device(arguments.device))))
        return 0
    results: dict[str, Any] = {"device": describe(arguments.device), "threads": arguments.threads}
    print(f"{results['device']}, {arguments.threads} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        save_full_size_model(Path(folder) / "model")
        for variant in arguments.variants:
            results[variant] = in_new_process("parts", folder, variant, arguments, arguments.seconds)
            show(variant, results[variant])
        if "plain" in results:
            compare(results, Path(folder))
        if arguments.long:
            peaks = {
                seconds: in_new_process("stream", folder, arguments.variants[-1], arguments, seconds)
                for seconds in (30.0, arguments.long)
            }
            results["stream"] = {"variant": arguments.variants[-1], **peaks}
            ratio = peaks[arguments.long]["peak_mb"] / peaks[30.0]["peak_mb"]
            print(f"{peaks}: peak of {arguments.long:g} s over that of 30 s: {ratio:.3f}")
    print(json.dumps(results))
    return 0


def in_new_process(
    task: str, folder: str, variant: str, arguments: argparse.Namespace, seconds: float
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--threads", str(arguments.threads), "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, "--device", arguments.device, "--task", task, folder, variant],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(folder: Path, variant: str, length: float, device: torch.device) -> dict[str, Any]:
    """Times of a variant, whose output lies in the folder afterwards."""
    noisy = speech(length).to(device)
    if variant == "plain":
        model = resemble.load_model(folder / "model")
        assert model.net is not None
        net = model.net.eval().to(device)
        for part in net.modules():
            if torch.nn.utils.parametrize.is_parametrized(part):
                torch.nn.utils.parametrize.remove_parametrizations(part, "weight")
        chain: Any = Plain(net)
    else:
        loaded = load(folder, variant, device).net
        assert loaded is not None
        net, chain = loaded, Ours(loaded)
    seconds: dict[str, float] = {}
    with torch.inference_mode():
        frames = noisy.shape[-1] // net.hop
        prior = noise_field("prior", 64, [0], frames, seed=0).to(device)
        noise = noise_field("vocoder", 128, [0], frames + 10, seed=0).to(device)
        mel = net.normalise(normalise_peak(noisy))[..., :frames]
        denoised = timed(seconds, "denoiser", lambda: chain.denoise(noisy))
        start = timed(seconds, "encoder", lambda: chain.start(mel, prior))
        guide = net.normalise(denoised)[..., :frames]
        few = 4
        latent = timed(seconds, "velocity field", lambda: chain.sample(start, guide, few))
        seconds["velocity field"] /= few
        features = timed(seconds, "decoder", lambda: chain.decode(latent))
        timed(seconds, "vocoder", lambda: chain.vocode(features, noise))

        def everything(nfe: int) -> Tensor:
            mel = net.normalise(normalise_peak(noisy))[..., :frames]
            guide = net.normalise(chain.denoise(noisy))[..., :frames]
            latent = chain.sample(chain.start(mel, prior), guide, nfe)
            return chain.vocode(chain.decode(latent), noise)  # type: ignore[no-any-return]

        whole: dict[str, float] = {}
        output = timed(whole, "64", lambda: everything(64), repeats=1, warm=False)
        np.save(folder / f"{variant}.npy", output[0].float().cpu().numpy())
        for nfe in FEWER:
            whole[str(nfe)] = whole["64"] - (64 - nfe) * seconds["velocity field"]
        batches = measure_batches(net, device) if variant.startswith("bf16") else {}
    return {
        "peak_mb": peak_mb(device),
        "rtf": {name: value / length for name, value in seconds.items()},
        "whole": {nfe: value / length for nfe, value in whole.items()},
        "batches": batches,
        "roof_gflops": roof(torch.bfloat16 if variant.startswith("bf16") else torch.float32, device),
    }


def load(folder: Path, variant: str, device: torch.device) -> Enhancer:
    """Ours, as ``variant`` says."""
    precision, _, compiled = variant.partition("-")
    return Enhancer.load(
        folder / "model",
        device=str(device),
        precision=precision,  # type: ignore[arg-type]
        compiled=bool(compiled),
    )


def measure_batches(net: EnhancerNet, device: torch.device) -> dict[int, float]:
    """Seconds per second of audio with several segments at once."""
    rtf = {}
    for rows in BATCHES[device.type]:
        noisy = speech(BATCH_SECONDS).to(device).expand(rows, -1).contiguous()
        times: dict[str, float] = {}
        timed(times, "batch", lambda noisy=noisy: net(noisy, EnhanceOptions(nfe=BATCH_NFE)), repeats=1)
        rtf[rows] = times["batch"] / (rows * BATCH_SECONDS)
    return rtf


class Plain:
    """The chain of plain.py."""

    def __init__(self, net: EnhancerNet) -> None:
        self.net = net

    def denoise(self, noisy: Tensor) -> Tensor:
        return plain.denoise(self.net, noisy)

    def start(self, mel: Tensor, prior: Tensor) -> Tensor:
        return 0.5 * prior + 0.5 * plain.encode(self.net, mel)

    def sample(self, start: Tensor, mel: Tensor, nfe: int) -> Tensor:
        return plain.sample(self.net, start, mel, nfe)

    def decode(self, latent: Tensor) -> Tensor:
        return plain.decode(self.net, latent)

    def vocode(self, features: Tensor, noise: Tensor) -> Tensor:
        return plain.vocode(self.net, features, noise)


class Ours:
    """The chain of an `EnhancerNet`."""

    def __init__(self, net: EnhancerNet) -> None:
        self.net = net

    def denoise(self, noisy: Tensor) -> Tensor:
        return self.net.denoised(noisy)

    def start(self, mel: Tensor, prior: Tensor) -> Tensor:
        return self.net.start(mel, prior, 0.5)

    def sample(self, start: Tensor, mel: Tensor, nfe: int) -> Tensor:
        return self.net.flow.sample(start, mel, solver="midpoint", nfe=nfe)

    def decode(self, latent: Tensor) -> Tensor:
        return self.net.autoencoder.decode(latent / self.net.config.latent_scale)

    def vocode(self, features: Tensor, noise: Tensor) -> Tensor:
        return self.net.vocoder(features, noise)  # type: ignore[no-any-return]


def measure_stream(folder: Path, variant: str, length: float, device: torch.device) -> dict[str, Any]:
    """Peak memory of a recording of this length through the pipeline, in blocks of a second."""
    engine = load(folder, variant, device)
    second = speech(1.0)[:, :MODEL_RATE]
    blocks = (second for _ in range(round(length)))
    started = time.perf_counter()
    samples = sum(
        block.shape[-1] for block in engine.enhance_stream(blocks, MODEL_RATE, 1, EnhanceOptions(nfe=1))
    )
    assert samples == round(length) * MODEL_RATE
    return {"peak_mb": peak_mb(device), "rtf": (time.perf_counter() - started) / length}


def peak_mb(device: torch.device) -> float:
    """Most memory that the process had, or of a GPU, that its tensors had there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(
    seconds: dict[str, float], name: str, run: Callable[[], Tensor], repeats: int = 2, *, warm: bool = True
) -> Tensor:
    """Run, and note the best of ``repeats`` times after one that does not count."""
    if warm:
        run()
    times = []
    for _ in range(repeats):
        synchronize()
        started = time.perf_counter()
        output = run()
        synchronize()
        times.append(time.perf_counter() - started)
    seconds[name] = min(times)
    return output


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def roof(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of a plain matrix product."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device).to(dtype)
    times: dict[str, float] = {}
    timed(times, "roof", lambda: a @ a, repeats=10)
    return 2 * size**3 / times["roof"] / 1e9


def describe(device: str) -> str:
    """Name of the processor."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "a CPU")


def show(variant: str, result: dict[str, Any]) -> None:
    rtf, top = result["rtf"], result["roof_gflops"]
    print(f"{variant}: peak {result['peak_mb']:.0f} MB, a plain product reaches {top:.0f} GFLOP/s")
    for name, gflop in GFLOP_PER_SECOND.items():
        speed = gflop / rtf[name]
        print(f"  {name:20} RTF {rtf[name]:7.4f} {speed:8.0f} GFLOP/s, {speed / top:4.0%} of that")
    print(
        "  whole chain: " + ", ".join(f"nfe {nfe} RTF {value:.3f}" for nfe, value in result["whole"].items())
    )
    if result["batches"]:
        values = ", ".join(f"{rows} at once RTF {value:.3f}" for rows, value in result["batches"].items())
        print(f"  segments of {BATCH_SECONDS} s, nfe {BATCH_NFE}: {values}", flush=True)


def compare(results: dict[str, Any], folder: Path) -> None:
    """Ratios to plain float32, and distances of the outputs."""
    exact = np.load(folder / "plain.npy")
    base = results["plain"]
    print(f"times plain:         {' '.join(f'{name:>15}' for name in GFLOP_PER_SECOND)}      whole, nfe 64")
    for variant in VARIANTS[1:]:
        if variant not in results:
            continue
        result, output = results[variant], np.load(folder / f"{variant}.npy")
        ratios = {name: base["rtf"][name] / result["rtf"][name] for name in GFLOP_PER_SECOND}
        ratios["whole"] = base["whole"]["64"] / result["whole"]["64"]
        difference = output - exact
        result["times_plain"] = ratios
        result["to_plain"] = {
            "lsd": metrics.lsd(output, exact, MODEL_RATE),
            "signal_to_difference_db": float(10 * np.log10(np.sum(exact**2) / np.sum(difference**2))),
        }
        print(
            f"  {variant:18} {' '.join(f'{value:15.2f}' for value in ratios.values())}   {result['to_plain']}"
        )


def save_full_size_model(folder: Path) -> None:
    """The original's sizes with weights from the formula of the parity fixtures, as a model folder."""
    net = full_size_net()
    config = ModelConfig(kind="enhancer", denoiser=net.denoiser.config, enhancer=net.config)
    checkpoint.save(folder, config, net.state_dict(), half=True)


def full_size_net() -> EnhancerNet:
    """The original's sizes with weights from the formula of the parity fixtures."""
    spec = json.loads((ROOT / "tests/golden/specs.json").read_text())["full_enhancer"]
    tensors = {}
    for key, shape, mean, std in spec["tensors"]:
        if std is not None:
            generator = np.random.default_rng(zlib.crc32(key.encode()))
            values = mean + std * generator.standard_normal(tuple(shape), np.float32)
            tensors[key] = torch.from_numpy(np.asarray(values, np.float32))
    net = EnhancerNet()
    net.load_state_dict(resemble.to_ours(tensors), strict=False, assign=True)
    return net.eval()


def speech(seconds: float) -> Tensor:
    """The clean samples, over and over, with as many samples as the pipeline gives a segment."""
    parts = [
        soundfile.read(path, dtype="float32")[0] for path in sorted((ROOT / "samples/clean").glob("*.flac"))
    ]
    samples = int(seconds * MODEL_RATE)
    return torch.from_numpy(np.pad(np.resize(np.concatenate(parts), samples), (0, 441)))[None]


if __name__ == "__main__":
    sys.exit(main())
