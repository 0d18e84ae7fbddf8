"""What the enhancer costs at full size: a segment of 30 s part by part, and memory over long recordings.

    python benchmarks/enhancer.py [--seconds 30] [--threads 2] [--long 600 --long-precision bf16]

Each precision runs in a process of its own, so that its peak memory is its own. Weights are synthetic (the
formula of tests/golden/specs.json): costs do not depend on them, and the outputs of both precisions are
compared. The velocity field is timed for four evaluations. Prints seconds per second of audio, GFLOP/s
over what a plain matrix product of the same type reaches in the same run, and the distance of bf16 to
fp32. With --long, the pipeline also streams a recording of so many seconds with one evaluation a segment,
and its peak memory is set beside that of 30 s. The last line is JSON.
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
import soundfile
import torch
from torch import Tensor

from enhance_ray import checkpoint, metrics, resemble
from enhance_ray.checkpoint import ModelConfig
from enhance_ray.models.enhancer import EnhancerNet
from enhance_ray.models.noise import noise_field
from enhance_ray.options import MODEL_RATE, EnhanceOptions
from enhance_ray.pipeline import Enhancer

ROOT = Path(__file__).parents[1]
GFLOP_PER_SECOND = {
    "denoiser": 43.99,
    "encoder": 10.67,
    "velocity field, one evaluation": 14.06,
    "decoder": 10.65,
    "vocoder": 102.1,
}
"""Of one second of audio (spec 9.3); what is computed once here and not each time is counted all the same."""
EVALUATIONS_TIMED = 4


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of the segment (default: 30)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--long", type=float, help="seconds of a recording for the peak of memory")
    parser.add_argument("--long-precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.task:
        task, folder, precision = arguments.task
        run = {"parts": measure_parts, "stream": measure_stream}[task]
        print(json.dumps(run(Path(folder), precision, arguments.seconds)))
        return 0
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_full_size_model(Path(folder) / "model")
        for precision in ("fp32", "bf16"):
            results[precision] = in_new_process("parts", folder, precision, arguments, arguments.seconds)
            show(precision, results[precision])
        exact, rounded = (np.load(Path(folder) / f"{p}.npy") for p in ("fp32", "bf16"))
        difference = rounded - exact
        results["bf16 to fp32"] = {
            "largest_difference": float(np.abs(difference).max()),
            "lsd": metrics.lsd(rounded, exact, MODEL_RATE),
            "signal_to_difference_db": float(10 * np.log10(np.sum(exact**2) / np.sum(difference**2))),
        }
        print(f"bf16 to fp32: {results['bf16 to fp32']}")
        if arguments.long:
            peaks = {
                seconds: in_new_process("stream", folder, arguments.long_precision, arguments, seconds)
                for seconds in (30.0, arguments.long)
            }
            results["stream"] = {"precision": arguments.long_precision, **peaks}
            for seconds, result in peaks.items():
                print(f"{arguments.long_precision}, {seconds:g} s through the pipeline: {result}")
            ratio = peaks[arguments.long]["peak_mb"] / peaks[30.0]["peak_mb"]
            print(f"peak of {arguments.long:g} s over that of 30 s: {ratio:.3f}")
    print(json.dumps(results))
    return 0


def in_new_process(
    task: str, folder: str, precision: str, arguments: argparse.Namespace, seconds: float
) -> dict[str, Any]:
    command = [sys.executable, __file__, "--threads", str(arguments.threads), "--seconds", str(seconds)]
    done = subprocess.run(
        [*command, "--task", task, folder, precision], check=True, stdout=subprocess.PIPE, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_parts(folder: Path, precision: Any, length: float) -> dict[str, Any]:
    """Time every part on one segment, then run the whole of it once, with four evaluations."""
    started = time.perf_counter()
    net = Enhancer.load(folder / "model", device="cpu", precision=precision).net
    assert net is not None
    loading = time.perf_counter() - started
    noisy = speech(length)
    seconds: dict[str, float] = {}
    with torch.inference_mode():
        mel = net.normalise(noisy)
        frames = mel.shape[-1]
        prior = noise_field("prior", 64, [0], frames, seed=0)
        noise = noise_field("vocoder", 128, [0], frames + 10, seed=0)
        conditioning = timed(seconds, "denoiser", lambda: net.conditioning(net.denoised(noisy), mel, 1.0))
        start = timed(seconds, "encoder", lambda: net.start(mel, prior, 0.5))

        def sample() -> Tensor:
            return net.flow.sample(start, conditioning, solver="midpoint", nfe=EVALUATIONS_TIMED)

        latent = timed(seconds, "velocity field, one evaluation", sample)
        seconds["velocity field, one evaluation"] /= EVALUATIONS_TIMED
        features = timed(seconds, "decoder", lambda: net.autoencoder.decode(latent / 6))
        output = timed(seconds, "vocoder", lambda: net.vocoder(features, noise))
        del conditioning, start, latent, features, output
        options = EnhanceOptions(nfe=EVALUATIONS_TIMED)
        whole = timed(seconds, "whole chain", lambda: net(noisy, options), repeats=1)
    np.save(folder / f"{precision}.npy", whole[0].numpy())
    return {
        "loading_seconds": loading,
        "peak_mb": peak_mb(),
        "rtf": {name: value / length for name, value in seconds.items()},
        "roof_gflops": roof(torch.bfloat16 if precision == "bf16" else torch.float32),
    }


def measure_stream(folder: Path, precision: Any, length: float) -> dict[str, Any]:
    """Peak memory of a recording of this length through the pipeline, in blocks of a second."""
    engine = Enhancer.load(folder / "model", device="cpu", precision=precision)
    second = speech(1.0)[:, :MODEL_RATE]
    blocks = (second for _ in range(round(length)))
    started = time.perf_counter()
    samples = sum(
        block.shape[-1] for block in engine.enhance_stream(blocks, MODEL_RATE, 1, EnhanceOptions(nfe=1))
    )
    assert samples == round(length) * MODEL_RATE
    return {"peak_mb": peak_mb(), "rtf": (time.perf_counter() - started) / length}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(seconds: dict[str, float], name: str, run: Callable[[], Tensor], repeats: int = 2) -> Tensor:
    """Run, and note the best of ``repeats`` times."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        output = run()
        times.append(time.perf_counter() - started)
    seconds[name] = min(times)
    return output


def roof(dtype: torch.dtype) -> float:
    """GFLOP/s of a plain matrix product."""
    a = torch.randn(2048, 2048).to(dtype)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(times) / 1e9


def show(precision: str, result: dict[str, Any]) -> None:
    rtf, roof_gflops = result["rtf"], result["roof_gflops"]
    print(
        f"{precision}: peak {result['peak_mb']:.0f} MB, loaded in {result['loading_seconds']:.1f} s, "
        f"a plain product reaches {roof_gflops:.0f} GFLOP/s"
    )
    for name, gflop in GFLOP_PER_SECOND.items():
        speed = gflop / rtf[name]
        print(f"  {name:32} RTF {rtf[name]:7.4f} {speed:8.0f} GFLOP/s, {speed / roof_gflops:4.0%} of that")
    evaluation = rtf["velocity field, one evaluation"]
    others = sum(rtf[name] for name in GFLOP_PER_SECOND) - evaluation
    for nfe in (64, 32, 16, 4, 1):
        print(f"  {'whole chain, nfe ' + str(nfe):32} RTF {others + nfe * evaluation:7.3f}")


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
